"""The entries of a salvage and the rows of its database, made to agree as a start expects them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gateway.durable.batch import Transaction
from gateway.durable.connection import Connection
from gateway.errors import GatewayError
from gateway.model import AgentId, SessionId, SessionKey, SessionSource
from gateway.sessions.entry import SessionEntry, display_name, encode_member
from gateway.sessions.history import record_started, stamp
from gateway.sessions.key import parse_key
from gateway.upkeep.agreement import entries_of
from gateway.upkeep.losses import Losses
from gateway.upkeep.salvage_log import SalvagedLog
from gateway.upkeep.salvage_merging import Merged

Record = dict[str, object]
_MOST: Final = 2**63 - 1
"""The largest number a column holds; a damaged one may add up to more."""
_GROWING: Final = (
    "updated_at",
    "turns",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "total_tokens",
)
"""What a transcript tells of an entry, and never becomes less in a session."""
_OF_SESSIONS: Final = {
    "model_calls": "model calls: token counts",
    "projections": "shortened tool results of contexts",
    "context_accounts": "accounts of contexts",
    "summaries": "summaries of old turns",
    "session_users": "names of users",
}
"""What goes with the session it belongs to."""
_HOMELESS: Final = ("session_id", "turn_id", "role", "text", "tool_calls", "created_at")


@dataclass(slots=True)
class Settling:
    """Settles the entries of a salvage in its new database."""

    connection: Connection
    merged: Merged
    log: SalvagedLog
    losses: Losses
    now: datetime
    keep: Callable[[Record], None]
    """Takes the messages that nobody can be found for any more."""

    def settle(self) -> int:
        """Make entries and rows agree; return how many entries were rebuilt from transcripts."""
        caught_up = 0
        for entry in entries_of(self.merged.table):
            caught_up += self._take(entry)
        if caught_up:
            text = f"{caught_up} entries were older than their transcripts, and brought up to them"
            self.losses.note(text)
        self._adopt_orphans()
        rebuilt = self._without_entry()
        if rebuilt:
            what = (
                "entries rebuilt from their transcripts; pauses, names and context sizes are lost"
            )
            self.losses.add("entries", what, count=rebuilt)
        self.connection.execute(
            "DELETE FROM inbox WHERE EXISTS (SELECT 1 FROM outbox WHERE outbox.session_key = "
            "inbox.session_key AND outbox.message_id = inbox.message_id)"
        )
        answered = self.connection.changes()
        if answered:
            self.losses.note(f"gateway.db: {answered} messages that waited were answered already")
        return rebuilt

    def _take(self, entry: SessionEntry) -> bool:
        """Give an entry its session's row, or drop it; tell whether it was brought up to date."""
        row = self.connection.execute(
            "SELECT session_key, ended_at FROM sessions WHERE session_id = ?", (entry.session_id,)
        ).fetchone()
        if row is not None and row[0] != entry.session_key:
            what = "entries whose session id is another key's"
            self.losses.add("entries", what, entry.session_key)
            self.merged.table.drop(entry.session_key)
            return False

        caught_up = False
        if row is not None and not self.merged.exact:
            if row[1] is not None and not _was_used_after(entry, str(row[1])):
                # Removed, pruned or reset since: what goes on under the key comes below.
                self.merged.table.drop(entry.session_key)
                return False

            caught_up = not self.log.taken and self._catch_up(entry)
        record_started(Transaction(self.connection), entry)
        return caught_up

    def _catch_up(self, entry: SessionEntry) -> bool:
        """Bring an older entry to what its transcript tells; False where it tells no more."""
        told = _rebuilt(self.connection, entry.session_key, entry.session_id, entry.created_at)
        if told is None or told.turns <= entry.turns:
            return False

        most = {name: max(getattr(entry, name), getattr(told, name)) for name in _GROWING}
        fresh = entry.changed(**most, model=told.model or entry.model)
        self.merged.table.put(entry.session_key, encode_member(fresh))
        return True

    def _adopt_orphans(self) -> None:
        """Give sessions that only messages tell of back to their keys, as far as replies tell."""
        for (session_id,) in self.connection.execute(
            "SELECT session_id FROM messages GROUP BY session_id "
            "HAVING session_id NOT IN (SELECT session_id FROM sessions)"
        ).fetchall():
            row = self.connection.execute(
                "SELECT outbox.session_key, messages.created_at FROM messages JOIN outbox "
                "ON outbox.turn_id = messages.turn_id WHERE messages.session_id = ? LIMIT 1",
                (session_id,),
            ).fetchone()
            if row is None:
                self._give_away(str(session_id))
                continue
            self.connection.execute(
                "INSERT INTO sessions (session_id, session_key, started_at, ended_at, end_reason) "
                "VALUES (?, ?, ?, ?, 'salvaged')",
                (session_id, row[0], row[1], stamp(self.now)),
            )
        for table, what in _OF_SESSIONS.items():
            self.connection.execute(
                f"DELETE FROM {table} WHERE session_id NOT IN (SELECT session_id FROM sessions)"  # noqa: S608 - names of ours
            )
            gone = self.connection.changes()
            if gone:
                lost = f"{what} of sessions whose key is lost"
                self.losses.add(f"gateway.db: {table}", lost, count=gone)

    def _give_away(self, session_id: str) -> None:
        what = "conversations whose key is lost, kept in salvaged-messages.jsonl"
        self.losses.add("gateway.db: messages", what, session_id)
        for message in self.connection.execute(
            f"SELECT {', '.join(_HOMELESS)} FROM messages WHERE session_id = ? ORDER BY position",  # noqa: S608 - names of ours
            (session_id,),
        ):
            self.keep(dict(zip(_HOMELESS, message, strict=True)))
        self.connection.execute("DELETE FROM messages WHERE session_id = ?", (session_id,))

    def _without_entry(self) -> int:
        """Rebuild the entry of each session that no entry goes on with, or end it."""
        removed = {key for key, member in self.log.changes.values() if member is None}
        rebuilt = 0
        for session_id, key, started_at in self.connection.execute(
            "SELECT session_id, session_key, started_at FROM sessions WHERE ended_at IS NULL "
            "ORDER BY position DESC"
        ).fetchall():
            current = self.merged.table.get(str(key))
            if current is not None and current.session_id == session_id:
                continue
            lost = None
            if current is None and key not in removed and not self.merged.ahead:
                began = _instant(started_at)
                lost = began and _rebuilt(self.connection, str(key), str(session_id), began)
            if lost:
                self.merged.table.put(lost.session_key, encode_member(lost))
                rebuilt += 1
            else:
                self.connection.execute(
                    "UPDATE sessions SET ended_at = ?, end_reason = 'salvaged' "
                    "WHERE session_id = ?",
                    (stamp(self.now), session_id),
                )
        return rebuilt


