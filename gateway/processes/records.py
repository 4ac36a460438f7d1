"""The rows of background processes: written before they are started, kept until well after.

A row without `ended_at` is of a process that runs, or ran when the gateway ended; one without
`reported_at` is owed to its session.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.model import AgentId, ChatType, SessionId, SessionKey, SessionSource
from gateway.processes.identity import KeeperIdentity

if TYPE_CHECKING:
    from gateway.durable.batch import Queries, Transaction

MAX_OUTPUT_CHARS: Final = 8_000
"""How much of the end of its output stands in the row of an ended process."""
_COLUMNS: Final = (
    "process_id, session_key, session_id, agent, source, command, cwd, created_at, pid, "
    "start_ticks, boot_id, ended_at, end_reason, detail, exit_status, output_bytes, output, "
    "output_whole, reported_at"
)


class EndReason(StrEnum):
    """How a process came to its end."""

    EXITED = "exited"
    """By itself, or by a signal that nobody here sent."""
    STOPPED = "stopped"
    """It was asked to."""
    TIMED_OUT = "timed_out"
    FAILED = "failed"
    """It could not be started; `detail` says why."""
    LOST = "lost"
    """Nobody knows; `detail` says why."""


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """What became of a process."""

    at: str
    """RFC 3339 in UTC; of a lost one, when that was found."""
    reason: EndReason
    detail: str = ""
    exit_status: int | None = None
    """Negative for a signal; None where there is none."""
    output_bytes: int = 0
    """How much it wrote, kept or not."""
    output: str = ""
    """The end of what it wrote: whole lines, at most `MAX_OUTPUT_CHARS`."""
    output_whole: bool = True
    """Whether that is all of it, though what steers a terminal is taken out."""


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A background process as it is recorded."""

    process_id: str
    """`p-` and 10 hexadecimal digits; never the name of a session."""
    session_key: SessionKey
    session_id: SessionId
    agent: AgentId
    source: SessionSource
    """Where the message came from that it was started for."""
    command: tuple[str, ...]
    """The words it is started with."""
    cwd: str
    created_at: str
    """RFC 3339 in UTC."""
    keeper: KeeperIdentity | None = None
    """None before its keeper is there."""
    end: ProcessEnd | None = None
    """None while it runs."""
    reported_at: str | None = None
    """When its session was told of its end; RFC 3339 in UTC."""


def process_id(session_key: SessionKey, request: str) -> str:
    """Return the id of a new process: random, or for a request of a name always the same."""
    if not request:
        return f"p-{secrets.token_hex(5)}"

    name = f"{session_key}\0{request}".encode()
    return f"p-{hashlib.blake2b(name, digest_size=5).hexdigest()}"


def add(transaction: Transaction, record: ProcessRecord) -> None:
    """Store a process that is about to be started."""
    transaction.execute(
        "INSERT INTO processes (process_id, session_key, session_id, agent, source, command, cwd, "
        "created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.process_id,
            record.session_key,
            record.session_id,
            record.agent,
            orjson.dumps(record.source).decode(),
            orjson.dumps(record.command).decode(),
            record.cwd,
            record.created_at,
        ),
    )


def note_keeper(transaction: Transaction, process_id: str, keeper: KeeperIdentity) -> None:
    """Store who keeps a process, before it is started."""
    transaction.execute(
        "UPDATE processes SET pid = ?, start_ticks = ?, boot_id = ? WHERE process_id = ?",
        (keeper.pid, keeper.start_ticks, keeper.boot_id, process_id),
    )


def note_end(transaction: Transaction, process_id: str, end: ProcessEnd) -> None:
    """Store how a process ended; what was stored first stays."""
    transaction.execute(
        "UPDATE processes SET ended_at = ?, end_reason = ?, detail = ?, exit_status = ?, "
        "output_bytes = ?, output = ?, output_whole = ? WHERE process_id = ? AND ended_at IS NULL",
        (
            end.at,
            end.reason.value,
            end.detail,
            end.exit_status,
            end.output_bytes,
            end.output,
            end.output_whole,
            process_id,
        ),
    )


def stage_reported(transaction: Transaction, process_id: str, at: str) -> bool:
    """Note that the session of an ended process is told; False where it was, or there is no row.

    In the transaction that tells it: so it is told once, whatever happens.
    """
    return bool(
        transaction.execute(
            "UPDATE processes SET reported_at = ? WHERE process_id = ? AND ended_at IS NOT NULL "
            "AND reported_at IS NULL RETURNING 1",
            (at, process_id),
        ).fetchall()
    )


def discard_reported(transaction: Transaction, *, before: str, limit: int) -> int:
    """Delete rows of processes that were reported before an instant; return how many."""
    transaction.execute(
        "DELETE FROM processes WHERE position IN "
        "(SELECT position FROM processes WHERE reported_at < ? LIMIT ?)",
        (before, limit),
    )
    return transaction.connection.changes()


def find(place: Queries, process_id: str) -> ProcessRecord | None:
    """Return a process."""
    rows = place.execute(
        f"SELECT {_COLUMNS} FROM processes WHERE process_id = ?",  # noqa: S608 - constant column names
        (process_id,),
    ).fetchall()
    return _record(rows[0]) if rows else None


def unreported(place: Queries) -> list[ProcessRecord]:
    """Return the processes that run or whose end is owed to their session, in order."""
    rows = place.execute(
        f"SELECT {_COLUMNS} FROM processes WHERE reported_at IS NULL ORDER BY position"  # noqa: S608 - constant column names
    )
    return [_record(row) for row in rows]


def latest(
    place: Queries, *, session_key: SessionKey | None = None, limit: int
) -> list[ProcessRecord]:
    """Return the latest processes, those that have not ended first; of one session, or of all."""
    rows = place.execute(
        f"SELECT {_COLUMNS} FROM processes WHERE ?1 IS NULL OR session_key = ?1 "  # noqa: S608 - constant column names
        "ORDER BY ended_at IS NOT NULL, position DESC LIMIT ?2",
        (session_key, limit),
    )
    return [_record(row) for row in rows]


def has_live(place: Queries, session_key: SessionKey) -> bool:
    """Return whether a process of a session has not ended."""
    return bool(
        place.execute(
            "SELECT 1 FROM processes WHERE session_key = ? AND ended_at IS NULL LIMIT 1",
            (session_key,),
        ).fetchall()
    )


def _record(row: tuple[Any, ...]) -> ProcessRecord:
    process_id, key, session_id, agent, source, command, cwd, created_at = row[:8]
    pid, ticks, boot_id, ended_at, reason, detail, status = row[8:15]
    output_bytes, output, output_whole, reported_at = row[15:]
    fields = orjson.loads(source)
    fields["chat_type"] = ChatType(fields["chat_type"])
    end = None
    if ended_at is not None:
        what = (output_bytes, output, bool(output_whole))
        end = ProcessEnd(ended_at, EndReason(reason), detail, status, *what)
    return ProcessRecord(
        process_id=process_id,
        session_key=SessionKey(key),
        session_id=SessionId(session_id),
        agent=AgentId(agent),
        source=SessionSource(**fields),
        command=tuple(orjson.loads(command)),
        cwd=cwd,
        created_at=created_at,
        keeper=None if pid is None else KeeperIdentity(pid, ticks, boot_id),
        end=end,
        reported_at=reported_at,
    )
