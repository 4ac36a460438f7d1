"""Whether a rule may take an item: its conditions, what protects the item, what was done before.

Pure. It fails closed: where a function that a rule asks fails, or marks cannot be read, no rule
takes the item in this run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway.pruning.conditions import CustomCondition, holds
from gateway.pruning.failures import Failures
from gateway.pruning.items import PrunableItem, marks_of
from gateway.pruning.plan import PruningFailure, SkipReason
from gateway.pruning.rules import Protection
from gateway.pruning.shards import Ids
from gateway.pruning.shrinking import done_before

if TYPE_CHECKING:
    from gateway.pruning.rulebook import Rulebook, ScopedRule
    from gateway.pruning.store import ItemStore

Evaluate: TypeAlias = Callable[[CustomCondition, PrunableItem], Awaitable[bool]]
"""Asks a registered function; whatever it raises counts as its failure."""

_Check: TypeAlias = tuple[Protection, Callable[[PrunableItem], bool]]
_Checks: TypeAlias = tuple[tuple[_Check, ...], tuple[_Check, ...]]

_BY_METADATA: Final = (Protection.SYSTEM, Protection.RESTORED)
"""What nothing says of an item without metadata."""

SYSTEM_ROLE: Final = "system"
MAX_NEWEST: Final = 20_000
"""Sessions of which the newest items are remembered at a time."""


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
    another rule has it. One that fails, or was given back, is part of it: nothing newer goes
    because of a fault, or for the sake of what somebody wanted back."""


_NOT_ASKED: Final = frozenset({SkipReason.FAILED, SkipReason.QUARANTINED})
"""Of items that stay for such a reason no function is asked."""
FREE: Final = Verdict(meets=True)
MISS: Final = Verdict(meets=False)


