"""A year that the watcher drives: bounds hold each day, and no task but its own does it."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio

from gateway.durable.database import Database
from gateway.model import Message, Role, SessionId, TurnId
from gateway.retention.archiving import FOLDER
from gateway.retention.pruning import MORE_S, ItemPruning
from gateway.retention.settings import ItemPruningSettings
from gateway.sessions.history import stamp
from gateway.transcripts.pruned import instant
from gateway.transcripts.writing import append_messages
from gateway.watcher import ExpiryWatcher, RetentionLimits
from tests.support.leaping import LeapingClock
from tests.support.state import open_state

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from pathlib import Path

    from gateway.durable.batch import Transaction

DAYS: Final = 365
DAY_S: Final = 86_400.0
LOOKS: Final = 1
"""Wakes of the watcher in a day."""
MAX_COUNT: Final = 30
MAX_AGE_DAYS: Final = 20
CHANGE_DAYS: Final = 40
"""How long a conversation goes on before another takes its place."""
SETTINGS: Final = ItemPruningSettings.model_validate(
    {
        "max_share": 1.0,
        "grace": "2d",
        "archive_keep": "20d",
        "audit_keep": "30d",
        "removed_sessions_keep": "10d",
        "protections": {"keep_newest": 0, "min_age": "0s", "restored": "0s", "settle": "0s"},
        "rules": [
            {
                "id": "old",
                "name": "What is old",
                "priority": 2,
                "conditions": [{"type": "age", "max_age": f"{MAX_AGE_DAYS}d"}],
                "action": {"type": "delete"},
            },
            {
                "id": "many",
                "name": "Not too many",
                "priority": 1,
                "conditions": [{"type": "count", "max_count": MAX_COUNT}],
                "action": {"type": "archive"},
            },
        ],
    }
)


@contextmanager
def counted_tasks() -> Generator[list[str]]:
    """Yield what the tasks do that are made meanwhile."""
    loop, made = asyncio.get_running_loop(), list[str]()

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:  # noqa: ANN401 - as asyncio has it
        task = asyncio.Task(coroutine, loop=loop, **more)
        made.append(repr(coroutine))
        return task

    before = loop.get_task_factory()
    loop.set_task_factory(make)
    try:
        yield made
    finally:
        loop.set_task_factory(before)


@dataclass
class Watched:
    """The rules as the watcher knows them; tells when it is at them."""

    pruning: ItemPruning
    working: int = 0
    together: int = 0
    """The most that ever went on at once."""
    times: int = 0
    over: anyio.Event = field(default_factory=anyio.Event)
    """Set when it ends once more."""

    def next_in_s(self) -> float:
        return self.pruning.next_in_s()

    async def work(self, between: Callable[[], Awaitable[None]]) -> None:
        self.times += 1
        self.working += 1
        self.together = max(self.together, self.working)
        try:
            await self.pruning.work(between)
        finally:
            self.working -= 1
            self.over.set()
            self.over = anyio.Event()


@dataclass
class Year:
    """A gateway's database and its watcher, whose clock is moved by hand."""

    database: Database
    clock: LeapingClock
    work: Watched
    watcher: ExpiryWatcher
    said: int = 0

    async def say(self, session: str, count: int) -> None:
        """Store what is said in a conversation."""
        at = stamp(self.clock.now())

        def work(transaction: Transaction) -> None:
            transaction.execute(
                "INSERT OR IGNORE INTO sessions (session_id, session_key, started_at) "
                "VALUES (?, ?, ?)",
                (session, f"agent:main:http::dm:{session}::", at),
            )
            for number in range(self.said, self.said + count):
                text = f"{number} ".ljust(3_000, "x")
                one = Message(Role.USER, text, turn_id=TurnId(f"t{number}"))
                append_messages(transaction, SessionId(session), [one], at=at)

        await self.database.write(work)
        self.said += count

    async def end(self, session: str) -> None:
        """Let a conversation end now."""
        at = stamp(self.clock.now())
        await self.database.write(
            lambda tx: tx.execute(
                "UPDATE sessions SET ended_at = ? WHERE session_id = ?", (at, session)
            ).fetchall()
        )

    async def pass_by(self, duration_s: float) -> None:
        """Let time pass, and the watcher do all that is due by then."""
        self.clock.leap(duration_s)
        await self._idle()
        while (next_s := self.work.next_in_s()) <= MORE_S:
            self.clock.leap(next_s)
            await self._idle()

    async def _idle(self) -> None:
        """Wait until the watcher has done what is due; what threads do takes no time."""
        while self.work.working or not self.work.next_in_s():
            await self.work.over.wait()

    async def day(self) -> Day:
        """Return what there is now."""
        path = self.database.path
        files = [file.stat().st_size for file in (path.parent / FOLDER).glob("*")]
        return Day(
            await self.number("SELECT count(*) FROM messages"),
            await self.number("SELECT count(*) FROM pruned_items"),
            await self.number("SELECT count(*) FROM pruned_originals"),
            await self.number("SELECT count(*) FROM pruning_runs"),
            len(files),
            sum(files),
            path.stat().st_size,
        )

    async def faults(self) -> list[str]:
        """Return which bounds what is stored exceeds."""
        limit = stamp(self.clock.now() - timedelta(days=MAX_AGE_DAYS))
        too_old = await self.number("SELECT count(*) FROM messages WHERE created_at < ?", limit)
        most = await self.number("SELECT coalesce(max(items), 0) FROM item_totals")
        late = await self.number(
            "SELECT count(*) FROM pruned_items WHERE state = 'held' AND due_at <= ?",
            instant(self.clock.now()),
        )
        found = {
            f"{too_old} messages are too old": too_old > 0,
            f"a conversation has {most} messages": most > MAX_COUNT,
            f"{late} are held for too long": late > 0,
            "the watcher is stuck": not self.watcher.alive,
        }
        return [fault for fault, is_so in found.items() if is_so]

    async def number(self, sql: str, *bindings: object) -> int:
        rows = await self.database.read(lambda place: place.execute(sql, bindings).fetchall())
        return int(str(rows[0][0]))


