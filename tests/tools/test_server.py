"""Laws of keeping a server running, and of calls while it does not."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.clock import FakeClock
from gateway.model import ToolResult
from gateway.tools.connection import (
    BrokenCallError,
    CallError,
    Outcome,
    SessionEndedError,
)
from gateway.tools.server import (
    LONGEST_PAUSE_S,
    LOOK_PAUSE_S,
    LOOK_TIMEOUT_S,
    SHORTEST_PAUSE_S,
    WAIT_S,
    McpServer,
    ServerState,
    pause_s,
)
from tests.tools.fakes import FakeServer, target, tool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

BROKE_OFF = "The tool server fake broke off the call: "
NOT_KNOWN = "Whether the tool did its work is not known."
NOT_BEGUN = "The call waited 5 seconds for its turn at the tool server fake and was not begun."
NOT_RUNNING = "The tool server fake is not running. Please try again later."


@asynccontextmanager
async def running(
    fake: FakeServer,
    clock: FakeClock,
    *,
    share: float = 0.0,
    **settings: Any,  # noqa: ANN401 - of any key
) -> AsyncGenerator[McpServer]:
    """Run a server, whose pauses are as short as `share` makes them."""
    server = McpServer(target(**settings), fake.connect, clock, lambda: share)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run)
            await clock.advance(0)
            yield server
            tasks.cancel_scope.cancel()


def lose(fake: FakeServer, reason: str = "it ended") -> None:
    assert fake.watch is not None
    fake.watch.end(reason)


async def test_a_server_tells_its_tools_and_runs_them() -> None:
    fake, clock = FakeServer([tool("b"), tool("a")]), FakeClock()
    async with running(fake, clock) as server:
        result = await server.call("a", {"x": 1})
        told = server.statistics()

    assert result == ToolResult("a {'x': 1}")
    assert server.tools == (tool("a"), tool("b"))
    assert (told.state, told.tools, told.calls, told.failures) == (ServerState.RUNNING, 2, 1, 0)
    assert (told.restarts, told.last_error, told.since) == (0, "", clock.now())


async def test_a_lost_server_is_started_again_after_a_pause_and_its_tools_stay() -> None:
    fake, clock = FakeServer(), FakeClock()
    async with running(fake, clock) as server:
        before = server.tools
        with capture_logs() as logs:
            lose(fake, "it ended with status 3")
            await clock.advance(SHORTEST_PAUSE_S * 0.9)
            told, tools = server.statistics(), server.tools
            await clock.advance(SHORTEST_PAUSE_S * 0.1)
        after = server.statistics()

    assert told.state is ServerState.BACKING_OFF
    assert told.last_error == "it ended with status 3"
    assert tools is before
    assert server.tools is before
    assert (after.state, after.restarts, len(fake.starts)) == (ServerState.RUNNING, 1, 2)
    assert [line["event"] for line in logs] == ["tools.server_lost", "tools.server_started"]
    assert logs[0]["reason"] == "it ended with status 3"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(OSError(2, "No such file"), "FileNotFoundError: [Errno 2]", id="os"),
        pytest.param(
            ExceptionGroup("a", [ExceptionGroup("b", [ValueError("inner")])]),
            "ValueError: inner",
            id="group",
        ),
        pytest.param(CallError("The tool server answered an error: no"), "no", id="listing"),
        pytest.param(RuntimeError("x" * 900), "RuntimeError: xxx", id="long"),
    ],
)
async def test_a_server_that_does_not_start_is_tried_again(error: Exception, reason: str) -> None:
    fake, clock = FakeServer(refuses=[error]), FakeClock()
    with capture_logs() as logs:
        async with running(fake, clock) as server:
            first = server.statistics()
            assert server.settled.is_set()
            await clock.advance(SHORTEST_PAUSE_S)
            second = server.statistics()

    assert first.state is ServerState.BACKING_OFF
    assert reason in first.last_error
    assert len(first.last_error) <= 200
    assert second.state is ServerState.RUNNING
    assert [line["event"] for line in logs] == ["tools.server_failed", "tools.server_started"]


@pytest.mark.parametrize("steps", range(10))
async def test_a_call_that_comes_as_another_breaks_off_waits_for_the_server_to_be_looked_at(
    steps: int,
) -> None:
    gate, clock = anyio.Event(), FakeClock()
    fake = FakeServer(call_gate=gate, answers=[BrokenCallError("it is gone")])
    results: list[str] = []

    async def call() -> None:
        results.append((await server.call("echo", {})).text)

    async with running(fake, clock) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await clock.advance(0)
        tasks.start_soon(call)
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        gate.set()

    assert sorted(results) == [f"{BROKE_OFF}it is gone. {NOT_KNOWN}", "echo {}"]


async def test_a_server_that_does_not_start_in_time_is_stopped() -> None:
    fake, clock = FakeServer(start_gate=anyio.Event()), FakeClock()
    async with running(fake, clock, start_timeout_s=4.0) as server:
        await clock.advance(3.9)
        early = server.statistics()
        settled = server.settled.is_set()
        await clock.advance(0.1)
        late = server.statistics()

    assert (early.state, settled) == (ServerState.STARTING, False)
    assert late.state is ServerState.BACKING_OFF
    assert late.last_error == "it did not start within 4 seconds"
    assert server.settled.is_set()


async def test_the_time_to_start_includes_the_first_listing() -> None:
    fake, clock = FakeServer(list_gate=anyio.Event()), FakeClock()
    async with running(fake, clock, start_timeout_s=4.0) as server:
        await clock.advance(4)

        assert server.statistics().last_error == "it did not start within 4 seconds"


async def test_the_time_to_start_ends_with_the_start() -> None:
    fake, clock = FakeServer(), FakeClock()
    async with running(fake, clock, start_timeout_s=4.0) as server:
        await clock.advance(400)

        assert server.statistics().restarts == 0


async def test_each_start_that_fails_tries_the_other_handshake() -> None:
    fake = FakeServer(refuses=[OSError(), OSError(), OSError(), None, None])
    clock = FakeClock()
    async with running(fake, clock):
        await clock.advance(30)
        lose(fake)
        await clock.advance(30)

    assert fake.starts == [False, True, False, True, True]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_a_pause_is_never_shorter_or_longer_than_its_bounds(failures: int, share: float) -> None:
    assert SHORTEST_PAUSE_S <= pause_s(failures, share) <= LONGEST_PAUSE_S
    assert pause_s(failures, share) <= pause_s(failures + 1, share)


def test_pauses_double_and_differ() -> None:
    assert [pause_s(failures, 1.0) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [pause_s(failures, 0.0) for failures in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


async def test_a_server_that_ran_for_a_minute_starts_with_the_shortest_pause() -> None:
    fake, clock = FakeServer(), FakeClock()
    async with running(fake, clock, share=1.0) as server:
        for _ in range(3):
            lose(fake)
            await clock.advance(20)
        lose(fake)
        await clock.advance(7.9)
        assert server.statistics().state is ServerState.BACKING_OFF
        await clock.advance(0.1 + 60)
        lose(fake)
        await clock.advance(1)

        assert server.statistics().state is ServerState.RUNNING


async def test_a_call_waits_for_a_server_that_is_about_to_be_back() -> None:
    fake, clock = FakeServer(), FakeClock()
    async with running(fake, clock) as server, anyio.create_task_group() as tasks:
        lose(fake)
        await clock.advance(0)
        tasks.start_soon(clock.advance, SHORTEST_PAUSE_S)
        result = await server.call("echo", {})

    assert result.text == "echo {}"
    assert server.statistics().failures == 0


async def test_a_call_to_a_server_that_will_be_away_for_long_fails_at_once() -> None:
    fake, clock = FakeServer(), FakeClock()
    async with running(fake, clock, share=1.0) as server:
        fake.refuses = [OSError()] * 9
        lose(fake)
        await clock.advance(20)
        result = await server.call("echo", {})
        told = server.statistics()

    assert result == ToolResult(NOT_RUNNING)
    assert (told.calls, told.failures, told.timeouts) == (1, 1, 0)


async def test_a_call_waits_no_longer_than_a_short_while() -> None:
    fake, clock = FakeServer(), FakeClock()
    async with running(fake, clock, start_timeout_s=100.0) as server:
        lose(fake)
        fake.start_gate = anyio.Event()
        await clock.advance(SHORTEST_PAUSE_S)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.advance, WAIT_S)
            result = await server.call("echo", {})

    assert result.text == NOT_RUNNING


async def test_a_call_that_takes_too_long_is_cancelled_and_says_how_long_it_was_waited_for() -> (
    None
):
    fake, clock = FakeServer(call_gate=anyio.Event()), FakeClock()
    async with running(fake, clock, call_timeout_s=7.5) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.advance, 7.5)
            result = await server.call("echo", {})
        told = server.statistics()

    assert "no answer within 7.5 seconds" in result.text
    assert fake.cancelled == 1
    assert (told.failures, told.timeouts) == (1, 1)


async def test_a_server_that_answers_after_a_call_that_did_not_stays() -> None:
    fake, clock = FakeServer(call_gate=anyio.Event()), FakeClock()
    async with running(fake, clock, call_timeout_s=1.0) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.advance, 1)
            await server.call("echo", {})
        fake.call_gate = None

        assert (await server.call("echo", {})).text == "echo {}"
        assert fake.listings == 2
        assert server.statistics().restarts == 0


async def test_a_server_that_answers_no_more_is_started_again_and_later_calls_wait_for_it() -> None:
    fake, clock = FakeServer(call_gate=anyio.Event()), FakeClock()
    async with running(fake, clock, call_timeout_s=20.0) as server:
        fake.list_gate = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.advance, 20)
            await server.call("echo", {})
        # It is asked for its tools now; what is asked after that will be answered.
        fake.call_gate = fake.list_gate = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.advance, LOOK_TIMEOUT_S + SHORTEST_PAUSE_S)
            result = await server.call("echo", {})

    assert result.text == "echo {}"
    assert server.statistics().last_error == "it did not answer within 3 seconds"
    assert len(fake.starts) == 2


async def test_cancelling_a_call_reaches_the_tool_and_frees_its_place() -> None:
    fake, clock = FakeServer(call_gate=anyio.Event()), FakeClock()
    async with running(fake, clock, max_parallel=1) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.call, "echo", {})
            await clock.advance(0)
            tasks.cancel_scope.cancel()
        assert fake.cancelled == 1
        fake.call_gate = None

        assert (await server.call("echo", {})).text == "echo {}"


async def test_so_many_calls_run_at_once_and_the_others_wait() -> None:
    fake, clock = FakeServer(call_gate=anyio.Event()), FakeClock()
    async with running(fake, clock, max_parallel=3) as server, anyio.create_task_group() as tasks:
        for _ in range(7):
            tasks.start_soon(server.call, "echo", {})
        await clock.advance(0)
        assert fake.running == 3
        assert fake.call_gate is not None
        fake.call_gate.set()

    assert fake.most_running == 3
    assert server.statistics().calls == 7


async def test_a_call_that_gets_no_place_in_time_is_told_as_not_begun() -> None:
    fake, clock = FakeServer(call_gate=anyio.Event()), FakeClock()
    results: list[str] = []

    async def call() -> None:
        results.append((await server.call("echo", {})).text)

    async with (
        running(fake, clock, max_parallel=1, call_timeout_s=5.0) as server,
        anyio.create_task_group() as tasks,
    ):
        fake.list_gate = anyio.Event()
        for _ in range(3):
            tasks.start_soon(call)
        await clock.advance(5)
        told = server.statistics()

    begun = f"The tool gave no answer within 5 seconds; the call was cancelled. {NOT_KNOWN}"
    assert sorted(results) == [NOT_BEGUN, NOT_BEGUN, begun]
    assert (told.calls, told.failures, told.timeouts, fake.cancelled) == (3, 3, 1, 1)


async def test_a_call_that_waits_too_long_for_the_server_was_not_begun_and_is_no_fault_of_it() -> (
    None
):
    fake, clock = FakeServer(), FakeClock()
    async with running(fake, clock, call_timeout_s=5.0) as server:
        lose(fake)
        fake.list_gate = anyio.Event()
        await clock.advance(SHORTEST_PAUSE_S)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.advance, 5)
            result = await server.call("echo", {})
        told = server.statistics()

    assert result.text == NOT_BEGUN
    assert (told.failures, told.timeouts, told.state) == (1, 0, ServerState.STARTING)


async def test_a_call_that_a_server_has_forgotten_and_does_not_get_again_was_not_begun() -> None:
    fake, clock = FakeServer(answers=[SessionEndedError("forgotten")]), FakeClock()
    async with running(fake, clock, call_timeout_s=5.0) as server:
        fake.start_gate = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.advance, 5)
            result = await server.call("echo", {})
        told = server.statistics()

    assert (result.text, told.timeouts) == (NOT_BEGUN, 0)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        pytest.param(CallError("It said no."), "It said no.", id="error"),
        pytest.param(Outcome(ToolResult("bad"), failed=True), "bad", id="error-of-the-tool"),
        pytest.param(
            BrokenCallError("the connection was closed"),
            "The tool server fake broke off the call: the connection was closed. "
            "Whether the tool did its work is not known.",
            id="broken",
        ),
        pytest.param(
            RecursionError("canary"), "The result cannot be shown: RecursionError.", id="unforeseen"
        ),
    ],
)
async def test_a_failure_is_a_result_that_says_so_and_is_counted(
    answer: Outcome | Exception, text: str
) -> None:
    fake, clock = FakeServer(answers=[answer]), FakeClock()
    async with running(fake, clock) as server:
        result = await server.call("echo", {})
        again = await server.call("echo", {})

    assert result.text == text
    assert again.text == "echo {}"
    assert server.statistics().failures == 1


async def test_a_call_that_broke_off_tells_why_the_server_was_lost() -> None:
    fake, clock = FakeServer(call_gate=anyio.Event()), FakeClock()
    fake.answers = [BrokenCallError("Connection closed")]
    async with running(fake, clock) as server, anyio.create_task_group() as tasks:
        results: list[ToolResult] = []

        async def call() -> None:
            results.append(await server.call("echo", {}))

        tasks.start_soon(call)
        await clock.advance(0)
        lose(fake, "it ended with status 3")
        assert fake.call_gate is not None
        fake.call_gate.set()

    assert "broke off the call: it ended with status 3." in results[0].text


async def test_a_server_that_forgot_the_session_is_connected_to_anew_and_asked_again() -> None:
    fake, clock = FakeServer(answers=[SessionEndedError("it ended the session")]), FakeClock()
    async with running(fake, clock) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(clock.advance, SHORTEST_PAUSE_S)
        result = await server.call("echo", {})

    assert result.text == "echo {}"
    assert len(fake.starts) == 2
    assert server.statistics().last_error == "it ended the session"


async def test_a_server_that_forgets_each_session_is_not_asked_for_ever() -> None:
    fake, clock = FakeServer(), FakeClock()
    fake.answers = [SessionEndedError("it ended the session")] * 9
    async with running(fake, clock) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(clock.advance, 5)
        result = await server.call("echo", {})

    assert result.text == NOT_RUNNING
    assert len(fake.answers) == 7


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"text": "\ud800"}, "The arguments cannot be sent"),
        ({"text": "x" * 70_000}, "The arguments are longer than 65,536 bytes."),
        ({"text": object()}, "The arguments cannot be sent"),
    ],
)
async def test_arguments_that_cannot_be_sent_never_reach_the_server(
    arguments: dict[str, Any], problem: str
) -> None:
    fake, clock = FakeServer(), FakeClock()
    async with running(fake, clock, max_message_bytes=65_536) as server:
        result = await server.call("echo", arguments)

    assert result.text.startswith(problem)
    assert fake.most_running == 0
    assert server.statistics().failures == 1


async def test_tools_that_change_are_listed_again() -> None:
    fake, clock = FakeServer(), FakeClock()
    async with running(fake, clock) as server:
        before = server.tools
        assert fake.watch is not None
        fake.watch.look()
        await clock.advance(LOOK_PAUSE_S)
        assert server.tools is before
        fake.tools = [tool("echo"), tool("more")]
        fake.watch.look()
        await clock.advance(LOOK_PAUSE_S)

        assert [one.name for one in server.tools] == ["echo", "more"]
        assert server.statistics().tools == 2


async def test_a_server_that_always_tells_of_changes_is_listed_at_its_pace_of_ours() -> None:
    fake, clock = FakeServer(), FakeClock()
    async with running(fake, clock):
        for _ in range(100):
            assert fake.watch is not None
            fake.watch.look()
            await clock.advance(0.05)

    assert 5 <= fake.listings <= 7


async def test_a_listing_that_fails_keeps_the_tools_and_the_server() -> None:
    fake, clock = FakeServer(), FakeClock()
    async with running(fake, clock) as server:
        assert fake.watch is not None
        fake.listing_fails = [CallError("The tool server answered an error: busy")]
        with capture_logs() as logs:
            fake.watch.look()
            await clock.advance(LOOK_PAUSE_S)
        result = await server.call("echo", {})

    assert [line["event"] for line in logs] == ["tools.listing_failed"]
    assert len(server.tools) == 1
    assert result.text == "echo {}"
    assert server.statistics().restarts == 0


@pytest.mark.parametrize("error", [BrokenCallError("closed"), SessionEndedError("forgotten")])
async def test_a_listing_that_finds_the_connection_broken_restarts_the_server(
    error: CallError,
) -> None:
    fake, clock = FakeServer(), FakeClock()
    async with running(fake, clock) as server:
        assert fake.watch is not None
        fake.listing_fails = [error]
        fake.watch.look()
        await clock.advance(SHORTEST_PAUSE_S)

        assert server.statistics().last_error == str(error)
        assert server.statistics().restarts == 1


async def test_a_slow_server_may_be_as_slow_later() -> None:
    fake, clock = FakeServer(list_gate=anyio.Event()), FakeClock()
    async with running(fake, clock, start_timeout_s=30.0, call_timeout_s=1.0) as server:
        await clock.advance(2)
        assert fake.list_gate is not None
        fake.list_gate.set()
        await clock.advance(0)
        fake.list_gate, fake.call_gate = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.advance, 1)
            await server.call("echo", {})
        await clock.advance(5.9)
        assert server.statistics().restarts == 0
        fake.list_gate.set()
        await clock.advance(10)

        assert server.statistics().restarts == 0
