"""What makes plans and carries them out, over one store: rules in, results out, one run at a time.

Pure but for what it is handed. Who may run when is the manager's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import uuid4

from anyio import CancelScope

from gateway.errors import ConflictError
from gateway.pruning.applying import Halt, Means, Run
from gateway.pruning.due import next_due
from gateway.pruning.events import Listeners
from gateway.pruning.explain import explain
from gateway.pruning.interludes import Interludes
from gateway.pruning.judging import Situation
from gateway.pruning.loading import checked_config
from gateway.pruning.outside import ask, checked_summary, within
from gateway.pruning.plan import Plan, SkipReason
from gateway.pruning.planner import Planner
from gateway.pruning.quarantine import Quarantine
from gateway.pruning.records import Event, PruningResult, RunStarted, RunStatus
from gateway.pruning.rulebook import Rulebook
from gateway.pruning.shards import Shards

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from gateway.pruning.conditions import CustomCondition
    from gateway.pruning.explain import Explanation
    from gateway.pruning.interludes import Between
    from gateway.pruning.items import PrunableItem
    from gateway.pruning.judging import Evaluate
    from gateway.pruning.outside import Evaluator, Summarizer, Times
    from gateway.pruning.rules import PruningConfig, SummarizeAction
    from gateway.pruning.shards import Ids, Pause
    from gateway.pruning.shrinking import ItemSummary
    from gateway.pruning.store import ItemStore

T = TypeVar("T")

PAUSE_UNITS: Final = 100
"""Units of work, of a few microseconds each, after which others get their turn."""
HANDLER_TIMEOUT_S: Final = 5.0
"""A handler that is awaited for longer has failed."""
_PASSING: Final = {
    SkipReason.LIVE_TURN,
    SkipReason.YOUNG,
    SkipReason.RESTORED,
    SkipReason.SETTLING,
    SkipReason.FAILED,
    SkipReason.SUMMARIZER,
    SkipReason.STOPPED,
    *(one for one in SkipReason if one.value.startswith("budget_")),
}
"""Reasons that end without any item having changed."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks for; whoever asks for the same may join."""

    trigger: str
    dry_run: bool
    force: bool = False
    session_id: str | None = None
    confirmed: bool = False
    plan: Plan | None = None


