"""A running watcher over a store, its clock moved by hand."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from gateway.clock import FakeClock
from gateway.model import ContextMeasurement, ContextSource, SessionId
from gateway.watcher import ExpiryWatcher, RetentionLimits
from tests.support.state import START, State, create_all, key_of, open_state

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from gateway.sessions.entry import SessionEntry


@dataclass(slots=True)
class Discard:
    """What stands for the deletion of delivered messages."""

    runs: int = 0
    failures: list[Exception] = field(default_factory=list)
    """Raised one by one."""

    async def __call__(self) -> int:
        self.runs += 1
        await anyio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        return 0


@dataclass(frozen=True, slots=True)
class Watched:
    """A running watcher and what it looks after."""

    state: State
    watcher: ExpiryWatcher
    clock: FakeClock
    discard: Discard

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until the threads have done what is to come."""
        with anyio.fail_after(30):
            while not holds():
                await self.state.database.ping()

    async def pass_by(self, duration_s: float) -> None:
        with anyio.fail_after(30):
            await self.clock.advance(duration_s)

    async def pruned(self, times: int) -> None:
        """Wait until that many prunes are over, with the duties that follow them."""
        statistics = self.watcher.statistics
        await self.until(lambda: statistics().prunes >= times and self.discard.runs >= times)
        assert statistics().prunes == times

    def entry(self, chat: str = "alice", agent: str = "main") -> SessionEntry:
        found = self.state.store.get(key_of(chat, agent))
        assert found is not None
        return found

    def post(self, chat: str, session_id: str, tokens: int, step: int = 1) -> None:
        key = key_of(chat)
        self.watcher.post_context(key, SessionId(session_id), measured(tokens, step))


def measured(tokens: int, step: int = 1) -> ContextMeasurement:
    return ContextMeasurement(tokens, 8_000, ContextSource.USAGE, START, step)


@asynccontextmanager
async def watching(
    path: Path, *entries: SessionEntry, clock: FakeClock | None = None
) -> AsyncGenerator[Watched]:
    """Run a watcher over a store with these entries; its first prune is over."""
    clock = clock or FakeClock()
    async with open_state(path, clock) as state:
        await create_all(state.store, entries)
        discard = Discard()
        watcher = ExpiryWatcher(state.store, state.database, clock, RetentionLimits(90, 0), discard)
        watched = Watched(state, watcher, clock, discard)
        async with anyio.create_task_group() as group:
            await group.start(watcher.run)
            await watched.pruned(1)
            yield watched
            group.cancel_scope.cancel()
