"""Which items belong together: a tool call and its results.

Pure. An item may make several calls, and each has its result; all of them are one group. A call
without a result makes a group incomplete; a result whose call is no more is on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.pruning.items import PrunableItem, answer_of, calls_of, pair_keys

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.pruning.items import PairKey
    from gateway.pruning.store import ItemStore


@dataclass(frozen=True, slots=True)
class Group:
    """Items that belong together, the oldest first."""

    items: tuple[PrunableItem, ...]
    complete: bool
    """Whether every call has its result."""


async def groups_of(store: ItemStore, items: Iterable[PrunableItem]) -> dict[str, Group]:
    """Return the group of each item that is part of a tool call, by item id."""
    found: dict[str, PrunableItem] = {}
    by_key: dict[PairKey, list[str]] = {}
    fresh = [item for item in items if pair_keys(item)]
    while fresh:
        wanted: set[PairKey] = set()
        for item in fresh:
            found[item.id] = item
            for key in pair_keys(item):
                if key not in by_key:
                    wanted.add(key)
        for key in wanted:
            by_key[key] = []
        halves = await store.halves(wanted) if wanted else ()
        for half in halves:
            for key in pair_keys(half):
                if key in wanted:
                    by_key[key].append(half.id)
        fresh = [half for half in halves if half.id not in found]
    return _joined(found, by_key)


def _joined(found: dict[str, PrunableItem], by_key: dict[PairKey, list[str]]) -> dict[str, Group]:
    groups: dict[str, Group] = {}
    for start in found:
        if start in groups:
            continue
        members, waiting = {start}, [start]
        while waiting:
            for key in pair_keys(found[waiting.pop()]):
                for item_id in by_key[key]:
                    if item_id in found and item_id not in members:
                        members.add(item_id)
                        waiting.append(item_id)
        group = _group([found[item_id] for item_id in members])
        groups.update(dict.fromkeys(members, group))
    return groups


def _group(items: list[PrunableItem]) -> Group:
    called = {key for item in items for key in calls_of(item)}
    answered = {answer_of(item) for item in items}
    ordered = tuple(sorted(items, key=lambda one: one.position))
    return Group(ordered, complete=called <= answered)