class Engine:
    """Plans and runs over one store."""

    def __init__(
        self,
        config: PruningConfig,
        store: ItemStore,
        summarizer: Summarizer | None,
        clock: Times,
        evaluators: Mapping[str, Evaluator],
        live_turns: Callable[[], Mapping[str, str]],
    ) -> None:
        """Check the rules and take everything else as it is.

        Raises:
            PruningConfigError: the rules are not usable.
        """
        self.evaluators = dict(evaluators)
        """Functions of custom conditions, by name."""
        self.store = store
        self.quarantine = Quarantine()
        self.listeners = Listeners(lambda one: self._within(HANDLER_TIMEOUT_S, one))
        self.next_due_at: datetime | None = None
        """As last found out."""
        self.between: Between | None = None
        """See `PruningManager.between`."""
        self._summarizer = summarizer
        self._clock = clock
        self._live_turns = live_turns
        self._waiting: dict[tuple[str, int], ItemSummary] = {}
        """Summaries whose item could not be changed yet, by item and version. In memory alone: one
        that was paid for is written again where the process is killed before the change."""
        self._writing: CancelScope | None = None
        """Ends the summary that is being written."""
        self._cursor = ""
        """The session that was served last; after a start all begins with the first one again."""
        self._quiet: tuple[int, str, datetime] | None = None
        self.rulebook = Rulebook(self._checked(config))

    def configure(self, config: PruningConfig) -> PruningConfig:
        """Go by another configuration from the next plan on.

        Raises:
            PruningConfigError: it is not usable; nothing was changed.
        """
        self.rulebook = Rulebook(self._checked(config))
        return self.rulebook.config

    def halt(self) -> None:
        """Have no summary finished that is being written; whoever says so stops the run as well."""
        if self._writing is not None:
            self._writing.cancel()

    def look_again(self) -> None:
        """Forget that there was nothing to do."""
        self._quiet = None

    async def plan(self, rulebook: Rulebook, *, force: bool, session_id: str | None) -> Plan:
        """Return what a run would do now; changes nothing."""
        situation = self._situation(force=force, session_id=session_id)
        evaluate = self._evaluate_at(situation.now)
        return await Planner(rulebook, self.store, situation, evaluate, self._pause()).plan()

    async def _checked_plan(self, rulebook: Rulebook, plan: Plan) -> tuple[Plan, Ids]:
        """Return a plan of some time ago as it counts now, and what the rules still take of it.

        Sets may have shrunk since, and what is left of them may be protected.
        """
        pause, among = self._pause(), Shards[str]()
        for unit in plan.units:
            await pause(1)
            for one in unit:
                among.part(one.item_id)[one.item_id] = one.rule_id
        situation = self._situation(force=plan.force, session_id=plan.session_id)
        evaluate, most = self._evaluate_at(situation.now), len(plan.units) + 1
        planner = Planner(rulebook, self.store, situation, evaluate, pause, most=most)
        checked = await planner.check(among)
        await among.let_go(pause)
        plan = replace(
            plan,
            # A small plan is not refused because of what it does not hold; one that was too much
            # when it was made is not let through because its budgets left most of that out.
            breaker=checked.breaker if plan.breaker else checked.own_breaker,
            failures=(*plan.failures, *checked.failures.first),
            failed=plan.failed + checked.failures.count,
            unlisted=(*plan.unlisted, *checked.failures.unlisted),
        )
        return plan, checked.kept

    async def explain(self, item_id: str, *, force: bool) -> Explanation:
        """Explain what becomes of an item."""
        situation = self._situation(force=force, session_id=None)
        evaluate = self._evaluate_at(situation.now)
        return await explain(item_id, self.rulebook, self.store, situation, evaluate, self._pause())

    async def next_due(self) -> datetime | None:
        """Return when something is due."""
        looked_at = None
        if self._quiet and self._quiet[:2] == (self.store.revision(), self.rulebook.version):
            looked_at = self._quiet[2]
        self.next_due_at = await next_due(
            self.rulebook, self.store, self._clock.now(), self._pause(), looked_at=looked_at
        )
        return self.next_due_at

    async def perform(self, request: Request, is_stopped: Callable[[], bool]) -> PruningResult:
        """Make the plan, unless there is one, and carry it out."""
        started_at, start = self._clock.now(), self._clock.monotonic()
        rulebook, run_id = self.rulebook, uuid4().hex
        revision = self.store.revision()
        interludes = Interludes(self._clock, self.between)
        started = RunStarted(
            run_id,
            started_at,
            request.trigger,
            request.dry_run,
            request.force,
            request.session_id,
        )
        await self.listeners.tell(Event.START, started)
        plan, kept = request.plan, None
        if plan is None:
            plan = await self.plan(rulebook, force=request.force, session_id=request.session_id)
        else:
            plan, kept = await self._checked_plan(rulebook, plan)
            # Else a plan that takes longer to check than a run may last would never be done.
            start = self._clock.monotonic()
        means = self._means(
            rulebook,
            lambda: self._clock.monotonic() - start - interludes.taken_s,
            is_stopped,
            interludes,
        )
        run = Run(run_id, plan, means, request.dry_run, kept)
        if not request.dry_run:
            run.halt = _refusal(rulebook.config, plan, confirmed=request.confirmed)
        await run.carry_out()
        if not request.dry_run and plan.units:
            self._cursor = plan.cursor
        result = PruningResult(
            id=run_id,
            plan_id=plan.id,
            trigger=request.trigger,
            started_at=started_at,
            completed_at=self._clock.now(),
            dry_run=request.dry_run,
            force=request.force,
            session_id=request.session_id,
            status=run.status,
            detail=_detail(run),
            pruned_items=tuple(run.ledger.pruned),
            skipped_items=tuple(run.ledger.skipped),
            errors=tuple(run.ledger.failures.first),
            stats=run.ledger.stats(means.elapsed_s()),
            more=plan.more,
        )
        self._note_quiet(request, plan, result, revision)
        await self.listeners.tell(Event.COMPLETE, result)
        return result

    def _checked(self, config: PruningConfig) -> PruningConfig:
        summarizer = self._summarizer is not None
        return checked_config(config, functions=self.evaluators, summarizer=summarizer)

    def _situation(self, *, force: bool, session_id: str | None) -> Situation:
        return Situation(
            now=self._clock.now(),
            force=force,
            session_id=session_id,
            live_turns=dict(self._live_turns()),
            quarantined=self.quarantine.ids(),
            cursor=self._cursor,
        )

    def _means(
        self,
        rulebook: Rulebook,
        elapsed_s: Callable[[], float],
        is_stopped: Callable[[], bool],
        interludes: Interludes,
    ) -> Means:
        config = rulebook.config

        async def summarize(
            item: PrunableItem, action: SummarizeAction, reason: str
        ) -> ItemSummary | None:
            if is_stopped():
                return None

            with CancelScope() as scope:
                self._writing = scope
                try:
                    writing = self._summarize(config, item, action, reason, elapsed_s)
                    return await interludes.beside(writing)
                finally:
                    self._writing = None
            return None

        return Means(
            store=self.store,
            rulebook=rulebook,
            quarantine=self.quarantine,
            waiting=self._waiting,
            now=self._clock.now,
            elapsed_s=elapsed_s,
            pause=self._pause(),
            between=interludes.take,
            tell=self.listeners.tell,
            summarize=summarize,
            live_turns=self._live_turns,
            exempt=lambda: self.rulebook.exempt,
            is_stopped=is_stopped,
        )

    async def _summarize(
        self,
        config: PruningConfig,
        item: PrunableItem,
        action: SummarizeAction,
        reason: str,
        elapsed_s: Callable[[], float],
    ) -> ItemSummary | None:
        if self._summarizer is None:
            raise ConflictError("there is no summarizer")

        limit_s, budget_s = config.summarizer_timeout_s, config.budgets.max_duration_s
        left_s = limit_s if budget_s is None else budget_s - elapsed_s()
        writing = self._summarizer.summarize(
            item, target_tokens=action.target_tokens, reason=reason
        )
        try:
            return checked_summary(await self._within(min(limit_s, left_s), writing))
        except TimeoutError:
            if left_s < limit_s:
                return None

            raise

    def _note_quiet(
        self, request: Request, plan: Plan, result: PruningResult, revision: int
    ) -> None:
        """Keep that there is nothing to do until an item changes or gets older.

        Args:
            request: What was asked for.
            plan: What was to be done.
            result: What was done.
            revision: That of the store before the plan: what was stored since was not looked at.
        """
        stays = {SkipReason(one) for one in result.stats.skipped_by_reason}
        whole = request.session_id is None and not request.force and not request.dry_run
        whole = whole and request.plan is None
        over = result.success and not result.pruned_items and not result.more
        if whole and over and not stays & _PASSING:
            self._quiet = (revision, self.rulebook.version, plan.made_at)

    def _evaluate_at(self, now: datetime) -> Evaluate:
        timeout_s = self.rulebook.config.evaluator_timeout_s

        def bounded(answer: Awaitable[bool]) -> Awaitable[bool]:
            return self._within(timeout_s, answer)

        async def evaluate(condition: CustomCondition, item: PrunableItem) -> bool:
            evaluator = self.evaluators[condition.function]
            return await ask(evaluator, item, condition, now, bounded)

        return evaluate

    async def _within(self, limit_s: float, awaitable: Awaitable[T]) -> T:
        return await within(self._clock, limit_s, awaitable)

    def _pause(self) -> Pause:
        done = 0

        async def pause(units: int) -> None:
            nonlocal done
            done += units
            if done >= PAUSE_UNITS:
                done = 0
                await self._clock.sleep(0)

        return pause


def _detail(run: Run) -> str:
    """Return why a run ended before its time; of a dry run also why a true one would be refused."""
    if run.halt is not None:
        return run.halt.detail

    return run.plan.breaker if run.dry_run else ""


def _refusal(config: PruningConfig, plan: Plan, *, confirmed: bool) -> Halt | None:
    """Return why nothing of a plan is done."""
    if not config.enabled:
        return Halt(SkipReason.DISABLED, "pruning is switched off", RunStatus.REFUSED)
    if plan.breaker and not confirmed:
        return Halt(SkipReason.BREAKER, plan.breaker, RunStatus.REFUSED)

    return None
