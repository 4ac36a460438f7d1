"""Whether a rule may take an item: its conditions, what protects the item, what was done before.

Pure. It fails closed: where a function that a rule asks fails, or marks cannot be read, no rule
takes the item in this run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway.pruning.conditions import CustomCondition, holds
from gateway.pruning.items import PrunableItem, marks_of
from gateway.pruning.plan import PruningFailure, SkipReason
from gateway.pruning.rules import Protection
from gateway.pruning.shrinking import done_before

if TYPE_CHECKING:
    from gateway.pruning.rulebook import Rulebook, ScopedRule
    from gateway.pruning.store import ItemStore

Evaluate: TypeAlias = Callable[[CustomCondition, PrunableItem], Awaitable[bool]]
"""Asks a registered function; whatever it raises counts as its failure."""

SYSTEM_ROLE: Final = "system"


@dataclass(frozen=True, slots=True)
class Situation:
    """What a plan depends on beside the rules and the items."""

    now: datetime
    force: bool = False
    """Whether exempt sessions are not protected."""
    session_id: str | None = None
    """The one session to look at; None: all."""
    live_turns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """The turn that runs, by session id; an empty text stands for the whole session."""
    quarantined: Collection[str] = frozenset()
    """Ids of items that failed too often."""
    cursor: str = ""
    """The session that was served last."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule may do with an item."""

    meets: bool
    """Whether the conditions of the item hold; those of the set are not its own."""
    reason: SkipReason | None = None
    """Why it is not taken all the same."""
    passes: bool = False
    """Whether it is no part of a surplus, so that newer ones go in its place: it is protected, or
    another rule has it. One that fails is part of it: nothing newer goes because of a fault."""


FREE: Final = Verdict(meets=True)
MISS: Final = Verdict(meets=False)


