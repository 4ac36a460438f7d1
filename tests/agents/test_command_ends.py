"""Laws of how a program's run ends: whatever happened, nobody of its group is left, and no file.

Time stands still unless a test moves it: what a program does is waited for, never its time limits.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
import uvloop
from structlog.testing import capture_logs

from gateway.agents.asked import NOTHING_ASKED
from gateway.agents.base import TextDelta
from gateway.agents.command import TIMED_OUT
from gateway.agents.command_process import GRACE_S, MAX_NOTED_BYTES, MAX_NOTED_LINES
from gateway.clock import FakeClock, SystemClock
from gateway.errors import AgentError, AgentFailure
from gateway.model import Role
from tests.support.command_programs.playing import (
    GOOD,
    PATIENCE_S,
    Run,
    Talk,
    agent_of,
    answered,
    children,
    descriptors,
    failed,
    is_running,
    pass_time,
    until,
    user,
)
from tests.support.toolbox import CALLER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.agents.command import CommandAgent
    from gateway.model import Message

DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
"""Makes a program, and those it starts, not hear SIGTERM."""
CHILD = """
def child(code):
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", code]).pid
"""
SLEEP = "import time; time.sleep(600)"
PATIENT = {"timeout_s": 86_400.0, "idle_timeout_s": 86_400.0}


@pytest.fixture(autouse=True)
def before() -> Iterator[set[int]]:
    """Hold every test of this module to the law that its docstring names; give who was there.

    What tests of others have left unreaped in this process may go at any time.
    """
    uvloop.new_event_loop().close()  # the first one of a process opens a pipe for good
    earlier, open_before = children(), descriptors()
    yield earlier
    assert children() <= earlier
    assert not [
        place
        for number, place in descriptors().items()
        if number not in open_before and place.startswith(("pipe:", "anon_inode:[pidfd]"))
    ]


async def _works_again(agent: CommandAgent) -> None:
    """Hold an agent to the law that each turn is a new beginning."""
    assert (await answered(agent, user("fine"))).text == "fine"


def _either(code: str) -> str:
    """Return a program that answers where it is told `fine`, and else does something."""
    return f"""
if turn()["messages"][-1]["text"] == "fine":
    {GOOD}
    sys.exit()
{code}
"""


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("say('text', text='a'); time.sleep(600)", id="silence"),
        pytest.param("os.close(2); say('text', text='a'); time.sleep(600)", id="no-stderr"),
        pytest.param(
            "say('text', text='a')\nwhile True: os.write(2, b'x'); time.sleep(0.001)",
            id="stderr-is-no-answer",
        ),
        # In one piece, so that nothing comes after what the test waits for.
        pytest.param(
            """os.write(1, b'{"type":"text","text":"a"}\\n{'); time.sleep(600)""", id="half-a-line"
        ),
    ],
)
async def test_silence_ends_the_turn(code: str, before: set[int]) -> None:
    clock, result = FakeClock(), Run()
    agent = agent_of(_either(code), clock)
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(result.follow, agent)
            await result.begun.wait()
            await clock.advance(59.9)
            assert children() - before
            await clock.advance(0.1)

    assert result.error is not None
    assert "was silent for 60 s" in str(result.error)
    assert (result.error.user_text, result.error.failure) == (TIMED_OUT, AgentFailure.OUTAGE)
    await _works_again(agent)


async def test_an_answer_that_goes_on_is_ended_at_its_deadline(tmp_path: Path) -> None:
    clock, result = FakeClock(), Run()
    code = """
say("text", text="a")
while not os.path.exists("further"):
    time.sleep(0.001)
say("text", text="b")
time.sleep(600)
"""
    agent = agent_of(_either(code), clock, timeout_s=100.0, cwd=str(tmp_path))
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(result.follow, agent)
            await result.begun.wait()
            await clock.advance(59)
            (tmp_path / "further").touch()
            await until(lambda: result.deltas == ["a", "b"])
            await clock.advance(40)
            assert result.error is None
            await clock.advance(1)

    assert result.error is not None
    assert "had not answered within 100 s" in str(result.error)
    assert (result.error.user_text, result.error.failure) == (TIMED_OUT, AgentFailure.OUTAGE)
    await _works_again(agent)


async def test_a_program_that_does_not_hear_sigterm_is_killed_after_the_grace(
    before: set[int],
) -> None:
    clock, result = FakeClock(), Run()
    agent = agent_of(_either(f"{DEAF} {GOOD}\ntime.sleep(600)"), clock)
    with capture_logs() as logs, anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(result.follow, agent)
            await until(lambda: len(result.messages) == 1)
            await clock.advance(GRACE_S - 0.1)
            assert children() - before
            await clock.advance(0.1)

    assert result.text == "fine"
    assert [line["event"] for line in logs] == ["agent.program_killed"]
    await _works_again(agent)


async def test_a_program_that_hears_sigterm_may_tidy_up() -> None:
    code = """
