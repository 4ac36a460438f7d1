"""Laws of what an agent is given of the tools there are."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from structlog.testing import capture_logs

from gateway.clock import FakeClock
from gateway.errors import ConfigurationError
from gateway.model import ToolResult
from gateway.settings import SecretSource
from gateway.tools.server import LOOK_PAUSE_S, McpServer, ServerState
from gateway.tools.settings import McpServerSettings, ToolsSettings
from gateway.tools.toolbox import READY_WAIT_S, McpServers, open_servers
from tests.support.toolbox import CALLER
from tests.tools.fakes import Choice, FakeServer, target, tool
from tests.tools.running import until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from gateway.agents.tools import Toolbox


def servers_with(**names: list[str]) -> McpServers:
    """Return servers that have these tools and do not run."""
    made = []
    for server, tools in names.items():
        one = McpServer(target(server), FakeServer().connect, FakeClock())
        one.tools = tuple(tool(name, f"does {name}") for name in tools)
        made.append(one)
    return McpServers(made)


def offered(servers: McpServers, choice: Choice) -> list[str]:
    return [spec.name for spec in servers.toolbox_for(choice).specs()]


FILES_AND_WEB = {"files": ["read", "write", "rm"], "web": ["get", "Post"]}


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        pytest.param(Choice(allow=()), [], id="nothing-was-given"),
        pytest.param(Choice(allow=(), deny=("x",)), [], id="deny-gives-nothing"),
        pytest.param(
            Choice(),
            ["files_read", "files_rm", "files_write", "web_Post", "web_get"],
            id="all-by-name",
        ),
        pytest.param(Choice(allow=("files_r*",)), ["files_read", "files_rm"], id="pattern"),
        pytest.param(Choice(allow=("FILES_R?",)), ["files_rm"], id="any-case"),
        pytest.param(Choice(allow=("web_post",)), ["web_Post"], id="any-case-of-the-tool"),
        pytest.param(Choice(deny=("files_*",)), ["web_Post", "web_get"], id="deny-wins"),
        pytest.param(
            Choice(allow=("files_read",), deny=("FILES_READ",)), [], id="deny-wins-in-any-case"
        ),
        pytest.param(Choice(allow=("read", "files")), [], id="not-a-part-of-the-name"),
    ],
)
def test_an_agent_is_offered_what_it_was_given(choice: Choice, names: list[str]) -> None:
    assert offered(servers_with(**FILES_AND_WEB), choice) == names


def test_a_spec_says_what_the_server_says() -> None:
    (spec,) = servers_with(files=["read"]).toolbox_for(Choice()).specs()

    assert (spec.name, spec.description) == ("files_read", "does read")
    assert spec.schema == {"type": "object", "properties": {}}


def test_specs_stay_the_same_until_tools_change() -> None:
    servers = servers_with(**FILES_AND_WEB)
    box = servers.toolbox_for(Choice(allow=("web_*",)))
    before = box.specs()
    assert box.specs() is before

    (_, web) = servers
    web.tools = (*web.tools, tool("more"))

    assert [spec.name for spec in box.specs()] == ["web_Post", "web_get", "web_more"]


def test_a_tool_that_stands_twice_in_a_listing_is_offered_once_as_it_came_first() -> None:
    server = McpServer(target("files"), FakeServer().connect, FakeClock())
    server.tools = (tool("read", "first"), tool("read", "second"))

    assert [spec.description for spec in McpServers([server]).toolbox_for(Choice()).specs()] == [
        "first"
    ]


def test_a_new_tool_that_takes_a_name_opens_no_door() -> None:
    choice = Choice(deny=("files_a_b",), ask=("files_c_d",))
    alone = servers_with(files=["a.b", "c.d"]).toolbox_for(choice)
    beside = servers_with(files=["a.b", "a_b", "c.d", "c_d"]).toolbox_for(choice)

    assert [spec.name for spec in alone.specs()] == ["files_c_d"]
    names = [spec.name for spec in beside.specs()]
    assert len(names) == 2
    assert all(name.startswith("files_c_d") and beside.needs_approval(name) for name in names)


def test_a_pattern_may_name_a_tool_as_its_server_does() -> None:
    servers = servers_with(files=["a.b"])

    assert offered(servers, Choice(allow=("files_a.b",))) == ["files_a_b"]
    assert offered(servers, Choice(deny=("files_a.*",))) == []


def test_what_ask_names_needs_a_yes() -> None:
    box = servers_with(**FILES_AND_WEB).toolbox_for(Choice(ask=("files_r*", "other_*")))
    asks = {spec.name: box.needs_approval(spec.name) for spec in box.specs()}

    assert asks == {
        "files_read": True,
        "files_rm": True,
        "files_write": False,
        "web_Post": False,
        "web_get": False,
    }
    assert box.needs_approval("other_tool")
    assert not box.needs_approval("made_up")


async def test_a_call_reaches_the_tool_by_its_own_name() -> None:
    fake, clock = FakeServer([tool("Files.Read")]), FakeClock()
    server = McpServer(target("files"), fake.connect, clock)
    box = McpServers([server]).toolbox_for(Choice(allow=("files_*",)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run)
        await clock.advance(0)
        result = await box.call("files_Files_Read", {"path": "x"}, caller=CALLER)
        tasks.cancel_scope.cancel()

    assert result == ToolResult("Files.Read {'path': 'x'}")


@pytest.mark.parametrize("name", ["web_get", "files_nothing", "", "files_rm", "\u202e" * 500])
async def test_a_tool_that_was_not_given_cannot_be_called(name: str) -> None:
    box = servers_with(**FILES_AND_WEB).toolbox_for(Choice(allow=("files_*",), deny=("files_rm",)))
    result = await box.call(name, {}, caller=CALLER)

    assert result.text.startswith("There is no tool named ")
    assert len(result.text) < 160


def test_it_is_a_toolbox_of_an_agent() -> None:
    box: Toolbox = servers_with().toolbox_for(Choice())

    assert list(box.specs()) == []


async def test_without_servers_nothing_runs_and_the_sdk_is_not_needed() -> None:
    async with open_servers(ToolsSettings(), FakeClock()) as servers:
        assert list(servers) == []
        assert servers.statistics() == ()


async def test_all_bad_secrets_are_told_at_once_and_none_is_shown(tmp_path: Path) -> None:
    secrets: dict[str, str] = {
        "a": "canary\ntwo",
        "b": "changeme",
        "c": "canary\u00e9",
        "d": "fine",
    }
    sources = {}
    for name, secret in secrets.items():
        (tmp_path / name).write_text(secret)
        sources[name] = SecretSource(file=str(tmp_path / name))
    settings = ToolsSettings(
        servers={
            "web": McpServerSettings(url="http://127.0.0.1:1/", headers=sources),
            "run": McpServerSettings(command=["x"], secret_env={"B": sources["b"]}),
        }
    )
    with pytest.raises(ConfigurationError) as caught:
        async with open_servers(settings, FakeClock()):
            pass

    problems = caught.value.problems
    assert [problem.partition(": ")[0] for problem in problems] == [
        "tools.servers.web.headers.a",
        "tools.servers.web.headers.b",
        "tools.servers.web.headers.c",
        "tools.servers.run.secret_env.B",
    ]
    assert "canary" not in "".join(problems).replace(str(tmp_path), "")


def test_a_target_never_shows_its_secrets() -> None:
    made = target()
    shown = repr(type(made)("x", made.settings, {"A": "canary"}, {"B": "canary"}))

    assert "canary" not in shown


def test_nothing_imports_the_sdk_before_a_server_is_configured() -> None:
    code = (
        "import sys, gateway.tools.toolbox, gateway.config, gateway.daemon\n"
        "print(sorted({'mcp', 'mcp_types', 'jsonschema'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_missing_sdk_is_told_with_the_command_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['mcp'] = None\n"
        "import anyio\n"
        "from gateway.clock import SystemClock\n"
        "from gateway.errors import ConfigurationError\n"
        "from gateway.tools.settings import McpServerSettings, ToolsSettings\n"
        "from gateway.tools.toolbox import open_servers\n"
        "async def main():\n"
        "    servers = {'a': McpServerSettings(command=['x'])}\n"
        "    async with open_servers(ToolsSettings(servers=servers), SystemClock()): pass\n"
        "try: anyio.run(main)\n"
        "except ConfigurationError as error: print(*error.problems, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("tools.servers: the mcp SDK cannot be imported (")
    assert done.stdout.strip().endswith("in the checkout of session-gateway brings it")


async def test_a_silent_server_is_waited_for_a_short_while_and_named() -> None:
    silent = ["/bin/sh", "-c", "cat > /dev/null"]
    table = {"command": silent, "start_timeout_s": 300.0}
    settings = ToolsSettings.model_validate({"servers": {"a": table, "b": {"command": ["/no"]}}})
    clock = FakeClock()
    came_up: list[float] = []

    async def come_up() -> None:
        async with open_servers(settings, clock) as servers:
            came_up.append(clock.monotonic())
            states.extend(one.state for one in servers.statistics())

    states: list[ServerState] = []
    began = clock.monotonic()
    with capture_logs() as logs, anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(come_up)
            await until(lambda: "tools.server_failed" in [line["event"] for line in logs])
            await clock.advance(READY_WAIT_S - 0.1)
            assert came_up == []
            await clock.advance(0.1)
            await until(lambda: came_up)

    assert came_up == [began + READY_WAIT_S]
    assert states[0] is ServerState.STARTING
    assert [line for line in logs if line["event"] == "tools.still_starting"] == [
        {
            "event": "tools.still_starting",
            "log_level": "warning",
            "servers": ["a"],
            "waited_s": READY_WAIT_S,
        }
    ]


async def test_the_tools_of_a_server_that_comes_later_are_offered_then() -> None:
    fake, clock = FakeServer([tool("read")], start_gate=anyio.Event()), FakeClock()
    server = McpServer(target("files", start_timeout_s=60.0), fake.connect, clock)
    servers = McpServers([server])
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run)
            tasks.start_soon(clock.advance, READY_WAIT_S)
            await servers.settle(clock)
            box = servers.toolbox_for(Choice())
            before = list(box.specs())
            assert fake.start_gate is not None
            fake.start_gate.set()
            await clock.advance(0)
            after = [spec.name for spec in box.specs()]
            tasks.cancel_scope.cancel()

    assert (before, after) == ([], ["files_read"])


def _unused(logs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    found = [line for line in logs if line["event"] == "tools.pattern_unused"]
    return [(line["list"], line["pattern"]) for line in found]


async def test_patterns_that_match_no_tool_are_told_once_all_servers_are_up_and_once() -> None:
    files = FakeServer([tool("read.me"), tool("write")])
    web = FakeServer([tool("get")], start_gate=anyio.Event())
    clock = FakeClock()
    made = [
        McpServer(target("files"), files.connect, clock),
        McpServer(target("web"), web.connect, clock),
    ]
    servers = McpServers(made)
    one = Choice(
        allow=("FILES_*", "web_get", "webget"),
        deny=("files_read.me", "files_rm"),
        ask=("files_read_me", "*_post", "files_rm"),
    )
    async with anyio.create_task_group() as tasks:
        with capture_logs() as logs:
            for server in made:
                tasks.start_soon(server.run)
            tasks.start_soon(servers.tell_unused_patterns)
            servers.toolbox_for(one)
            servers.toolbox_for(Choice(allow=("webget",)))
            await clock.advance(0)
            assert _unused(logs) == []
            assert web.start_gate is not None
            web.start_gate.set()
            await clock.advance(0)
            told = _unused(logs)
            files.tools.pop()
            assert files.watch is not None
            files.watch.look()
            await clock.advance(LOOK_PAUSE_S)
            servers.toolbox_for(Choice(allow=("webget", "late_*")))
        tasks.cancel_scope.cancel()

    assert told == [
        ("allow", "webget"),
        ("deny", "files_rm"),
        ("ask", "*_post"),
        ("ask", "files_rm"),
    ]
    assert _unused(logs) == [*told, ("allow", "late_*")]


def test_where_there_is_no_server_every_pattern_is_told() -> None:
    with capture_logs() as logs:
        McpServers(()).toolbox_for(Choice(allow=("files_*",)))

    assert _unused(logs) == [("allow", "files_*")]


async def test_it_comes_up_although_no_server_does_and_tries_them_again() -> None:
    settings: dict[str, Any] = {"command": ["/no/such/program"], "start_timeout_s": 5.0}
    clock = FakeClock()
    with capture_logs() as logs, anyio.fail_after(60):
        async with open_servers(
            ToolsSettings.model_validate({"servers": {"a": settings, "b": settings}}), clock
        ) as servers:
            told = servers.statistics()

    assert [one.state for one in told] == [ServerState.BACKING_OFF] * 2
    assert [one.server for one in told] == ["a", "b"]
    assert all("FileNotFoundError" in one.last_error for one in told)
    assert [line["event"] for line in logs] == ["tools.server_failed"] * 2
