"""Summaries of old turns: what was said stays in the transcript, this is what is sent of it.

Every one is kept; the newest covers what those before it covered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gateway.model import AgentId, Summary, TurnId

if TYPE_CHECKING:
    from gateway.durable.batch import Queries, Transaction
    from gateway.model import SessionId

_COLUMNS: Final = "through_turn, turns, text, agent, model, tokens_before, tokens_after, through"


@dataclass(frozen=True, slots=True)
class KeptSummary:
    """A summary as it is kept."""

    summary: Summary
    made_at: str
    """RFC 3339 in UTC."""


def keep(transaction: Transaction, session_id: SessionId, summary: Summary, *, at: str) -> None:
    """Store a summary of a session's oldest turns; it counts from now on."""
    transaction.execute(
        f"INSERT INTO summaries (session_id, {_COLUMNS}, made_at) "  # noqa: S608 - constant column names
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            session_id,
            summary.through_turn,
            summary.turns,
            summary.text,
            summary.agent,
            summary.model,
            summary.tokens_before,
            summary.tokens_after,
            summary.through,
            at,
        ),
    )


def newest(connection: Queries, session_id: SessionId) -> Summary | None:
    """Return the summary that stands for a session's oldest turns; None where there is none."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM summaries WHERE session_id = ? ORDER BY position DESC LIMIT 1",  # noqa: S608 - constant column names
        (session_id,),
    ).fetchall()
    return _summary(rows[0]) if rows else None


def all_of(connection: Queries, session_id: SessionId) -> list[KeptSummary]:
    """Return every summary a session has had, oldest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS}, made_at FROM summaries WHERE session_id = ? ORDER BY position",  # noqa: S608 - constant column names
        (session_id,),
    ).fetchall()
    return [KeptSummary(_summary(row[:-1]), str(row[-1])) for row in rows]


def _summary(row: tuple[Any, ...]) -> Summary:
    through_turn, turns, text, agent, model, before, after, through = row
    return Summary(
        through_turn=TurnId(through_turn),
        turns=turns,
        text=text,
        agent=AgentId(agent),
        model=model,
        tokens_before=before,
        tokens_after=after,
        through=through,
    )