def tidy(*_):
    sys.stderr.write("tidy\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, tidy)
say("text", text="x"); say("done")
time.sleep(600)
"""
    with capture_logs() as logs:
        await answered(agent_of(code))

    assert [line["line"] for line in logs] == ["tidy"]


@pytest.mark.parametrize("deaf", ["", DEAF])
@pytest.mark.parametrize("last", ["say('done'); time.sleep(600)", "say('done')", "sys.exit(1)", ""])
async def test_nobody_of_the_group_survives(last: str, deaf: str) -> None:
    # The grandchild holds the output open, so that its end is not the program's.
    code = f"{CHILD}\n{deaf}\nsay('text', text=str(child({SLEEP!r})))\n{last}"
    clock, result = FakeClock(), Run()
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(result.follow, agent_of(code, clock, **PATIENT))
            await pass_time(clock, lambda: result.ended)

    await until(lambda: not is_running(int(result.deltas[0])))
    assert (result.error is None) == ("done" in last)


async def test_who_left_the_group_keeps_neither_the_turn_nor_a_file_open() -> None:
    code = f"""
pid = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True).pid
say("text", text=str(pid))
say("done")
"""
    answer = await answered(agent_of(code))
    stranger = int(answer.text)

    assert is_running(stranger)
    os.kill(stranger, 9)
    await until(lambda: not is_running(stranger))


async def test_an_answer_is_read_to_its_end_although_the_program_is_gone() -> None:
    code = "say('text', text='x' * 40_000); say('text', text='y'); say('done'); os._exit(0)"

    assert (await answered(agent_of(code))).text == "x" * 40_000 + "y"


async def test_a_program_that_closed_its_output_and_goes_on_is_no_answer() -> None:
    clock, result = FakeClock(), Run()
    code = "say('text', text='x'); os.close(1); time.sleep(600)"
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(result.follow, agent_of(code, clock, **PATIENT))
            await pass_time(clock, lambda: result.ended)

    assert result.error is not None
    assert "closed its output before its answer was whole" in str(result.error)
    assert result.error.failure is AgentFailure.OTHER


@pytest.mark.parametrize("rounds", range(12))
async def test_a_turn_may_be_cancelled_while_the_program_starts(rounds: int) -> None:
    agent, result = agent_of(_either("time.sleep(600)")), Run()
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(result.follow, agent)
            for _ in range(rounds):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    assert result.events == []
    await _works_again(agent)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("time.sleep(600)", id="silent"),
        pytest.param("while True: say('text', text='x')", id="speaking"),
        pytest.param("say('tool_call', id='1', name='t'); time.sleep(600)", id="in-a-tool"),
        pytest.param("os.close(1); time.sleep(600)", id="closed"),
        pytest.param("say('done'); time.sleep(600)", id="done"),
    ],
)
async def test_a_turn_may_be_cancelled_while_the_program_runs(code: str) -> None:
    agent, result = agent_of(_either(f"say('text', text='x')\n{code}")), Run()
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(result.follow, agent)
            await result.begun.wait()
            await SystemClock().sleep(0.01)
            tasks.cancel_scope.cancel()

    await _works_again(agent)


@pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_what_it_told_of_its_tools_before_a_deadline_is_kept(uvloop: bool) -> None:  # noqa: FBT001 - a column
    code = """
say("text", text="I look. ")
say("tool_call", id="a", name="look", arguments={"at": 1})
say("tool_call", id="b", name="look")
say("tool_result", id="a", text="seen")
say("text", text="And")
time.sleep(600)
"""
    clock, result = FakeClock(), Run()

    async def cut_off() -> bool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_pass_once, clock, result, "I look. And")
            with clock.move_on_after(30) as deadline:
                await result.follow(agent_of(code, clock))
        return deadline.cancelled_caught

    assert anyio.run(cut_off, backend_options={"use_uvloop": uvloop})
    asked, seen = result.messages
    assert (asked.role, asked.text) == (Role.ASSISTANT, "I look. And")
    assert [(call.call_id, call.arguments) for call in asked.tool_calls] == [
        ("a", '{"at":1}'),
        ("b", "{}"),
    ]
    assert (seen.role, seen.tool_call_id, seen.text) == (Role.TOOL, "a", "seen")


async def _pass_once(clock: FakeClock, result: Run, text: str) -> None:
    """Let half a minute pass once so much was said."""
    await until(lambda: "".join(result.deltas) == text)
    await clock.advance(30)


async def test_a_program_is_a_child_of_the_thread_that_lasts() -> None:
    """The kernel kills it once the thread that started it has ended: a worker's end comes early."""
    thread = threading.get_native_id()
    before = _children_of(thread)
    events = agent_of("say('text', text=str(os.getpid())); time.sleep(600)").run(Talk([user("hi")]))
    first = await anext(events)

    assert isinstance(first, TextDelta)
    assert _children_of(thread) - before == {int(first.text)}
    await events.aclose()


