"""Laws of the tool `process`: what a model may do, and what it never sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from gateway.clock import FakeClock
from gateway.processes.tool import MAX_LOG_CHARS, ProcessTool
from tests.processes.running import PATIENCE_S, WAITS, Running, caller, python, running_registry

if TYPE_CHECKING:
    from pathlib import Path

ERROR = "[The tool reports an error.]\n"


async def call(running: Running, chat: str = "alice", **arguments: Any) -> str:  # noqa: ANN401 - as models send them
    result = await ProcessTool(running.registry).call(caller(chat), arguments)
    assert result.images == ()
    return result.text


async def started(running: Running, command: object, chat: str = "alice") -> str:
    text = await call(running, chat, action="start", command=command)
    assert text.startswith("Started as p-"), text
    return text.removeprefix("Started as ").partition(".")[0]


async def test_a_process_from_its_start_to_its_end(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as running:
        process_id = await started(running, ["cat"])
        assert await call(running, action="poll", process_id=process_id) == "running\n[no output]"
        written = await call(running, action="write", process_id=process_id, text="one\n")
        assert written == "Written."
        await running.output_has(process_id, "one")
        shown = await call(running, action="log", process_id=process_id)
        assert shown == "running\none\n"
        assert await call(running, action="list") == f"{process_id}: running: cat"
        ended = await call(running, action="write", process_id=process_id, end_input=True)
        assert ended == "Written; its input ends there."
        await running.told_of(process_id)

        shown = await call(running, action="poll", process_id=process_id)
        assert shown == "ended, exit status 0\none\n"


async def test_stopping_tells_how_it_ended(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state", clock=FakeClock()) as running:
        process_id = await started(running, list(WAITS))
        stopped = await call(running, action="stop", process_id=process_id)
        assert stopped == "stopped, by signal 15"
        again = await call(running, action="stop", process_id=process_id)
        assert again == f"{ERROR}The process has ended."


async def test_another_sessions_processes_are_not_there(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as running:
        process_id = await started(running, ["cat"])
        for arguments in (
            {"action": "poll"},
            {"action": "log"},
            {"action": "write", "text": "x"},
            {"action": "stop"},
        ):
            told = await call(running, "bob", process_id=process_id, **arguments)
            nothing = await call(running, "bob", process_id="p-0000000000", **arguments)
            assert told == nothing == f"{ERROR}There is no process with this id."
        assert await call(running, "bob", action="list") == "No processes."
        assert await call(running, action="poll", process_id=process_id) == "running\n[no output]"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param({}, "action: accepted is one of start, poll,", id="no-action"),
        pytest.param({"action": ["start"]}, "action: accepted is one of", id="no-text"),
        pytest.param(
            {"action": "start"}, "command: accepted is a list of strings", id="no-command"
        ),
        pytest.param({"action": "start", "command": []}, "command: accepted", id="empty"),
        pytest.param({"action": "start", "command": [1]}, "command: accepted", id="numbers"),
        pytest.param({"action": "start", "command": {}}, "command: accepted", id="an-object"),
        pytest.param({"action": "start", "command": "ls"}, "No shell is configured", id="text"),
        pytest.param(
            {"action": "start", "command": ["x" * 40_000]}, "up to 32768 characters", id="too-long"
        ),
        pytest.param(
            {"action": "start", "command": ["no-such-program"]},
            "could not be started: no-such-program: No such file",
            id="not-there",
        ),
        pytest.param({"action": "poll"}, "process_id: accepted is a string", id="no-id"),
        pytest.param(
            {"action": "list", "process_id": "x"}, "'process_id' is not for list", id="foreign"
        ),
        pytest.param({"action": "write", "process_id": "x"}, "text: accepted is", id="nothing"),
        pytest.param(
            {"action": "log", "process_id": "x", "max_chars": True},
            "max_chars: accepted",
            id="bool",
        ),
        pytest.param(
            {"action": "log", "process_id": "x", "max_chars": 0}, "max_chars: accepted", id="zero"
        ),
    ],
)
async def test_a_wrong_call_is_a_result_that_says_what_is_accepted(
    tmp_path: Path, arguments: dict[str, Any], problem: str
) -> None:
    async with running_registry(tmp_path / "state") as running:
        told = await call(running, **arguments)

    assert told.startswith(ERROR)
    assert problem in told


async def test_a_limit_is_a_result(tmp_path: Path) -> None:
    settings = {"max_running": 1, "max_running_per_session": 1}
    async with running_registry(tmp_path / "state", settings=settings) as running:
        await started(running, list(WAITS))
        told = await call(running, action="start", command=list(WAITS))

    problem = "1 of the 1 processes that this session may have run; stop one."
    assert told == f"{ERROR}{problem}"


async def test_of_long_output_the_end_is_shown_and_that_is_said(tmp_path: Path) -> None:
    script = "for n in range(100000): print('line', n)"
    async with running_registry(tmp_path / "state") as running:
        running.refuse = True  # so that its files stay
        process_id = await started(running, python(script))
        with anyio.fail_after(PATIENCE_S):
            while not running.registry.unreported():
                await anyio.lowlevel.checkpoint()
        shown = await call(running, action="log", process_id=process_id)
        short = await call(running, action="log", process_id=process_id, max_chars=30)
        running.refuse = False

    state, note, first, *_ = shown.splitlines()
    assert state == "ended, exit status 0"
    assert note == "[the end of 1088890 bytes of output]"
    assert first.startswith("line ")
    assert shown.endswith("line 99999\n")
    assert MAX_LOG_CHARS - 100 < len(shown) < MAX_LOG_CHARS + 100
    assert short.endswith("]\nline 99998\nline 99999\n")


async def test_what_steers_a_terminal_is_not_shown(tmp_path: Path) -> None:
    script = r"import os; os.write(1, b'\x1b[31mred\x1b[0m\x07\x00 \xff\n10%\r100%\n')"
    async with running_registry(tmp_path / "state") as running:
        process_id = await started(running, python(script))
        await running.told_of(process_id)
        shown = await call(running, action="log", process_id=process_id)

    assert shown == "ended, exit status 0\nred \ufffd\n100%\n"


async def test_output_is_never_missing_while_its_files_are_deleted(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as running:
        process_id = await started(running, ["echo", "hello"])
        shown = ""
        while not running.told or running.registry.unreported():
            shown = await call(running, action="log", process_id=process_id)
            assert shown.startswith("running\n") or shown.endswith("\nhello\n")
        assert (await call(running, action="log", process_id=process_id)).endswith("\nhello\n")


@pytest.mark.parametrize("shell", [[], ["/bin/sh", "-c"]], ids=["no-shell", "shell"])
async def test_a_model_is_told_what_it_may_give(tmp_path: Path, shell: list[str]) -> None:
    async with running_registry(tmp_path / "state", settings={"shell": shell}) as running:
        spec = ProcessTool(running.registry).spec()

    assert spec.name == "process"
    command = spec.schema["properties"]["command"]
    assert ("anyOf" in command) == bool(shell)
    assert spec.schema["properties"]["action"]["enum"] == [
        *("start", "poll", "log", "write", "stop", "list")
    ]


@pytest.mark.parametrize(
    ("report", "said", "described"),
    [
        ("turn", "You will be told when it ends.", "ends, you are told"),
        (
            "message",
            "The user will be told when it ends; you see it with poll.",
            "the user is told",
        ),
    ],
)
async def test_a_model_is_promised_only_what_comes(
    tmp_path: Path, report: str, said: str, described: str
) -> None:
    async with running_registry(tmp_path / "state", settings={"report": report}) as running:
        text = await call(running, action="start", command=["true"])
        spec = ProcessTool(running.registry).spec()

    assert text.endswith(f". {said}")
    assert described in spec.description


async def test_output_that_cannot_be_shown_is_not_called_none(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "state") as running:
        process_id = await started(running, ["printf", "\\033[m"])
        await running.told_of(process_id)
        shown = await call(running, action="poll", process_id=process_id)

    assert shown == "ended, exit status 0\n[no output that can be shown]"
