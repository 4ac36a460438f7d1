"""The newest valid entry of each key, of all that could be read, and its place in a database."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from gateway.durable.batch import Transaction
from gateway.errors import GatewayError
from gateway.model import AgentId, SessionId, SessionKey, SessionSource
from gateway.sessions.entry import SessionEntry, display_name, encode_member
from gateway.sessions.history import owner_of, record_started, stamp
from gateway.sessions.key import parse_key
from gateway.sessions.table import SHARDS, EntryTable
from gateway.upkeep.agreement import entries_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.durable.connection import Connection
    from gateway.upkeep.losses import Losses
    from gateway.upkeep.salvage_files import SalvagedSnapshot
    from gateway.upkeep.salvage_rows import SalvagedLog

Record = dict[str, object]


def merged(
    snapshot: SalvagedSnapshot | None, previous: SalvagedSnapshot | None, log: SalvagedLog
) -> EntryTable:
    """Return the newest entry of each key.

    A whole snapshot is the base: a key it lacks has none but by a later change. Of one that is not
    whole, the snapshot before fills the holes; the log, which reaches back to that, tells of keys
    that were removed since.
    """
    bases = [one for one in (previous, snapshot) if one is not None]
    if snapshot is not None and snapshot.whole:
        bases = [snapshot]
    elif previous is not None and exact(previous, log):
        # With every change after it, this is what a start would come to.
        bases = [previous]
    table = EntryTable()
    reached: dict[str, int] = {}
    for base in bases:
        for shard in range(SHARDS):
            for member in base.table.members(shard):
                key = member[1 : member.find(b'":')].decode()
                table.put(SessionKey(key), member)
                if not base.whole:
                    reached[key] = base.sequence or 0
    # Of a key that a snapshot with holes lacks, any change there is of use.
    otherwise = (bases[0].sequence or 0) if bases and bases[0].whole else -1
    for sequence in sorted(log.changes):
        key, changed = log.changes[sequence]
        if sequence <= reached.get(key, otherwise):
            continue
        if changed is None:
            table.drop(SessionKey(key))
        else:
            table.put(SessionKey(key), changed)
    return table


def exact(snapshot: SalvagedSnapshot, log: SalvagedLog) -> bool:
    """Return whether a snapshot and the log make the present state without a guess."""
    reaches = log.floor is not None and snapshot.sequence is not None
    return bool(snapshot.whole and log.whole and reaches and log.floor <= snapshot.sequence)  # type: ignore[operator]


def settle(
    connection: Connection,
    table: EntryTable,
    log: SalvagedLog,
    losses: Losses,
    now: datetime,
    keep: Callable[[Record], None],
) -> int:
    """Make entries and rows agree as a start expects them; return how many entries were rebuilt.

    Messages that nobody can be found for any more go to `keep`.
    """
    transaction = Transaction(connection)
    for entry in entries_of(table):
        owner = owner_of(connection, entry.session_id)
        if owner in {None, entry.session_key}:
            record_started(transaction, entry)
        else:
            losses.add("entries", "entries whose session id is another key's", entry.session_key)
            table.drop(entry.session_key)
    _adopt_orphans(connection, losses, now, keep)
    removed = {key for key, member in log.changes.values() if member is None}
    rebuilt = 0
    for session_id, key, started_at in _without_entry(connection, table):
        lost = None
        if table.member(key) is None and key not in removed:
            lost = _rebuilt(connection, key, session_id, started_at)
        if lost is not None:
            table.put(lost.session_key, encode_member(lost))
            rebuilt += 1
        else:
            connection.execute(
                "UPDATE sessions SET ended_at = ?, end_reason = 'salvaged' WHERE session_id = ?",
                (stamp(now), session_id),
            )
    connection.execute(
        "DELETE FROM inbox WHERE EXISTS (SELECT 1 FROM outbox WHERE outbox.session_key = "
        "inbox.session_key AND outbox.message_id = inbox.message_id)"
    )
    return rebuilt


def _without_entry(connection: Connection, table: EntryTable) -> list[tuple[str, SessionKey, str]]:
    """Return the open sessions that no entry goes on with, newest first."""
    found = []
    for session_id, key, started_at in connection.execute(
        "SELECT session_id, session_key, started_at FROM sessions WHERE ended_at IS NULL "
        "ORDER BY position DESC"
    ):
        current = table.get(SessionKey(str(key)))
        if current is None or current.session_id != session_id:
            found.append((str(session_id), SessionKey(str(key)), str(started_at)))
    return found


def set_position(connection: Connection, sequence: int, *, taken: bool) -> None:
    """Mark a database as one whose snapshot reaches to a change, and whose log is empty."""
    state = {"used": 1, "clean": 1, "floor": sequence, "last": sequence}
    for name, value in (state | ({"taken": 1} if taken else {})).items():
        connection.execute("INSERT INTO store_state (name, value) VALUES (?, ?)", (name, value))


def _adopt_orphans(
    connection: Connection, losses: Losses, now: datetime, keep: Callable[[Record], None]
) -> None:
    """Give sessions that only their messages tell of back to their keys, as far as replies tell."""
    for (session_id,) in connection.execute(
        "SELECT session_id FROM messages GROUP BY session_id "
        "HAVING session_id NOT IN (SELECT session_id FROM sessions)"
    ).fetchall():
        row = connection.execute(
            "SELECT outbox.session_key, messages.created_at FROM messages JOIN outbox "
            "ON outbox.turn_id = messages.turn_id WHERE messages.session_id = ? LIMIT 1",
            (session_id,),
        ).fetchone()
        if row is None:
            what = "conversations whose key is lost, kept in salvaged-messages.jsonl"
            losses.add("gateway.db: messages", what, str(session_id))
            columns = ("session_id", "turn_id", "role", "text", "tool_calls", "created_at")
            for message in connection.execute(
                f"SELECT {', '.join(columns)} FROM messages WHERE session_id = ? ORDER BY position",  # noqa: S608 - names of ours
                (session_id,),
            ):
                keep(dict(zip(columns, message, strict=True)))
            connection.execute("DELETE FROM messages WHERE session_id = ?", (session_id,))
            continue
        connection.execute(
            "INSERT INTO sessions (session_id, session_key, started_at, ended_at, end_reason) "
            "VALUES (?, ?, ?, ?, 'salvaged')",
            (session_id, row[0], row[1], stamp(now)),
        )
    connection.execute(
        "DELETE FROM model_calls WHERE session_id NOT IN (SELECT session_id FROM sessions)"
    )


def _rebuilt(
    connection: Connection, key: str, session_id: str, started_at: str
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
    tokens = [int(float(str(number))) for number in sums[:4]]
    try:
        parts = parse_key(key)
        created_at = datetime.fromisoformat(started_at)
        updated_at = created_at if last_at is None else datetime.fromisoformat(str(last_at))
    except (GatewayError, ValueError):
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
        updated_at=updated_at,
        source=source,
        display_name=display_name(source),
        turns=int(str(turns)),
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        cache_read_tokens=tokens[2],
        cache_write_tokens=tokens[3],
        total_tokens=sum(tokens),
        model=str(sums[5] or ""),
    )
