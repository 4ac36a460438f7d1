"""What of a plan is done in one run: its budgets, shared fairly among the sessions.

Pure. Where there are budgets each session is served in turn, one unit a round, beginning after the
session that was served last; within a session highest priority and oldest first. So no session
waits for ever, however much another one brings.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway.pruning.plan import PlannedAction, SkipReason
from gateway.pruning.rules import PruningBudgets, SummarizeAction
from gateway.pruning.shards import Pause, Shards

if TYPE_CHECKING:
    from collections.abc import Sequence

Unit: TypeAlias = tuple[PlannedAction, ...]
"""Actions that are done together or not at all; all of one session."""
Cost: TypeAlias = tuple[int, int, int]
"""The items of a unit, the bytes that they take before, and the summaries to write."""

NO_BUDGETS: Final = PruningBudgets()


@dataclass(slots=True)
class Chosen:
    """What is done in this run, and what is left for later ones."""

    units: list[Unit] = field(default_factory=list)
    left: list[tuple[list[Unit], SkipReason]] = field(default_factory=list)
    """What the budgets have no room for."""
    beyond: list[list[Unit]] = field(default_factory=list)
    """What a plan has no room for."""
    cursor: str = ""


@dataclass(slots=True)
class Spending:
    """How much of the budgets is used up."""

    budgets: PruningBudgets
    items: int = 0
    size_bytes: int = 0
    summaries: int = 0

    @property
    def is_over(self) -> bool:
        """Whether there is no room for any unit."""
        return self.budgets.max_items is not None and self.items >= self.budgets.max_items

    def lacks(self, cost: Cost) -> SkipReason | None:
        """Return which budget a unit does not fit into any more."""
        budgets, (items, size_bytes, summaries) = self.budgets, cost
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

    def spend(self, cost: Cost) -> None:
        """Use up what a unit takes."""
        items, size_bytes, summaries = cost
        self.items += items
        self.size_bytes += size_bytes
        self.summaries += summaries


def cost_of(unit: Unit) -> Cost:
    """Return what a unit takes of the budgets."""
    return (
        len(unit),
        sum([one.size_bytes for one in unit]),
        sum([isinstance(one.cause.action, SummarizeAction) for one in unit]),
    )


async def choose(
    units: Sequence[Unit], budgets: PruningBudgets, cursor: str, pause: Pause, *, most: int
) -> Chosen:
    """Return what of the units, highest priority and oldest first, is done in this run.

    Args:
        units: What the rules take.
        budgets: What a run may do.
        cursor: The session that was served last.
        pause: Lets others run.
        most: How many units a plan has room for.
    """
    queues = Shards[list[Unit]]()
    for unit in reversed(units):
        name = unit[0].session_id
        queues.part(name).setdefault(name, []).append(unit)
        await pause(1)

    turn = await _turn(queues, cursor, pause)
    chosen, spending, nothing = Chosen(cursor=cursor), Spending(budgets), Spending(budgets)
    while turn:
        await pause(1)
        name = turn.popleft()
        queue = queues.part(name)[name]
        if len(chosen.units) >= most:
            chosen.beyond.append(queue)
            continue
        if spending.is_over:
            chosen.left.append((queue[::-1], SkipReason.BUDGET_ITEMS))
            continue

        unit = queue.pop()
        cost = cost_of(unit)
        lack = spending.lacks(cost)
        if lack is None:
            spending.spend(cost)
            chosen.units.append(unit)
            chosen.cursor = name
        else:
            # What no run has room for holds nobody up; what the next run has room for comes first
            # there, for nothing newer of its session goes before it.
            waits = nothing.lacks(cost) is None and lack is not SkipReason.BUDGET_SUMMARIES
            chosen.left.append(([unit, *(reversed(queue) if waits else ())], lack))
            if waits:
                continue
        if queue:
            turn.append(name)
    await queues.let_go(pause)
    return chosen


async def _turn(queues: Shards[list[Unit]], cursor: str, pause: Pause) -> deque[str]:
    """Return the sessions in order, beginning after one of them."""
    slices = []
    for part in queues.parts:
        slices.append(sorted(part))
        await pause(len(part) // 10)
    turn, rest = deque[str](), deque[str]()
    for name in heapq.merge(*slices):
        (turn if name > cursor else rest).append(name)
        await pause(1)
    while rest:
        turn.append(rest.popleft())
        await pause(1)
    while slices:
        slices.pop()
        await pause(10)
    return turn
