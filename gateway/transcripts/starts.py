"""How many starts found a turn of a session that ran when the gateway ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.model import SessionKey

if TYPE_CHECKING:
    from gateway.durable.batch import Transaction


def note_start(transaction: Transaction) -> dict[SessionKey, int]:
    """Count this start for each session that it finds so, and return all that are counted.

    A session keeps its count while a turn that was cut off waits to run again; all others begin
    anew. Whatever was cut off waits from here on.
    """
    transaction.execute(
        "DELETE FROM broken_starts WHERE session_key NOT IN "
        "(SELECT session_key FROM inbox WHERE (begun = 1 OR recoveries > 0) AND ended IS NULL)"
    )
    transaction.execute(
        "INSERT INTO broken_starts (session_key, starts) "
        "SELECT DISTINCT session_key, 1 FROM inbox WHERE begun = 1 AND ended IS NULL "
        "ON CONFLICT (session_key) DO UPDATE SET starts = starts + 1"
    )
    transaction.execute(
        "UPDATE inbox SET begun = 0, recoveries = recoveries + 1 WHERE begun = 1 AND ended IS NULL"
    )
    rows = transaction.execute("SELECT session_key, starts FROM broken_starts").fetchall()
    return {SessionKey(str(key)): int(str(starts)) for key, starts in rows}


def forget(transaction: Transaction, key: SessionKey) -> None:
    """Let a session begin anew: one of its turns was answered, or it is paused."""
    transaction.execute("DELETE FROM broken_starts WHERE session_key = ?", (key,))