def set_position(connection: Connection, sequence: int, *, taken: bool) -> None:
    """Mark a database as one whose snapshot reaches to a change, and whose log is empty."""
    state = {"used": 1, "clean": 1, "floor": sequence, "last": sequence}
    for name, value in (state | ({"taken": 1} if taken else {})).items():
        connection.execute("INSERT INTO store_state (name, value) VALUES (?, ?)", (name, value))


def _was_used_after(entry: SessionEntry, ended_at: str) -> bool:
    at = _instant(ended_at)
    return at is not None and entry.updated_at > at


def _instant(text: object) -> datetime | None:
    """Return an instant of a row; None where damage has made none of it."""
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return None

    return at if at.tzinfo is UTC else None


def _rebuilt(
    connection: Connection, key: str, session_id: str, created_at: datetime
) -> SessionEntry | None:
    """Return an entry as its transcript and model calls tell of it; None where they cannot."""
    turns, last_at = connection.execute(
        "SELECT count(DISTINCT turn_id), max(created_at) FROM messages WHERE session_id = ?",
        (session_id,),
    ).fetchall()[0]
    sums = connection.execute(
        "SELECT total(input_tokens), total(output_tokens), total(cache_read_tokens), "
        "total(cache_write_tokens), max(started_at), model FROM model_calls WHERE session_id = ?",
        (session_id,),
    ).fetchall()[0]
    tokens = [min(_MOST, max(0, int(float(str(number))))) for number in sums[:4]]
    try:
        parts = parse_key(key)
    except GatewayError:
        return None

    source = SessionSource(
        platform=parts.platform,
        chat_id=parts.chat,
        chat_type=parts.chat_type,
        account=parts.account,
        thread_id=parts.thread,
        user_id=parts.user,
    )
    return SessionEntry(
        session_key=SessionKey(key),
        session_id=SessionId(session_id),
        agent=AgentId(parts.agent),
        created_at=created_at,
        updated_at=max(created_at, _instant(last_at) or created_at),
        source=source,
        display_name=display_name(source),
        turns=int(str(turns)),
        model=str(sums[5] or ""),
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        cache_read_tokens=tokens[2],
        cache_write_tokens=tokens[3],
        total_tokens=min(_MOST, sum(tokens)),
    )
