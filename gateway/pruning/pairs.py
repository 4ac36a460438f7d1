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
    paired = [item for item in items if pair_keys(item)]
    if not paired:
        return {}

    found = {item.id: item for item in (*await store.halves(paired), *paired)}
    by_key: dict[PairKey, list[PrunableItem]] = {}
    for item in found.values():
        for key in pair_keys(item):
            by_key.setdefault(key, []).append(item)
    groups: dict[str, Group] = {}
    for item in paired:
        if item.id not in groups:
            group = _group(item, by_key)
            groups.update(dict.fromkeys((one.id for one in group.items), group))
    return groups


def _group(start: PrunableItem, by_key: dict[PairKey, list[PrunableItem]]) -> Group:
    members, waiting = {start.id: start}, [start]
    while waiting:
        for key in pair_keys(waiting.pop()):
            for item in by_key[key]:
                if item.id not in members:
                    members[item.id] = item
                    waiting.append(item)
    called = {key for item in members.values() for key in calls_of(item)}
    answered = {answer_of(item) for item in members.values()}
    ordered = tuple(sorted(members.values(), key=lambda one: one.position))
    return Group(ordered, complete=called <= answered)