class Judge:
    """Judges items of one plan."""

    def __init__(
        self, rulebook: Rulebook, store: ItemStore, situation: Situation, evaluate: Evaluate
    ) -> None:
        """Judge by these rules in this situation."""
        self.failures: list[PruningFailure] = []
        """What went wrong so far."""
        self._rulebook = rulebook
        self._store = store
        self._now = situation.now
        self._situation = situation
        self._evaluate = evaluate
        self._protections = rulebook.config.protections
        self._young_after = _before(situation.now, self._protections.min_age_s)
        self._failed: set[str] = set()
        self._newest: dict[str, frozenset[str]] = {}
        self._calm = not (
            situation.live_turns
            or self._protections.min_age_s
            or self._protections.keep_newest
            or (rulebook.exempt and not situation.force)
        )
        """Whether an item without marks of its own is protected by nothing."""

    async def prepare(self, scoped: ScopedRule, items: Sequence[PrunableItem]) -> None:
        """Learn what is needed to judge these items."""
        keep = self._protections.keep_newest
        if keep and Protection.NEWEST not in scoped.rule.ignore_protections:
            unknown = {one.session_id for one in items} - self._newest.keys()
            if unknown:
                self._newest.update(await self._store.newest(unknown, keep, until=self._now))

    async def judge(self, place: int, scoped: ScopedRule, item: PrunableItem) -> Verdict:
        """Return what the rule at a place may do with an item; functions are asked last."""
        verdict = self.compare(place, scoped, item)
        if not verdict.meets or not scoped.custom or verdict.reason is SkipReason.FAILED:
            return verdict

        try:
            for condition in scoped.custom:
                if not await self._evaluate(condition, item):
                    return Verdict(meets=False, passes=verdict.passes)
        except Exception as error:  # noqa: BLE001 - boundary around functions of others: a failure
            return self._fail(scoped, item, error)

        return verdict

    def compare(
        self, place: int, scoped: ScopedRule, item: PrunableItem, *, known: bool = False
    ) -> Verdict:
        """Return what the rule at a place may do with an item, if the functions it asks say yes.

        Args:
            known: Whether all other conditions of the item are known to hold.
        """
        if item.id in self._failed:
            return Verdict(meets=True, reason=SkipReason.FAILED)

        try:
            meets = known or all(holds(one, item, self._now) for one in scoped.compared)
            protection = self.protection(scoped, item)
            if protection is not None:
                return Verdict(meets, SkipReason(protection.value), passes=True)

            return self._by_state(place, scoped, item, meets=meets)
        except (AttributeError, TypeError, ValueError) as error:  # data that is not ours to read
            return self._fail(scoped, item, error)

    def protection(self, scoped: ScopedRule, item: PrunableItem) -> Protection | None:
        """Return the first that protects an item from a rule; pairs are looked at elsewhere."""
        if self._calm and not item.pinned and not item.metadata:
            return None

        ignored = scoped.rule.ignore_protections
        for protection, holds_for in self._checks(item):
            if holds_for and protection not in ignored:
                return protection
        return None

    def protections(self, item: PrunableItem) -> list[Protection]:
        """Return everything that protects an item, but for pairs."""
        return [protection for protection, holds_for in self._checks(item) if holds_for]

    def _checks(self, item: PrunableItem) -> tuple[tuple[Protection, bool], ...]:
        exempt = item.session_id in self._rulebook.exempt and not self._situation.force
        return (
            (Protection.EXEMPT, exempt),
            (Protection.PINNED, item.pinned),
            (Protection.SYSTEM, bool(item.metadata) and item.metadata.get("role") == SYSTEM_ROLE),
            (Protection.LIVE_TURN, is_live(self._situation.live_turns, item)),
            (Protection.YOUNG, self._is_young(item)),
            (Protection.NEWEST, item.id in self._newest.get(item.session_id, ())),
            (Protection.RESTORED, self._is_restored(item)),
        )

    def _by_state(
        self, place: int, scoped: ScopedRule, item: PrunableItem, *, meets: bool
    ) -> Verdict:
        if item.id in self._situation.quarantined:
            return Verdict(meets, SkipReason.QUARANTINED)

        if not item.metadata and scoped.rule.action.removes:
            return FREE if meets else MISS

        if self._is_settling(place, item):
            return Verdict(meets, SkipReason.SETTLING, passes=True)

        if meets and not scoped.rule.action.removes:
            reason = done_before(scoped.rule.action, item)
            if reason is None and self._store.gives_content and not item.content:
                reason = SkipReason.NO_CONTENT
            if reason is not None:
                return Verdict(meets, reason)

        return FREE if meets else MISS

    def _is_settling(self, place: int, item: PrunableItem) -> bool:
        """Return whether a rule that comes before has just made the item shorter."""
        marks = marks_of(item)
        if marks.at is None or self._now - marks.at >= _span(self._protections.settle_s):
            return False

        by = self._rulebook.place_of(marks.rule_id, item.session_id)
        return by is not None and by < place

    def _is_young(self, item: PrunableItem) -> bool:
        floor = self._protections.min_age_s
        return bool(floor) and item.created_at > self._young_after

    def restored_until(self, item: PrunableItem) -> datetime | None:
        """Return until when an item is left alone because it was restored; None: it was not."""
        at = marks_of(item).restored_at if item.metadata else None
        return None if at is None else at + _span(self._protections.restored_s)

    def _is_restored(self, item: PrunableItem) -> bool:
        until = self.restored_until(item)
        return until is not None and self._now < until

    def _fail(self, scoped: ScopedRule, item: PrunableItem, error: Exception) -> Verdict:
        self._failed.add(item.id)
        self.failures.append(
            PruningFailure(item.id, item.session_id, scoped.rule.id, describe(error))
        )
        return Verdict(meets=True, reason=SkipReason.FAILED)


def is_live(live_turns: Mapping[str, str], item: PrunableItem) -> bool:
    """Return whether an item belongs to a turn that runs; one that names no turn may."""
    if item.session_id not in live_turns:
        return False

    turn = live_turns[item.session_id]
    return not turn or item.turn_id in {"", turn}


def describe(error: BaseException) -> str:
    """Return what kind of error it was; its text may quote what somebody wrote."""
    return type(error).__name__


def _before(now: datetime, duration_s: float) -> datetime:
    return now - _span(duration_s)


def _span(duration_s: float) -> timedelta:
    return timedelta(seconds=duration_s)
