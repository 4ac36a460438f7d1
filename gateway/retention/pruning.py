"""The rules over what sessions store, as the gateway runs them: plans, runs, history, restoring.

One manager, over the transcripts in the database. The watcher calls `work`, people call the rest;
of runs there is one at a time, whoever asks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

import anyio

from gateway.errors import NotFoundError
from gateway.pruning import (
    Event,
    ManagerStatistics,
    PruningConfig,
    PruningManager,
    PruningProgress,
    PruningResult,
)
from gateway.retention.archiving import Archives
from gateway.retention.items import SqliteItemStore, StoredItems, item_id_of
from gateway.retention.keeping import Keeping
from gateway.retention.naming import run_id_of, session_ids_meant
from gateway.retention.noting import RunNotes
from gateway.retention.restoring import Restorable, restore
from gateway.retention.runs import log_sweep, read_run, read_runs, told
from gateway.retention.surroundings import NoSummaries, TurnHooks
from gateway.transcripts import archives, pruned
from gateway.transcripts.archives import ArchiveTotals
from gateway.transcripts.reading import session_ids_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from pathlib import Path

    from gateway.clock import Clock
    from gateway.durable.batch import Queries
    from gateway.durable.database import Database
    from gateway.pruning import (
        Explanation,
        Plan,
        Summarizer,
    )
    from gateway.retention.restoring import Restored
    from gateway.retention.settings import ItemPruningSettings
    from gateway.transcripts.pruned import PrunedRow, RunRow

KEEP_INTERVAL_S: Final = 3_600.0
"""How often is looked for what has been kept for long enough."""
MORE_S: Final = 10.0
"""How soon again where one look did not do all."""


NO_TURNS: Final = TurnHooks()


@dataclass(frozen=True, slots=True)
class PruningStatistics:
    """What there is, what was done and what comes next."""

    enabled: bool
    rules: int
    manager: ManagerStatistics
    stored: StoredItems
    """What is stored, as last counted."""
    archive: ArchiveTotals
    """Files of the archive, as last counted."""


class ItemPruning:
    """Rules over the transcripts of one gateway."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        settings: ItemPruningSettings,
        archive_dir: Path,
        *,
        summarizer: Summarizer | None = None,
        turns: TurnHooks = NO_TURNS,
    ) -> None:
        """Wire the parts; nothing runs yet.

        Args:
            database: Where the transcripts are.
            clock: Both clocks.
            settings: The rules, and for how long things are kept.
            archive_dir: Where archive files are.
            summarizer: Who writes summaries; None: nobody can.
            turns: Who runs turns.
        """
        self._database = database
        self._clock = clock
        self._settings = settings
        self._archives = Archives(database, archive_dir)
        self._turns = turns
        self._measure_at: float | None = None
        self.items = SqliteItemStore(database, clock, lambda: self._settings.keep.grace_s)
        """Where the items are."""
        self.items.on_changed = self._tell_changed
        self._keeping = Keeping(self._archives, clock, settings.keep)
        self._keeping.on_changed = self._tell_changed
        self._manager = PruningManager(
            PruningConfig(),
            items=self.items,
            summarizer=summarizer or NoSummaries(),
            clock=clock,
            live_turns=turns.live_sessions,
        )
        self._notes = RunNotes(database, clock, self.items, lambda: self._manager.is_running)
        self._manager.on(Event.START, self._notes.begun)
        self._manager.on(Event.PROGRESS, self._progressed)
        self.on_due: Callable[[], None] = lambda: None
        """Called when there is something for `work` before its time."""
        self._watching: list[Callable[[PruningProgress], None]] = []
        self._archived = ArchiveTotals()
        self._check_at = self._keep_at = clock.monotonic()
        self._reconfigured = True
        self._session_ids: dict[str, tuple[str, ...]] = {}

    def reconfigure(self, settings: ItemPruningSettings) -> None:
        """Go by other settings from the next plan on."""
        self._settings = settings
        self._keeping.settings = settings.keep
        self._reconfigured = True
        self._check_at = self._clock.monotonic()
        self.on_due()

    # What people ask for. `session` is a session key, which means its present conversation, or an
    # id of one; of an id, as of that of a run, the start is enough where it means only one.

    async def plan(self, *, force: bool = False, session: str | None = None) -> Plan:
        """Return what a run would do now; changes nothing.

        Raises:
            NotFoundError: there is no such session.
        """
        await self._configure()
        return await self._manager.plan(force=force, session_id=await self._session_id(session))

    async def prune(
        self,
        *,
        plan: Plan | None = None,
        dry_run: bool = False,
        force: bool = False,
        session: str | None = None,
        confirmed: bool = False,
        on_progress: Callable[[PruningProgress], None] | None = None,
    ) -> PruningResult:
        """Carry out a plan, or one that is made now; return what was done.

        Durability: what the result tells of survives power loss.
        Cancellation: the run goes on to its end.

        Raises:
            NotFoundError: there is no such session.
            ConflictError: another run is in progress, or the plan was made under other rules.
            StorageError: the storage failed; what was done until then is done.
        """
        await self._configure()
        session_id = await self._session_id(session)
        if on_progress is not None:
            self._watching.append(on_progress)
        try:
            if plan is not None:
                run = self._manager.apply(plan, dry_run=dry_run, confirmed=confirmed)
            else:
                run = self._manager.prune(force, dry_run, session_id, confirmed=confirmed)
            with anyio.CancelScope(shield=True):
                result = await self._notes.of(run)
        finally:
            if on_progress is not None:
                self._watching.remove(on_progress)
        return result

    async def explain(self, item: str, *, force: bool = False) -> Explanation:
        """Explain what becomes of an item: every rule, every protection, and when it is due.

        Raises:
            BadRequestError: that is no id of an item.
            NotFoundError: there is none of this id.
        """
        await self._configure()
        item_id = item_id_of(item)
        try:
            return await self._manager.explain(item_id, force=force)
        except NotFoundError:
            last = await self.history(limit=1, item=item_id)
            if not last:
                raise

        raise NotFoundError(f"the item {item_id} was pruned at {last[0].at}; the history tells why")

    async def restore(
        self,
        *,
        items: Sequence[str] = (),
        run: str | None = None,
        session: str | None = None,
    ) -> Restored:
        """Give back what was pruned: some items, all of a run, or all of a session.

        Durability: what was given back survives power loss.

        Raises:
            BadRequestError: none of the three is given, or more than one, or no id of an item; or
                more than one run or session may be meant.
            NotFoundError: there is no such item, run or session.
        """
        session_ids = () if session is None else await self._session_ids_of(session)
        if (given := run) is not None:
            run = await self._database.read(lambda place: run_id_of(place, given))
        which = Restorable(tuple(items), run, session_ids)
        with anyio.CancelScope(shield=True):
            restored = await restore(self._archives, self._clock, which)
            self._tell_changed(restored.session_ids)
        return restored

    def retry(self, items: Sequence[str] = ()) -> int:
        """Try items again that failed, some or all; return how many were counted out.

        Raises:
            BadRequestError: one is no id of an item.
        """
        named = [item_id_of(one) for one in items]
        self._check_at = self._clock.monotonic()
        self.on_due()
        if not named:
            return self._manager.retry()

        return sum(map(self._manager.retry, named))

    async def runs(self, *, limit: int, before: int | None = None) -> list[RunRow]:
        """Return runs, newest first: those that changed something, were refused or failed."""
        # Before and after: one may begin, or end, while they are read.
        in_progress = self._in_progress()
        rows = await self._database.read(lambda place: read_runs(place, limit=limit, before=before))
        in_progress |= self._in_progress()
        return [told(row, in_progress) for row in rows]

    async def run(self, run: str) -> RunRow:
        """Return one run.

        Raises:
            BadRequestError: more than one may be meant.
            NotFoundError: there is none, or its row is lost.
        """
        in_progress = self._in_progress()
        row = await self._database.read(lambda place: read_run(place, run))
        return told(row, in_progress | self._in_progress())

    async def history(
        self,
        *,
        limit: int,
        before: int | None = None,
        item: str | None = None,
        run: str | None = None,
        session: str | None = None,
    ) -> list[PrunedRow]:
        """Return what was done to items, newest first: of one item, one run, one session, or all.

        Raises:
            BadRequestError: that is no id of an item, or more than one run or session may be meant.
            NotFoundError: there is no such run or session.
        """
        position = None if item is None else int(item_id_of(item))
        ids = None if session is None else await self._session_ids_of(session)

        def read(place: Queries) -> list[PrunedRow]:
            run_id = None if run is None else run_id_of(place, run)
            return pruned.page(
                place, limit=limit, before=before, item=position, run_id=run_id, session_ids=ids
            )

        return await self._database.read(read)

    async def count(self) -> None:
        """Count what is stored, for `statistics`."""
        await self.items.count()
        self._archived = await self._database.read(archives.totals)

    def statistics(self) -> PruningStatistics:
        """Return what there is, what was done and what comes next; waits for nothing."""
        return PruningStatistics(
            enabled=self._settings.enabled,
            rules=len(self._settings.rules),
            manager=self._manager.get_stats(),
            stored=self.items.stored(),
            archive=self._archived,
        )

    # What the watcher does.

    def next_in_s(self) -> float:
        """Return how long until `work` has something to look at, in seconds; 0: now."""
        due_at = [self._check_at, self._keep_at]
        if self._measure_at is not None:
            due_at.append(self._measure_at)
        return max(0.0, min(due_at) - self._clock.monotonic())

    async def work(self, between: Callable[[], Awaitable[None]] | None = None) -> None:
        """Prune if it is due, then see to what has been kept for long enough.

        Args:
            between: Called again and again while it goes on.
        """
        self._manager.between = between
        try:
            if self._check_at <= self._clock.monotonic():
                await self._check()
                now = self._clock.now()
                if await self._database.read(lambda place: pruned.is_grace_over(place, now)):
                    self._keep_at = self._clock.monotonic()
            if self._keep_at <= self._clock.monotonic():
                self._keep_at = self._clock.monotonic() + KEEP_INTERVAL_S
                kept = await self._keeping.work(between)
                log_sweep(kept)
                if kept.more:
                    self._keep_at = self._clock.monotonic() + MORE_S
            if self._measure_at is not None and self._measure_at <= self._clock.monotonic():
                await self._measure_changed()
        finally:
            self._manager.between = None

    async def _measure_changed(self) -> None:
        """Have the sizes of changed contexts told; those in use wait for another time."""
        self._measure_at = None
        if await self._turns.measure():
            self._measure_at = self._clock.monotonic() + MORE_S

    async def stop(self) -> None:
        """Let the run in progress end after the unit it is at."""
        await self._manager.stop(grace_s=0.0)

    async def _check(self) -> None:
        """Prune if it is due, and find out when it is next."""
        config = self._manager.get_config()
        self._check_at = self._clock.monotonic() + config.check_interval_s
        if not self._settings.enabled:
            return

        await self._configure()
        config = self._manager.get_config()
        result = await self._notes.of(self._manager.prune_if_due())
        due_at = await self._manager.next_due()
        wait_s = config.check_interval_s
        if due_at is not None:
            until_s = (due_at - self._clock.now()).total_seconds()
            # What is due and was not taken may not be taken for now.
            goes_on = until_s > 0 or (result is not None and bool(result.pruned_items))
            if goes_on:
                wait_s = min(wait_s, max(until_s, config.min_prune_interval_s))
        self._check_at = self._clock.monotonic() + wait_s

    async def _configure(self) -> None:
        """Let the manager go by the settings, in which sessions stand by their keys."""
        named = await self._database.read(
            lambda place: {key: session_ids_of(place, key) for key in self._settings.sessions}
        )
        if self._reconfigured or named != self._session_ids:
            config = self._settings.to_config(named)
            self._manager.update_config(
                **{one.name: getattr(config, one.name) for one in fields(config)}
            )
            self._session_ids, self._reconfigured = named, False

    async def _session_id(self, session: str | None) -> str | None:
        """Return the id of the conversation that is meant."""
        return None if session is None else (await self._session_ids_of(session))[-1]

    async def _session_ids_of(self, session: str) -> tuple[str, ...]:
        return await self._database.read(lambda place: session_ids_meant(place, session))

    def _in_progress(self) -> set[str | None]:
        return {self.items.run_id, self._keeping.run_id}

    def _progressed(self, progress: PruningProgress) -> None:
        for watch in self._watching:
            watch(progress)

    def _tell_changed(self, session_ids: Collection[str]) -> None:
        """Tell at once whose items are not what they were: no turn may go on with what is gone."""
        if session_ids:
            self._turns.on_changed(session_ids)
            self._measure_at = self._clock.monotonic()
            self.on_due()