class Day(NamedTuple):
    """What there was at the end of a day."""

    messages: int
    entries: int
    originals: int
    runs: int
    files: int
    file_bytes: int
    database_bytes: int


@asynccontextmanager
async def gateway(path: Path) -> AsyncGenerator[Year]:
    """Run a watcher over a new state directory."""
    clock = LeapingClock()
    async with open_state(path, clock) as state:
        work = Watched(ItemPruning(state.database, clock, SETTINGS, path / FOLDER))
        watcher = ExpiryWatcher(
            state.store, state.database, clock, RetentionLimits(90, 0), _nothing, work
        )
        work.pruning.on_due = watcher.wake
        async with anyio.create_task_group() as group:
            await group.start(watcher.run)
            yield Year(state.database, clock, work, watcher)
            group.cancel_scope.cancel()


async def _nothing() -> int:
    return 0


async def test_a_year_of_the_watcher_keeps_to_its_bounds_by_one_task(tmp_path: Path) -> None:
    chance = random.Random(5)
    days: list[Day] = []
    with anyio.fail_after(120):
        async with gateway(tmp_path / "state") as year:
            with counted_tasks() as made:
                for number in range(DAYS):
                    for chat in ("ann", "bob"):
                        conversation, day = divmod(number + ord(chat[0]), CHANGE_DAYS)
                        await year.say(f"{chat}-{conversation}", chance.randrange(9))
                        if day == CHANGE_DAYS - 1:
                            await year.end(f"{chat}-{conversation}")
                    for _ in range(LOOKS):
                        await year.pass_by(DAY_S / LOOKS)

                    assert await year.faults() == [], number
                    days.append(await year.day())
            statistics = year.watcher.statistics()

    assert made == [], "nothing but the watcher's own task does it"
    assert year.work.together == 1
    assert year.work.times >= LOOKS * DAYS
    assert statistics.failures == {}
    assert statistics.clock_steps == 0
    # As in the first months, so for ever.
    early, late = days[60:150], days[-150:]
    for name in Day._fields:
        most = max(getattr(day, name) for day in late)
        assert 0 < most < 1.3 * max(getattr(day, name) for day in early), name
