"""When the rules next have something to do, found without a plan: by the oldest items and by sums.

Pure. It may be too early, where the only items in question are protected; it is never too late.
"""

from __future__ import annotations

from contextlib import aclosing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from gateway.pruning.passes import items_of, set_of
from gateway.pruning.planner import PAGE
from gateway.pruning.rules import Protection, RuleScope

if TYPE_CHECKING:
    from gateway.pruning.items import PrunableItem
    from gateway.pruning.rulebook import Rulebook, ScopedRule
    from gateway.pruning.shards import Pause
    from gateway.pruning.store import ItemQuery, ItemStore

_MOMENT: Final = timedelta(microseconds=1)
"""At its greatest age an item is not yet older than that."""


async def next_due(
    rulebook: Rulebook,
    store: ItemStore,
    now: datetime,
    pause: Pause,
    *,
    looked_at: datetime | None = None,
) -> datetime | None:
    """Return when a rule first has something to do; None where that is not to be foreseen.

    Args:
        now: What is due already is due now.
        looked_at: When everything was looked at last and nothing was taken, and no item has changed
            since: what was due then stays.
    """
    first: datetime | None = None
    for _, scoped in rulebook.enabled():
        at = await _due(scoped, rulebook, store, now, pause, looked_at)
        if at is not None:
            first = at if first is None else min(first, at)
        if first is not None and first <= now:
            return now
    return first


async def _due(
    scoped: ScopedRule,
    rulebook: Rulebook,
    store: ItemStore,
    now: datetime,
    pause: Pause,
    looked_at: datetime | None,
) -> datetime | None:
    rule = scoped.rule
    if rule.set_conditions:
        if looked_at is not None and not rule.custom_conditions and rule.max_age_s is None:
            return None

        return now if await _is_over(scoped, set_of(scoped), store, pause) else None

    ages = [rule.max_age_s or 0.0]
    if Protection.YOUNG not in rule.ignore_protections:
        ages.append(rulebook.config.protections.min_age_s)
    age = timedelta(seconds=max(ages))
    since = None if looked_at is None or rule.custom_conditions else looked_at - age
    found = await _oldest(items_of(scoped), store, since, pause)
    if found is None:
        return None

    return found.created_at + age + (_MOMENT if age else timedelta(0))


async def _is_over(scoped: ScopedRule, query: ItemQuery, store: ItemStore, pause: Pause) -> bool:
    conditions = scoped.rule.set_conditions
    if scoped.rule.scope is RuleScope.ALL:
        totals = await store.sum(query)
        return all(one.total(totals) > one.maximum for one in conditions)

    async with aclosing(store.sessions_over(query, conditions[0])) as slices:
        async for over in slices:
            await pause(PAGE)
            for totals in over.values():
                if all(one.total(totals) > one.maximum for one in conditions):
                    return True
    return False


async def _oldest(
    query: ItemQuery, store: ItemStore, since: datetime | None, pause: Pause
) -> PrunableItem | None:
    """Return the oldest item of a query that was not made before an instant."""
    after = None if since is None else (since, "")
    while True:
        page = await store.page(query, after=after, limit=PAGE)
        await pause(PAGE)
        if page.items:
            return page.items[0]
        if page.next is None:
            return None
        after = page.next