class Judge:
    """Judges items of one plan."""

    def __init__(
        self,
        rulebook: Rulebook,
        store: ItemStore,
        situation: Situation,
        evaluate: Evaluate,
        concerns: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Judge by these rules in this situation.

        Args:
            rulebook: The rules.
            store: The items.
            situation: What else a verdict depends on.
            evaluate: Asks the functions that rules name.
            concerns: Whether the failure of an item of this id is kept in `failures`.
        """
        self.failures = Failures()
        """What went wrong so far."""
        self._concerns = concerns
        self._rulebook = rulebook
        self._store = store
        self._now = situation.now
        self._situation = situation
        self._evaluate = evaluate
        self._protections = rulebook.config.protections
        self._young_after = situation.now - _span(self._protections.min_age_s)
        self.failed = Ids()
        """Those of which a function failed: no rule takes them in this plan. Let go of it with the
        plan."""
        self._has_failed = False
        """Asked of every item; nearly always there is none."""
        self._newest: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._checks = tuple(self._in_force())
        self._of_rule: dict[int, _Checks] = {}

    async def prepare(self, scoped: ScopedRule, items: Iterable[PrunableItem]) -> None:
        """Learn what is needed to judge these items, until the next such call."""
        keep = self._protections.keep_newest
        if not keep or Protection.NEWEST in scoped.rule.ignore_protections:
            return

        needed = {one.session_id for one in items}
        for session_id in needed & self._newest.keys():
            self._newest.move_to_end(session_id)
        # Not a difference with the keys: that looks at each of thousands of them.
        unknown = {one for one in needed if one not in self._newest}
        if unknown:
            self._newest.update(await self._store.newest(unknown, keep, until=self._now))
        while len(self._newest) > max(MAX_NEWEST, len(needed)):
            self._newest.popitem(last=False)

    async def judge(self, place: int, scoped: ScopedRule, item: PrunableItem) -> Verdict:
        """Return what the rule at a place may do with an item; functions are asked last."""
        verdict = self.compare(place, scoped, item)
        if not verdict.meets or not scoped.custom or verdict.reason in _NOT_ASKED:
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
            place: Where the rule stands in the rulebook.
            scoped: The rule.
            item: The item.
            known: Whether all other conditions of the item are known to hold.
        """
        if self._has_failed and item.id in self.failed:
            return Verdict(meets=True, reason=SkipReason.FAILED)

        bare, full = self._of_rule.get(place) or self._prepared(place, scoped)
        try:
            meets = known or all(holds(one, item, self._now) for one in scoped.compared)
            verdict = FREE if meets else MISS
            for protection, protects in full if item.metadata else bare:
                if protects(item):
                    # What came back is part of a surplus: nothing newer goes for its sake.
                    passes = protection is not Protection.RESTORED
                    verdict = Verdict(meets, SkipReason(protection.value), passes=passes)
                    break
            else:
                if item.id in self._situation.quarantined:
                    verdict = Verdict(meets, SkipReason.QUARANTINED)
                elif item.metadata and self._is_settling(place, item):
                    verdict = Verdict(meets, SkipReason.SETTLING, passes=True)
                elif meets and not scoped.rule.action.removes:
                    verdict = self._by_content(scoped, item)
        except (AttributeError, TypeError, ValueError) as error:  # data that is not ours to read
            return self._fail(scoped, item, error)

        return verdict

    def protections(self, item: PrunableItem) -> list[Protection]:
        """Return everything that protects an item, but for pairs."""
        return [protection for protection, protects in self._checks if protects(item)]

    def restored_until(self, item: PrunableItem) -> datetime | None:
        """Return until when an item is left alone because it was restored; None: it was not."""
        at = marks_of(item).restored_at
        return None if at is None else at + _span(self._protections.restored_s)

    def _in_force(self) -> Iterator[_Check]:
        """Yield what may protect an item in this situation; each is asked of very many."""
        situation, exempt = self._situation, self._rulebook.exempt
        if exempt and not situation.force:
            yield Protection.EXEMPT, lambda item: item.session_id in exempt
        yield Protection.PINNED, lambda item: item.pinned
        yield Protection.SYSTEM, _is_of_system
        if situation.live_turns:
            yield Protection.LIVE_TURN, lambda item: is_live(situation.live_turns, item)
        if self._protections.min_age_s:
            yield Protection.YOUNG, lambda item: item.created_at > self._young_after
        if self._protections.keep_newest:
            yield Protection.NEWEST, lambda item: item.id in self._newest.get(item.session_id, ())
        yield Protection.RESTORED, self._is_restored

    def _prepared(self, place: int, scoped: ScopedRule) -> _Checks:
        """Return what may protect an item from a rule: one without metadata, and one with it."""
        ignored = scoped.rule.ignore_protections
        checks = tuple(one for one in self._checks if one[0] not in ignored)
        bare = tuple(one for one in checks if one[0] not in _BY_METADATA)
        self._of_rule[place] = bare, checks
        return bare, checks

    def _by_content(self, scoped: ScopedRule, item: PrunableItem) -> Verdict:
        """Return whether an item can be made shorter."""
        reason = done_before(scoped.rule.action, item)
        if reason is None and self._store.gives_content and not item.content:
            reason = SkipReason.NO_CONTENT
        return FREE if reason is None else Verdict(meets=True, reason=reason)

    def _is_settling(self, place: int, item: PrunableItem) -> bool:
        """Return whether a rule that comes before has just made the item shorter."""
        marks = marks_of(item)
        if marks.at is None or self._now - marks.at >= _span(self._protections.settle_s):
            return False

        by = self._rulebook.place_of(marks.rule_id, item.session_id)
        return by is not None and by < place

    def _is_restored(self, item: PrunableItem) -> bool:
        until = self.restored_until(item)
        return until is not None and self._now < until

    def _fail(self, scoped: ScopedRule, item: PrunableItem, error: Exception) -> Verdict:
        self._has_failed = True
        self.failed.update((item.id,))
        if self._concerns(item.id):
            failure = PruningFailure(item.id, item.session_id, scoped.rule.id, describe(error))
            self.failures.add(failure)
        return Verdict(meets=True, reason=SkipReason.FAILED)


def _is_of_system(item: PrunableItem) -> bool:
    return bool(item.metadata.get("role") == SYSTEM_ROLE)


def is_live(live_turns: Mapping[str, str], item: PrunableItem) -> bool:
    """Return whether an item belongs to a turn that runs; one that names no turn may."""
    if item.session_id not in live_turns:
        return False

    turn = live_turns[item.session_id]
    return not turn or item.turn_id in {"", turn}


def describe(error: BaseException) -> str:
    """Return what kind of error it was; its text may quote what somebody wrote."""
    return type(error).__name__


def _span(duration_s: float) -> timedelta:
    return timedelta(seconds=duration_s)
