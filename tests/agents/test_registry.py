"""Laws of building and closing the configured agents."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from pydantic import TypeAdapter

from gateway.agents.registry import open_agents
from gateway.agents.settings import (
    AgentSettings,
    AnthropicSettings,
    EchoSettings,
    OpenAISettings,
    ScriptedSettings,
)
from gateway.clock import FakeClock
from gateway.errors import AgentError, ConfigurationError
from gateway.model import AgentId
from gateway.settings import SecretSource
from tests.agents.events import run_agent, user
from tests.agents.test_loop_wires import find
from tests.agents.wire_server import text_answer, wire_server
from tests.support.toolbox import TestToolbox
from tests.support.upstream import upstream

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.agents.settings import AgentToolSettings


async def test_every_kind_is_built_and_runs() -> None:
    async with (
        wire_server(text_answer("from afar")) as server,
        upstream(FakeClock()) as fake,
        open_agents(
            {
                "main": EchoSettings(reserve_tokens=7),
                "play": ScriptedSettings(replies=["line one"], context_window_tokens=99_000),
                "model": OpenAISettings(model="wire", base_url=server.base_url),
                "claude": AnthropicSettings(model="wire", base_url=fake.url),
            },
            FakeClock(),
        ) as agents,
    ):
        answers = {
            name: (await run_agent(agent, [user("hi")])).text for name, agent in agents.items()
        }

    assert answers == {"main": "hi", "play": "line one", "model": "from afar", "claude": "pong"}
    assert [agent.facts().overhead_chars for agent in agents.values()] == [0, 0, 0, 0]
    assert [agent.facts().completes for agent in agents.values()] == [False, True, True, True]
    assert agents[AgentId("main")].facts().reserve_tokens == 7
    assert agents[AgentId("play")].facts().window_tokens == 99_000
    assert agents[AgentId("model")].facts().model == "wire"


async def test_every_agent_with_a_model_gets_the_toolbox_of_its_own_settings() -> None:
    asked: list[AgentToolSettings] = []

    def toolbox_for(settings: AgentToolSettings) -> TestToolbox:
        asked.append(settings)
        return TestToolbox(dict.fromkeys(settings.allow, find))

    async with upstream(FakeClock()) as fake:
        endpoint = {"model": "wire", "base_url": fake.url}
        tables = {
            "main": {"kind": "echo"},
            "play": {"kind": "scripted", "replies": ["!call a", "done"], "tools": {"allow": ["a"]}},
            "claude": {"kind": "anthropic", **endpoint, "tools": {"allow": ["b"]}},
            "gpt": {"kind": "openai", **endpoint, "base_url": f"{fake.url}/v1"},
        }
        adapter: TypeAdapter[AgentSettings] = TypeAdapter(AgentSettings)
        settings = {name: adapter.validate_python(table) for name, table in tables.items()}
        async with open_agents(settings, FakeClock(), toolbox_for) as agents:
            runs = {name: await run_agent(agent, [user("hi")]) for name, agent in agents.items()}
            facts = {name: agent.facts() for name, agent in agents.items()}

    assert [one.allow for one in asked] == [["a"], ["b"], []]
    assert [message.text for message in runs[AgentId("play")].messages] == ["", "found ", "done"]
    assert ["tools" in request.json for request in fake.requests] == [True, False]
    assert facts[AgentId("claude")].overhead_chars > facts[AgentId("gpt")].overhead_chars == 0


async def test_an_agent_is_given_no_tools_where_there_are_none() -> None:
    table = {"kind": "scripted", "replies": ["!call a"], "tools": {"allow": ["*"]}}
    async with open_agents({"a": ScriptedSettings.model_validate(table)}, FakeClock()) as agents:
        with pytest.raises(AgentError, match="not offered"):
            await run_agent(agents[AgentId("a")], [user("hi")])


async def test_all_bad_secrets_are_told_at_once_and_none_is_shown(tmp_path: Path) -> None:
    def settings(secret: str | None) -> OpenAISettings | AnthropicSettings:
        path = tmp_path / str(secret)[:4]
        if secret is not None:
            path.write_text(secret)
        kind = AnthropicSettings if secret == "canary…" else OpenAISettings
        return kind(model="m", api_key=SecretSource(file=str(path)))

    keys = {"a": None, "b": "changeme", "c": "canary one", "d": "canary…", "e": "canary\ntwo"}
    with pytest.raises(ConfigurationError) as caught:
        async with open_agents({name: settings(key) for name, key in keys.items()}, FakeClock()):
            pass

    places = [problem.partition(": ")[0] for problem in caught.value.problems]
    assert places == [f"agents.{name}.api_key" for name in keys]
    assert "canary" not in "".join(caught.value.problems).replace(str(tmp_path), "")


async def test_an_agent_is_unusable_once_the_registry_is_closed() -> None:
    async with upstream(FakeClock()) as fake:
        settings: dict[str, AgentSettings] = {
            "gpt": OpenAISettings(model="wire", base_url=f"{fake.url}/v1", max_retries=0),
            "claude": AnthropicSettings(model="wire", base_url=fake.url, max_retries=0),
        }
        async with open_agents(settings, FakeClock()) as agents:
            held = list(agents.values())
        for agent in held:
            # One SDK tells its own mistakes as failures of the connection.
            with pytest.raises((RuntimeError, AgentError), match="closed"):
                await run_agent(agent, [user("hi")])


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def test_an_sdk_is_not_imported_before_an_agent_needs_it() -> None:
    done = _python(
        "import sys, gateway.agents.registry\n"
        "print({'anthropic', 'openai', 'httpx2'} & set(sys.modules))"
    )

    assert (done.stdout, done.returncode) == ("set()\n", 0), done.stderr


def test_one_vendors_agent_loads_no_other_vendors_sdk() -> None:
    done = _python(
        """
import sys
import anyio
from gateway.agents.registry import open_agents
from gateway.agents.settings import AnthropicSettings
from gateway.clock import SystemClock

async def main():
    settings = AnthropicSettings(model="m", base_url="http://127.0.0.1:1")
    async with open_agents({"claude": settings}, SystemClock()):
        print({"anthropic", "openai"} & set(sys.modules))

anyio.run(main)
"""
    )

    assert (done.stdout, done.returncode) == ("{'anthropic'}\n", 0), done.stderr


@pytest.mark.parametrize(
    ("vendor", "settings"), [("openai", "OpenAISettings"), ("anthropic", "AnthropicSettings")]
)
def test_a_missing_extra_is_told_with_the_command_that_installs_it(
    vendor: str, settings: str
) -> None:
    done = _python(
        f"""
import sys
sys.modules["{vendor}"] = None
import anyio
from gateway.agents.registry import open_agents
from gateway.agents.settings import EchoSettings, {settings}
from gateway.clock import SystemClock
from gateway.errors import ConfigurationError

async def main():
    settings = {settings}(model="m", base_url="http://127.0.0.1:1")
    try:
        async with open_agents({{"main": EchoSettings(), "far": settings}}, SystemClock()):
            pass
    except ConfigurationError as exc:
        print(exc)

anyio.run(main)
"""
    )

    assert done.stdout.startswith("agents.far.kind: "), done.stderr
    assert f"pip install '.[{vendor}]' in the checkout" in done.stdout
