"""One rule on its way over the items: its query, the room of a set, what is planned of each item.

Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.pruning.conditions import (
    NO_TOTALS,
    SetCondition,
    SizeCondition,
    TokensCondition,
    Totals,
    surplus,
)
from gateway.pruning.plan import Cause, PlannedAction
from gateway.pruning.shrinking import expected_after
from gateway.pruning.store import ItemQuery

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from gateway.pruning.budgets import Unit
    from gateway.pruning.items import PrunableItem
    from gateway.pruning.rulebook import ScopedRule


def items_of(
    scoped: ScopedRule, session_id: str | None = None, *, created_before: datetime | None = None
) -> ItemQuery:
    """Return the query for the items that meet the conditions of an item, ages aside."""
    conditions = scoped.rule.conditions
    sizes = [one.max_size_bytes for one in conditions if isinstance(one, SizeCondition)]
    tokens = [one.max_tokens for one in conditions if isinstance(one, TokensCondition)]
    return ItemQuery(
        session_id=scoped.only or session_id,
        excluded=scoped.excluded,
        created_before=created_before,
        size_over_bytes=max(sizes, default=None),
        tokens_over=max(tokens, default=None),
        types=scoped.rule.types,
        with_content=bool(scoped.custom),
    )


def set_of(scoped: ScopedRule, session_id: str | None = None) -> ItemQuery:
    """Return the query for all that set conditions of a rule add up."""
    return ItemQuery(
        session_id=scoped.only or session_id,
        excluded=scoped.excluded,
        types=scoped.rule.types,
        with_content=bool(scoped.custom),
    )


class Room:
    """What of a set is still too much, by condition, while the oldest are walked through."""

    def __init__(self, conditions: tuple[SetCondition, ...], totals: Totals) -> None:
        """Begin with the whole surplus."""
        self.totals = totals
        """What the set came to before the rule."""
        self._left = [surplus(one, one.total(totals)) for one in conditions]
        self._amounts = [one.amount for one in conditions]
        self.spent = min(self._left) <= 0
        """Whether nothing is too much any more by one of the conditions."""

    def walk(self, items: Sequence[PrunableItem]) -> bool:
        """Count items as part of the surplus; return whether each condition gains by them."""
        gains = True
        for place, amount in enumerate(self._amounts):
            number = amount(items[0]) if len(items) == 1 else sum(map(amount, items))
            self._left[place] -= number
            gains = gains and bool(number)
        self.spent = min(self._left) <= 0
        return gains


class Pass:
    """One rule, held against all items or against one set of them."""

    def __init__(self, place: int, scoped: ScopedRule, now: datetime, room: Room | None) -> None:
        """Prepare what is the same for all of the items."""
        rule, sets = scoped.rule, () if room is None else scoped.rule.set_conditions
        looks = (*scoped.compared, *scoped.custom)
        self.place = place
        self.scoped = scoped
        self.room = room
        self.is_known = room is None or scoped.by_query
        """Whether all compared conditions hold for what the query finds."""
        self.cause = Cause(
            rule.id,
            rule.name,
            rule.action,
            (
                *((one.kind, one.threshold, "") for one in looks),
                *((one.kind, one.maximum, rule.scope.value) for one in sets),
            ),
        )
        self._now = now
        self._looks = [one.seen for one in looks]
        self._totals: tuple[float | str, ...] = (
            tuple(one.total(room.totals) for one in sets) if room else ()
        )

    def units(self, picked: Sequence[Sequence[PrunableItem]]) -> list[Unit]:
        """Return what becomes of items that are taken; in one go, for there may be very many."""
        looks, totals, now, cause = self._looks, self._totals, self._now, self.cause
        removes, new = cause.action.removes, tuple.__new__
        units = []
        for items in picked:
            unit = [
                new(  # a third of what calling the class costs
                    PlannedAction,
                    (
                        item.id,
                        item.session_id,
                        item.type,
                        item.version,
                        item.size_bytes,
                        item.tokens or 0,
                        NO_TOTALS if removes else expected_after(cause.action, item),
                        (*[look(item, now) for look in looks], *totals) if looks else totals,
                        cause,
                    ),
                )
                for item in items
            ]
            units.append(tuple(unit))
        return units
