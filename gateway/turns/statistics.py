"""What became of messages, counted since the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter

    from gateway.turns.owed import Owed
    from gateway.turns.running import Answering


@dataclass(frozen=True, slots=True)
class TurnStatistics:
    """What became of messages since the start."""

    running: int
    waiting: int
    completed: int
    failed: int
    """Turns that ended with an error the user was told."""
    deadline: int
    """Turns that took too long."""
    interrupted: int
    """Turns that somebody ended, or a restart."""
    lost_commits: int
    """Turns whose reply could not be stored; their messages are kept and run again."""
    duplicates: int
    refused: int
    paused: int
    """Messages to paused sessions."""
    recovered: int
    """Messages that a restart found unanswered."""
    stood_in: int
    """Turns that another agent has answered than their own."""
    asking: int
    """Turns that wait for the user's yes to a tool."""
    resting_agents: dict[str, float]
    """Agents that are not asked first for a time, for their provider failed; the seconds left."""


def turn_statistics(
    counts: Counter[str], owed: Owed, answering: Answering, asking: int
) -> TurnStatistics:
    """Return all of it.

    Args:
        counts: What became of messages before their turns.
        owed: The turns.
        answering: The agents.
        asking: Turns that wait for the user's yes to a tool.
    """
    ended = owed.counts
    return TurnStatistics(
        running=owed.workers.busy,
        waiting=owed.lanes.waiting,
        completed=ended["ok"],
        failed=ended["failed"],
        deadline=ended["deadline"],
        interrupted=ended["interrupted"],
        lost_commits=ended["lost"],
        duplicates=counts["duplicate"],
        refused=counts["refused"],
        paused=counts["paused"],
        recovered=counts["recovered"],
        stood_in=answering.stood_in,
        asking=asking,
        resting_agents=answering.breakers.resting(),
    )