def _children_of(thread: int) -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{thread}/children").read_text().split()))


async def test_a_turn_may_be_cancelled_while_its_conversation_goes_in() -> None:
    result = Run()
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            code = "say('text', text='x'); time.sleep(600)"
            tasks.start_soon(result.follow, agent_of(code), user("x" * 10_000_000))
            await result.begun.wait()
            tasks.cancel_scope.cancel()


async def test_a_turn_cancelled_while_its_program_ends_waits_for_that_end(before: set[int]) -> None:
    clock, result = FakeClock(), Run()
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            code = f"{DEAF} {GOOD}\ntime.sleep(600)"
            tasks.start_soon(result.follow, agent_of(code, clock))
            await until(lambda: len(result.messages) == 1)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await clock.advance(GRACE_S / 2)
                assert children() - before
                await clock.advance(GRACE_S / 2)


async def test_so_many_run_at_once_and_the_others_wait(before: set[int]) -> None:
    code = "say('text', text='x'); sys.stdin.read(); time.sleep(600)"
    clock, runs = FakeClock(), [Run() for _ in range(5)]
    agent = agent_of(code, clock, max_parallel=2)
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            for result in runs:
                tasks.start_soon(result.follow, agent)
            await until(lambda: sum(result.begun.is_set() for result in runs) == 2)
            await anyio.wait_all_tasks_blocked()
            assert len(children() - before) == 2
            await clock.advance(60)
            await until(lambda: sum(result.begun.is_set() for result in runs) == 4)
            assert sum(result.error is not None for result in runs) == 2
            tasks.cancel_scope.cancel()

    await _works_again(agent_of(_either("")))


async def test_who_waits_may_be_cancelled_and_takes_no_place() -> None:
    agent = agent_of(_either("say('text', text='x'); time.sleep(600)"), max_parallel=1)
    first, second = Run(), Run()
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.follow, agent)
            await first.begun.wait()
            tasks.start_soon(second.follow, agent)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    assert second.events == []
    await _works_again(agent)


async def test_a_conversation_that_cannot_be_had_starts_nothing() -> None:
    class Refused:
        cache_key, spent_tokens, steps_before, caller = "", 0, 0, CALLER
        asked_for = NOTHING_ASKED

        async def messages(self) -> list[Message]:
            raise AgentError("too long")

        def returned(self, message: object) -> None:
            raise NotImplementedError(message)

        async def approve(self, call: object) -> bool:
            raise NotImplementedError(call)

    agent = agent_of(GOOD, max_parallel=1)
    for _ in range(2):
        with pytest.raises(AgentError, match="too long"):
            await anext(agent.run(Refused()))
    await _works_again(agent)


async def test_a_reader_that_stops_early_ends_the_program(before: set[int]) -> None:
    result = Run()
    agent = agent_of("say('text', text='x'); time.sleep(600)")
    events = agent.run(Talk([user("hi")]))
    result.events.append(await anext(events))
    assert children() - before
    await events.aclose()

    assert result.deltas == ["x"]


async def test_fifty_turns_in_a_row_leave_nothing() -> None:
    agent = agent_of(_either("say('text', text='x'); sys.exit(1)"))
    before = len(descriptors())
    for _ in range(25):
        await _works_again(agent)
        await failed(agent)

    assert len(descriptors()) <= before + 4  # the event loop's own


async def test_what_a_program_notes_goes_to_the_log_at_debug_within_bounds() -> None:
    code = """
os.write(2, b"one\\n\\n  \\ntwo \\xff\\n" + b"x" * 5_000 + b"\\n")
sys.stderr.write("canary\\n" * 5_000)
os.write(2, b"last")
sys.exit(1)
"""
    with capture_logs() as logs:
        error = await failed(agent_of(code))

    lines = [line["line"] for line in logs]
    assert lines[:4] == ["one", "two \ufffd", "x" * MAX_NOTED_BYTES, "canary"]
    assert len(lines) == MAX_NOTED_LINES
    assert {(line["event"], line["log_level"]) for line in logs} == {
        ("agent.program_said", "debug")
    }
    assert "canary" not in repr(error)


async def test_the_last_words_of_a_crash_are_noted() -> None:
    with capture_logs() as logs:
        await failed(agent_of("raise ValueError('why')"))

    assert logs[-1]["line"] == "ValueError: why"


async def test_a_program_that_cannot_be_watched_is_ended_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(_pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refused)
    error = await failed(agent_of("time.sleep(600)"))

    assert "cannot be started (Too many open files)" in str(error)
    assert error.failure is AgentFailure.OUTAGE
