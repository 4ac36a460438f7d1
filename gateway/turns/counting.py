"""The requests of a turn as they are stored: each once, ahead of the next one or with the commit.

A turn with tools makes many requests. Those that have finished are stored before the next one is
sent, so that a daemon that is killed loses the count of one request at most, and budgets and the
state of the provider's prompt cache know of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from gateway.model import CallPurpose, Usage
from gateway.transcripts import usage
from gateway.transcripts.writing import append_model_calls
from gateway.turns.outcome import MadeCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.durable.batch import Transaction
    from gateway.model import SessionId, TurnId
    from gateway.sessions.entry import SessionEntry


@dataclass(slots=True)
class TurnCalls:
    """The finished requests of a turn, and how many of them are stored."""

    made: list[MadeCall]
    """In order; it grows while the turn runs."""
    stored: int = 0
    """So many of the first are stored already."""

    def unstored(self) -> list[MadeCall]:
        """Return those that are still to be stored."""
        return self.made[self.stored :]


def used(calls: Sequence[MadeCall]) -> Usage:
    """Return what providers counted for requests, all together."""
    return sum((made.call.usage for made in calls if made.call.usage), start=Usage())


def is_counted(calls: Sequence[MadeCall]) -> bool:
    """Return whether a provider counted one of them."""
    return any(made.call.usage is not None for made in calls)


def store_calls(
    transaction: Transaction,
    session_id: SessionId,
    turn_id: TurnId,
    user: str,
    calls: Sequence[MadeCall],
) -> None:
    """Store requests and add them to the sums of what was used.

    Args:
        transaction: Where.
        session_id: The conversation.
        turn_id: The turn they were made for; empty where there was none.
        user: Whose usage it is.
        calls: Those that are not stored yet, in order.
    """
    for agent, group in groupby(calls, key=attrgetter("agent")):
        of_agent = list(group)
        append_model_calls(
            transaction,
            session_id,
            turn_id,
            agent,
            [one.call for one in of_agent],
            [one.verdict for one in of_agent],
            [one.usd for one in of_agent],
        )
        priced = [(one.call, one.usd) for one in of_agent]
        usage.count(transaction, session_id, agent, user, priced)


def spending(entry: SessionEntry, calls: Sequence[MadeCall]) -> dict[str, Any]:
    """Return what requests change of their session's entry: its sums, and who was asked last.

    A summary is no request of the conversation's: it says nothing of the prompt cache.
    """
    more = used(calls)
    changes: dict[str, Any] = {
        "input_tokens": entry.input_tokens + more.input_tokens,
        "output_tokens": entry.output_tokens + more.output_tokens,
        "cache_read_tokens": entry.cache_read_tokens + more.cache_read_tokens,
        "cache_write_tokens": entry.cache_write_tokens + more.cache_write_tokens,
        "total_tokens": entry.total_tokens + more.total_tokens,
    }
    last = next((one for one in reversed(calls) if one.call.purpose is CallPurpose.TURN), None)
    if last is not None:
        changes |= {
            "cache_touched_at": last.call.started_at,
            "cache_agent": last.agent,
            "model": last.call.model,
        }
    return changes
