"""The manager: holds the rules, makes plans, and carries them out, one at a time.

It runs over an `ItemStore`: items in memory, or those of a database. It has no task of its own
unless it is given one (`start`, or `run` in a task group); whoever has a loop already calls
`prune_if_due`. Nobody is held up: it lets others run every few milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio

from gateway.clock import SystemClock
from gateway.errors import ConflictError, StorageError
from gateway.pruning.engine import Engine, Request
from gateway.pruning.flights import Flights
from gateway.pruning.holdings import HeldItems, HeldRules, store_of
from gateway.pruning.pacing import Pacing
from gateway.pruning.rules import DEFAULT_PRUNING_CONFIG, PruningConfig
from gateway.pruning.statistics import Counts, ManagerStatistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from anyio.abc import TaskGroup, TaskStatus

    from gateway.clock import Clock
    from gateway.pruning.events import Handler
    from gateway.pruning.explain import Explanation
    from gateway.pruning.interludes import Between
    from gateway.pruning.items import PrunableItem
    from gateway.pruning.memory import ArchivedItem
    from gateway.pruning.outside import Evaluator, Summarizer
    from gateway.pruning.plan import Plan
    from gateway.pruning.quarantine import Failing
    from gateway.pruning.records import Event, PruningResult
    from gateway.pruning.rules import PruningRule, SessionPruningConfig, SessionThresholds
    from gateway.pruning.store import ItemStore

STOP_GRACE_S: Final = 10.0


class PruningManager:
    """Rules over stored items: plans, runs, explanations."""

    def __init__(
        self,
        config: PruningConfig = DEFAULT_PRUNING_CONFIG,
        items: ItemStore | Iterable[PrunableItem] = (),
        summarizer: Summarizer | None = None,
        clock: Clock | None = None,
        evaluators: Mapping[str, Evaluator] | None = None,
        live_turns: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        """Take the rules and where the items are; nothing runs yet.

        Args:
            config: Checked as a whole.
            items: A store, or items to keep in memory.
            summarizer: Who writes summaries; without one no rule may ask for any.
            clock: Both clocks; None: the machine's.
            evaluators: The functions that custom conditions name.
            live_turns: Tells the turn that runs, by session id; an empty text stands for the whole
                session. What belongs to it is protected.

        Raises:
            PruningConfigError: the rules are not usable; it names every problem and its place.
            BadRequestError: so is an item.
        """
        self._clock = clock or SystemClock()
        self._engine = Engine(
            config, store_of(items), summarizer, self._clock, evaluators or {}, live_turns or dict
        )
        self._items = HeldItems(self._engine.store, self._engine.quarantine)
        self._rules = HeldRules(lambda: self._engine.rulebook.config, self._configure)
        self._counts = Counts()
        self._flights = Flights()
        self._pacing = Pacing(self._clock)
        self._wake = anyio.Event()
        self._loop_over: anyio.Event | None = None
        self._halting = False
        self._stopped = False

    # Items; of a manager over another store that store is asked. See `HeldItems`.

    def add_item(self, item: PrunableItem) -> PrunableItem:
        """Put an item in; one of the same id is replaced, and the version grows."""
        return self._items.add(item)

    def get_item(self, item_id: str) -> PrunableItem | None:
        """Return an item; None where there is none."""
        return self._items.get(item_id)

    def get_all_items(self) -> list[PrunableItem]:
        """Return all items, the oldest first."""
        return self._items.all()

    def get_session_items(self, session_id: str) -> list[PrunableItem]:
        """Return the items of a session, the oldest first."""
        return self._items.of_session(session_id)

    def remove_item(self, item_id: str) -> bool:
        """Take an item out for good; return whether there was one."""
        return self._items.remove(item_id)

    def clear_items(self) -> int:
        """Take all items out for good, but for the archive; return how many there were."""
        return self._items.clear()

    def get_archived_items(self) -> list[ArchivedItem]:
        """Return what is in the archive, the first archived first."""
        return self._items.archived()

    def restore_item(self, item_id: str) -> PrunableItem | None:
        """Put back what was last archived under an id; None where there is nothing."""
        return self._items.restore(item_id, self._clock.now())

    # Rules. Each change is checked as a whole, and counts from the next plan on. See `HeldRules`.

    def get_config(self) -> PruningConfig:
        """Return what the manager goes by; frozen."""
        return self._rules.config

    def update_config(self, **changes: Any) -> PruningConfig:  # noqa: ANN401 - fields of the class
        """Change fields of the configuration."""
        return self._rules.update(**changes)

    def add_rule(self, rule: PruningRule) -> None:
        """Add a rule; one of the same id is replaced."""
        self._rules.add(rule)

    def remove_rule(self, rule_id: str) -> bool:
        """Remove a rule; return whether there was one."""
        return self._rules.remove(rule_id)

    def set_rule_enabled(self, rule_id: str, enabled: bool) -> bool:  # noqa: FBT001 - what it sets
        """Switch a rule on or off; return whether there is one."""
        return self._rules.set_enabled(rule_id, enabled=enabled)

    def set_session_config(
        self,
        session_id: str,
        *,
        exempt: bool | None = None,
        rules: Iterable[PruningRule] | None = None,
        thresholds: SessionThresholds | None = None,
    ) -> SessionPruningConfig:
        """Change what is different for a session; None leaves it as it is."""
        return self._rules.set_session(session_id, exempt, rules, thresholds)

    def remove_session_config(self, session_id: str) -> bool:
        """Let a session be like all others; return whether it was not."""
        return self._rules.remove_session(session_id)

    def register_evaluator(self, name: str, evaluator: Evaluator) -> None:
        """Give custom conditions a function by name; one of the same name is replaced."""
        self._engine.evaluators[name] = evaluator
        self._engine.look_again()

    def on(self, event: Event | str, handler: Handler) -> Callable[[], None]:
        """Call a handler at each event of a kind; the function returned ends that.

        Raises:
            BadRequestError: there is no such event.
        """
        return self._engine.listeners.on(event, handler)

    # Plans and runs.

    async def plan(self, *, force: bool = False, session_id: str | None = None) -> Plan:
        """Return what a run would do now; changes nothing, and may run beside a run.

        Args:
            force: Whether exempt sessions are not protected.
            session_id: The one session to look at; None: all.
        """
        rulebook = self._engine.rulebook
        return await self._engine.plan(rulebook, force=force, session_id=session_id)

    async def prune(
        self,
        force: bool = False,  # noqa: FBT001, FBT002 - by contract
        dry_run: bool | None = None,  # noqa: FBT001 - by contract
        session_id: str | None = None,
        *,
        confirmed: bool = False,
    ) -> PruningResult:
        """Make a plan and carry it out; return what was done.

        Whoever asks for the same while it runs gets the same result.

        Args:
            force: Whether exempt sessions are not protected; nothing else is overridden.
            dry_run: Whether nothing is changed; None: as configured.
            session_id: The one session to look at; None: all.
            confirmed: Whether it may take more than `max_share`.

        Raises:
            ConflictError: another run is in progress, or the manager is being stopped.
            StorageError: the storage failed; what was done until then is done.

        Cancellation: what was done is done, each unit whole or not at all.
        """
        dry = self._rules.config.dry_run if dry_run is None else dry_run
        request = Request("apply", dry, force, session_id, confirmed)
        return await self._flights.fly(request, self._perform)

    async def apply(
        self, plan: Plan, *, dry_run: bool | None = None, confirmed: bool = False
    ) -> PruningResult:
        """Carry out a plan; what is not as it was when the plan was made stays.

        The rules are held against everything anew first: of the plan is done what they still take,
        so that a set which has shrunk since loses no more than is too much of it now. Each item is
        looked at again when it is touched.

        Raises:
            ConflictError: it was made under other rules, another run is in progress, or the manager
                is being stopped.
            StorageError: the storage failed; what was done until then is done.
        """
        if plan.config_version != self._engine.rulebook.version:
            raise ConflictError("the plan was made under other rules; make a new one")

        dry = self._rules.config.dry_run if dry_run is None else dry_run
        request = Request("apply", dry, plan.force, plan.session_id, confirmed, plan)
        return await self._flights.fly(request, self._perform)

    async def prune_if_due(self) -> PruningResult | None:
        """Prune if something is due; None where nothing is, or it is too soon, or switched off.

        After `stop` nothing is due until `start`, `run` or `resume`.
        """
        config = self._rules.config
        if not config.enabled or self.is_running or self._stopped:
            return None
        if self._pacing.soonest_s(config) > 0:
            return None

        due_at = await self.next_due()
        if due_at is None or due_at > self._clock.now() or self._stopped:
            return None

        return await self._flights.fly(Request("due", config.dry_run), self._perform)

    async def next_due(self) -> datetime | None:
        """Return when something is due; None where nobody can say, or nothing will be.

        It may be too early, where only protected items are concerned; it is never too late.
        """
        return await self._engine.next_due()

    async def explain(self, item_id: str, *, force: bool = False) -> Explanation:
        """Explain what becomes of an item: every rule, every protection, and when it is due.

        Raises:
            NotFoundError: there is none of this id.
        """
        return await self._engine.explain(item_id, force=force)

    def get_stats(self) -> ManagerStatistics:
        """Return what there is, what was done and what comes next; waits for nothing."""
        engine = self._engine
        return ManagerStatistics.of(
            engine.store.statistics(),
            self._counts,
            next_due_at=engine.next_due_at,
            is_running=self.is_running,
            quarantined=len(engine.quarantine.ids()),
            handler_failures=engine.listeners.failures,
        )

    def get_failing(self) -> Mapping[str, Failing]:
        """Return the items that failed, those that are left alone among them, by id."""
        return self._engine.quarantine.all()

    def retry(self, item_id: str | None = None) -> int:
        """Try items again that failed: one, or all; return how many were counted out."""
        self._engine.look_again()
        if item_id is None:
            return self._engine.quarantine.clear()

        return int(self._engine.quarantine.forget(item_id))

    def start(self, group: TaskGroup) -> None:
        """Run in a task group until `stop`; a manager that runs already goes on as it does."""
        if self._loop_over is None:
            self.resume()
            self._loop_over = anyio.Event()
            group.start_soon(self.run)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Prune when it is due, until `stop` or cancelled; the first look comes at once.

        Raises:
            StorageError: the storage failed.
        """
        if not self._flights.closed:
            self.resume()
        over = self._loop_over = self._loop_over or anyio.Event()
        task_status.started()
        try:
            while not self._stopped:
                self._wake = anyio.Event()
                result = await self._look()
                with self._clock.move_on_after(self._wait_s(result)):
                    await self._wake.wait()
        finally:
            self._loop_over = None
            over.set()

    async def stop(self, *, grace_s: float = STOP_GRACE_S) -> None:
        """Begin nothing any more, and return once the run in progress is over.

        Once it is over a run may be asked for again; none begins because it is due, until `start`,
        `run` or `resume`.

        Args:
            grace_s: How long it may go on; then it ends after the unit it is at, and a summary that
                is being written is given up.
        """
        self._stopped = True
        self._flights.closed = True
        self._wake.set()
        try:
            with self._clock.move_on_after(grace_s):
                await self._flights.landed()
            self._halting = True
            self._engine.halt()
            await self._flights.landed()
            if self._loop_over is not None:
                await self._loop_over.wait()
        finally:
            self._flights.closed = self._halting = False

    def resume(self) -> None:
        """Let runs begin again when they are due."""
        self._stopped = False

    @property
    def between(self) -> Between | None:
        """Called during each run, between changes and every second beside a summary; None: nobody.

        It has no limit, and what it takes does not count towards `max_duration_s`. What it raises
        ends the run; what was done until then is done.
        """
        return self._engine.between

    @between.setter
    def between(self, between: Between | None) -> None:
        self._engine.between = between

    @property
    def is_running(self) -> bool:
        """Whether a run is in progress."""
        return self._flights.is_running

    @property
    def is_started(self) -> bool:
        """Whether `run` or `start` has it running."""
        return self._loop_over is not None

    def _configure(self, config: PruningConfig) -> PruningConfig:
        config = self._engine.configure(config)
        self._wake.set()
        return config

    async def _perform(self, request: Request) -> PruningResult:
        """Run, and count how it ended."""
        try:
            result = await self._engine.perform(request, lambda: self._halting)
        except Exception:
            self._counts.failures += 1
            raise
        finally:
            self._pacing.ended()
        self._counts.add(result)
        return result

    async def _look(self) -> PruningResult | None:
        """Prune if it is due; what goes wrong is counted, and tried again at the next look."""
        failures, result = self._counts.failures, None
        try:
            result = await self.prune_if_due()
            if result is not None:
                await self.next_due()
        except StorageError:
            raise
        except Exception:  # noqa: BLE001 - boundary of the loop: counted, the next look comes
            self._counts.failures = failures + 1
        return result

    def _wait_s(self, result: PruningResult | None) -> float:
        """Return how long until the next look, after what came of this one."""
        due_at = None if self.is_running else self._engine.next_due_at
        in_vain = result is not None and not result.pruned_items
        return self._pacing.wait_s(self._rules.config, due_at, in_vain=in_vain)
