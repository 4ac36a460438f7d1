"""What of a plan is done in one run: its budgets, shared fairly among the sessions.

Pure. Where there are budgets each session is served in turn, one unit a round, beginning after the
session that was served last; within a session highest priority and oldest first. So no session
waits for ever, however much another one brings.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar

from gateway.pruning.plan import PlannedAction, SkipReason
from gateway.pruning.rules import PruningBudgets, SummarizeAction

T = TypeVar("T")

Unit: TypeAlias = tuple[PlannedAction, ...]
"""Actions that are done together or not at all; all of one session."""
Pause: TypeAlias = Callable[[int], Awaitable[None]]
"""Lets others run, once so much work was done; a unit of work is a few microseconds."""

_SLICE: Final = 1_000
_SHARDS: Final = 256


@dataclass(slots=True)
class Chosen:
    """What is done in this run, and what is left for later ones."""

    units: list[Unit] = field(default_factory=list)
    left: list[tuple[Unit, SkipReason]] = field(default_factory=list)
    cursor: str = ""


@dataclass(slots=True)
class Spending:
    """How much of the budgets is used up."""

    budgets: PruningBudgets
    items: int = 0
    size_bytes: int = 0
    summaries: int = 0

    def lacks(self, unit: Unit) -> SkipReason | None:
        """Return which budget a unit does not fit into any more."""
        budgets = self.budgets
        items, size_bytes, summaries = cost(unit)
        if budgets.max_items is not None and self.items + items > budgets.max_items:
            return SkipReason.BUDGET_ITEMS
        if budgets.max_bytes is not None and self.size_bytes + size_bytes > budgets.max_bytes:
            return SkipReason.BUDGET_BYTES
        if (
            budgets.max_summaries is not None
            and summaries
            and self.summaries + summaries > budgets.max_summaries
        ):
            return SkipReason.BUDGET_SUMMARIES

        return None

    def spend(self, unit: Unit) -> None:
        """Use up what a unit takes."""
        items, size_bytes, summaries = cost(unit)
        self.items += items
        self.size_bytes += size_bytes
        self.summaries += summaries


def cost(unit: Unit) -> tuple[int, int, int]:
    """Return the items of a unit, the bytes that they take before, and the summaries to write."""
    return (
        len(unit),
        sum(one.before.size_bytes for one in unit),
        sum(isinstance(one.action, SummarizeAction) for one in unit),
    )


class _Queues:
    """The units of each session, the last one to be served first in the list.

    In many small tables: one large one would hold the loop up when it has to grow.
    """

    def __init__(self) -> None:
        self._shards: list[dict[str, list[Unit]]] = [{} for _ in range(_SHARDS)]

    def add(self, unit: Unit) -> None:
        name = unit[0].session_id
        shard = self._shards[hash(name) % _SHARDS]
        queue = shard.get(name)
        if queue is None:
            shard[name] = [unit]
        else:
            queue.append(unit)

    def of(self, name: str) -> list[Unit]:
        return self._shards[hash(name) % _SHARDS][name]

    async def turn(self, cursor: str, pause: Pause) -> deque[str]:
        """Return the sessions in order, beginning after one of them."""
        slices = []
        for shard in self._shards:
            slices.append(sorted(shard))
            await pause(len(shard) // 10)
        turn, rest = deque[str](), list[str]()
        for name in heapq.merge(*slices):
            (turn if name > cursor else rest).append(name)
            await pause(1)
        for name in rest:
            turn.append(name)
            await pause(1)
        await let_go(rest, pause)
        while slices:
            slices.pop()
            await pause(_SLICE // 10)
        return turn

    async def let_go(self, pause: Pause) -> None:
        for shard in self._shards:
            await let_go(shard, pause)


async def choose(
    units: Sequence[Unit], budgets: PruningBudgets, cursor: str, pause: Pause
) -> Chosen:
    """Return what of the units, highest priority and oldest first, is done in this run."""
    if not budgets.limited:
        return Chosen(list(units), cursor=cursor)

    queues = _Queues()
    for unit in reversed(units):
        queues.add(unit)
        await pause(1)

    turn = await queues.turn(cursor, pause)
    chosen, spending, nothing = Chosen(cursor=cursor), Spending(budgets), Spending(budgets)
    while turn:
        await pause(1)
        name = turn.popleft()
        queue = queues.of(name)
        unit = queue.pop()
        lack = spending.lacks(unit)
        if lack is None:
            spending.spend(unit)
            chosen.units.append(unit)
            chosen.cursor = name
        else:
            chosen.left.append((unit, lack))
            # What no run has room for holds nobody up; what the next run has room for comes first
            # there, for nothing newer of its session goes before it.
            if nothing.lacks(unit) is None and lack is not SkipReason.BUDGET_SUMMARIES:
                chosen.left += [(one, lack) for one in reversed(queue)]
                continue
        if queue:
            turn.append(name)
    await queues.let_go(pause)
    return chosen


async def let_go(container: list[T] | dict[str, T], pause: Pause) -> None:
    """Empty what is large without holding up the loop: to free it at once takes long as well."""
    while container:
        if isinstance(container, list):
            del container[-_SLICE // 5 :]
        else:
            for _ in range(min(len(container), _SLICE // 5)):
                container.popitem()
        await pause(_SLICE // 10)
