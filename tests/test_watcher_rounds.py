"""Laws of the size after a pruning round: turns and watcher are wired as the daemon wires them."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
from typing_extensions import override

from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.clock import FakeClock
from gateway.context.estimate import estimate_context_chars
from gateway.model import ContextSource, Message, ModelCall, Role, ToolCall, Usage
from gateway.watcher import RETRY_S, ExpiryWatcher, RetentionLimits
from tests.support.state import key_of, open_state
from tests.support.turns import Bench, PlayedAgent, full_disk, running_turns
from tests.support.watching import Discard, measured

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from anyio.abc import TaskGroup

    from gateway.agents.base import AgentEvent, AgentFacts
    from gateway.durable.batch import Transaction
    from gateway.sessions.entry import SessionEntry
    from gateway.turns.ticket import Reply

TTL_S = 300
RESULT = "x" * 16_000


@dataclass
class Provider:
    """Answers `read` with a tool result, and counts what it is sent."""

    clock: FakeClock
    amid: Callable[[], Awaitable[object]] = anyio.lowlevel.checkpoint
    """Done while it answers `cold`: after the round, before the turn's commit."""
    counted: list[int] = field(default_factory=list)

    async def play(self, messages: Sequence[Message]) -> AsyncGenerator[AgentEvent]:
        sent, text, started_at = list(messages), messages[-1].text, self.clock.now()
        if text == "cold":
            await self.amid()
        if text == "read":
            call = ToolCall("call", "read_file", "{}")
            result = Message(Role.TOOL, RESULT, tool_call_id="call", tool_name="read_file")
            for message in (Message(Role.ASSISTANT, "", (call,)), result):
                sent.append(message)
                yield MessageFinished(message)
        self.counted.append(estimate_context_chars(sent) // 4 + 700)
        yield TextDelta("ok")
        yield ModelCallFinished(ModelCall("played", started_at, Usage(self.counted[-1], 1)))
        yield MessageFinished(Message(Role.ASSISTANT, "ok"))


class HeldAgent(PlayedAgent):
    """Holds the database's writer from the first time that it is asked about itself."""

    hold: Callable[[], None] | None = None

    @override
    def facts(self) -> AgentFacts:
        hold, self.hold = self.hold, None
        if hold is not None:
            hold()
        return super().facts()


@dataclass(frozen=True, slots=True)
class Wired:
    """Running turns, and the watcher that their contexts post to."""

    bench: Bench
    watcher: ExpiryWatcher
    provider: Provider
    agent: HeldAgent

    async def read_ten(self) -> None:
        """Make a session of ten tool results that are due to be pruned, its cache run out."""
        for _ in range(10):
            await self.bench.say("read")
        await self.bench.clock.advance(TTL_S)

    async def until(self, holds: Callable[[], bool]) -> None:
        with anyio.fail_after(30):
            while not holds():
                await anyio.lowlevel.checkpoint()

    async def keep_waiting(self) -> None:
        """Let a write of the watcher's fail: until it is tried again, measurements wait."""
        await self.bench.say("hello", "bob")
        bob = self.bench.entry("bob")

        def failures() -> int:
            return self.watcher.statistics().failures.get("context", 0)

        async with full_disk(self.bench.state.database):
            for step in range(1, 100):
                self.watcher.post_context(
                    bob.session_key, bob.session_id, measured(step, bob.context_step + step)
                )
                await self.until(lambda: bool(failures()) or not self._pending())
                if failures():
                    return
        raise AssertionError("the disk did not get full")

    async def try_again(self) -> None:
        """Let the watcher write what has waited."""
        await self.bench.clock.advance(RETRY_S)
        await self.until(lambda: not self._pending())

    def _pending(self) -> int:
        return self.watcher.statistics().measurements_pending


@asynccontextmanager
async def wired(path: Path) -> AsyncGenerator[Wired]:
    clock = FakeClock()
    provider = Provider(clock)
    agent = HeldAgent(provider.play, context_window_tokens=60_000)
    async with running_turns(path, agent, clock=clock) as bench:
        store, turns = bench.state.store, bench.turns
        store.on_dropped = turns.forget
        watcher = ExpiryWatcher(
            store, bench.state.database, clock, RetentionLimits(90, 0), Discard()
        )
        turns.contexts.telling.post = watcher.post_context
        async with anyio.create_task_group() as group:
            await group.start(watcher.run)
            yield Wired(bench, watcher, provider, agent)
            group.cancel_scope.cancel()


def untouched(entry: SessionEntry) -> bool:
    """Return whether nothing was measured of a session yet."""
    measured_ones = (entry.context_tokens, entry.context_step, entry.total_tokens)
    return entry.context_source is ContextSource.UNKNOWN and measured_ones == (0, 0, 0)


async def test_a_round_is_durable_before_its_request_ends_and_moves_nothing_but_the_size(
    tmp_path: Path,
) -> None:
    async with wired(tmp_path / "state") as held:
        await held.read_ten()
        before, seen = held.bench.entry(), []

        async def look() -> None:
            await held.until(lambda: not held.watcher.statistics().measurements_pending)
            seen.append(held.bench.entry())

        held.provider.amid = look
        await held.bench.say("cold")

        (shown,) = seen
        assert shown.context_source is ContextSource.ESTIMATE
        assert 0 < shown.context_tokens < 0.5 * before.context_tokens
        assert shown.context_measured_at == held.bench.clock.now()
        assert shown.context_step > before.context_step
        assert shown == before.changed(
            context_tokens=shown.context_tokens,
            context_source=shown.context_source,
            context_measured_at=shown.context_measured_at,
            context_step=shown.context_step,
        )


async def test_a_reset_while_the_measurement_waits_leaves_the_new_session_untouched(
    tmp_path: Path,
) -> None:
    path, fresh = tmp_path / "state", []
    async with wired(path) as held:
        await held.read_ten()
        old = held.bench.entry()
        await held.keep_waiting()
        waiting = held.watcher.statistics().measurements_pending

        async def reset() -> None:
            assert held.watcher.statistics().measurements_pending == waiting + 1
            fresh.append(await held.bench.state.store.reset(old.session_key))

        held.provider.amid = reset
        assert (await held.bench.say("cold")).session_id == old.session_id
        assert held.watcher.view(held.bench.entry()) == fresh[0]
        await held.try_again()

        assert held.bench.entry() == fresh[0]
        assert untouched(fresh[0])
        assert fresh[0].session_id != old.session_id
        assert fresh[0].updated_at < held.bench.clock.now()
        assert await held.bench.count("projections") > 3  # of the old session: there was a round

    async with open_state(path) as state:
        assert state.store.get(old.session_key) == fresh[0]


async def test_a_reset_that_is_stored_between_the_round_and_its_measurement_wins(
    tmp_path: Path,
) -> None:
    async with wired(tmp_path / "state") as held:
        await held.read_ten()
        old = held.bench.entry()
        fresh: list[SessionEntry] = []
        async with anyio.create_task_group() as group:
            await _change_after_the_round(
                held, group, lambda: held.bench.state.store.reset(old.session_key), fresh
            )
        await held.until(lambda: held.watcher.statistics().measurements_written == 1)

        assert held.bench.entry() == fresh[0]
        assert untouched(fresh[0])
        assert await held.bench.count("projections") > 3


@pytest.mark.parametrize("when", ["while it waits", "before it is posted"])
async def test_a_session_removed_between_round_and_write_does_not_come_back(
    tmp_path: Path, when: str
) -> None:
    path = tmp_path / "state"
    async with wired(path) as held:
        await held.read_ten()
        key, store = held.bench.entry().session_key, held.bench.state.store
        if when == "while it waits":
            await held.keep_waiting()
            held.provider.amid = lambda: store.remove(key)
            await held.bench.say("cold")
            await held.try_again()
        else:
            async with anyio.create_task_group() as group:
                await _change_after_the_round(held, group, lambda: store.remove(key), [])
            await held.until(lambda: held.watcher.statistics().measurements_written == 1)

        assert store.get(key) is None
        assert [one.session_key for one in store.entries()] == (
            [key_of("bob")] if when == "while it waits" else []
        )
        assert await held.bench.count("projections") > 3
    async with open_state(path) as state:
        assert state.store.get(key) is None


async def test_a_newer_number_of_the_provider_is_not_overwritten_by_the_round_before_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state"
    async with wired(path) as held:
        await held.read_ten()
        await held.keep_waiting()
        await held.bench.say("cold")
        counted = held.bench.entry()
        assert counted.context_source is ContextSource.USAGE
        assert counted.context_tokens == held.provider.counted[-1]
        assert held.watcher.view(counted) == counted
        await held.try_again()

        assert held.bench.entry() == counted
        assert counted.updated_at < held.bench.clock.now()
        assert await held.bench.count("projections") > 3
    async with open_state(path) as state:
        assert state.store.get(counted.session_key) == counted


async def _change_after_the_round(
    held: Wired,
    group: TaskGroup,
    change: Callable[[], Awaitable[SessionEntry]],
    changed: list[SessionEntry],
) -> None:
    """Let a change of the session be stored right after its round, and before the measurement.

    Both wait for the writer, in this order; the measurement is posted once the round is stored.
    """
    database = held.bench.state.database
    begun, release = threading.Event(), threading.Event()
    replies: list[Reply] = []

    def wait(_: Transaction) -> None:
        begun.set()
        release.wait(30)

    def hold() -> None:
        database.submit(wait)
        # Work that comes before the writer has begun with this would not wait, but go with it.
        assert begun.wait(30)

    async def say() -> None:
        replies.append(await held.bench.say("cold"))

    async def make() -> None:
        changed.append(await change())

    held.agent.hold = hold
    group.start_soon(say)
    await held.until(lambda: begun.is_set() and database.statistics().waiting == 1)
    group.start_soon(make)
    await held.until(lambda: database.statistics().waiting == 2)
    assert not held.watcher.statistics().measurements_pending
    release.set()
    await held.until(lambda: bool(replies))
    assert replies[0].status == "ok"
