"""What is in the store at start: the snapshot, then every logged change after it.

Unreadable is never empty: where the files and the database do not fit together, starting is refused
with the reason and the way out. Runs in a thread, before anybody else touches the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from gateway.errors import DamagedDataError
from gateway.log import get_logger
from gateway.model import SessionId, SessionKey
from gateway.sessions.entry import FIELDS, EntryError, SessionEntry, encode_member, entry_from_dict
from gateway.sessions.history import owner_of
from gateway.sessions.position import LogPosition, read_position
from gateway.sessions.snapshot import Trusted, Unchecked, read_snapshot, sequence_at
from gateway.sessions.table import EntryTable

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.durable.connection import Connection
    from gateway.durable.directory import StateDirectory

SNAPSHOT: Final = "sessions.json"
PREVIOUS: Final = "sessions.json.prev"
_WAY_OUT: Final = (
    "put the file that belongs to the database in its place, or run `gateway store adopt` to take "
    "this one as the truth and set the rest aside"
)
_PUT_BACK: Final = (
    f"put a good one in its place ({PREVIOUS}, or one of a backup) and start again; one that is "
    "older than the session log reaches needs `gateway store adopt`; `gateway store salvage` "
    "writes a new state directory from whatever can be read"
)
_SALVAGE: Final = "`gateway store salvage` writes a new state directory from what can be read"
_ELSEWHERE: Final = "nested too deeply to be written here; the whole file is kept beside this one"


@dataclass(frozen=True, slots=True)
class Recovered:
    """The state a store starts from."""

    table: EntryTable
    sequence: int
    """The last change there is."""
    previous_sequence: int
    """What the snapshot that will become `.prev` covers; the log is kept from there on."""
    clean: bool
    """Whether the last shutdown was orderly and nothing had to be mended."""
    snapshot_usable: bool
    """Whether `sessions.json` may be kept as `.prev` when the next one is written."""
    replayed: int
    """Log rows applied after the snapshot."""
    quarantined: int
    """Entries set aside."""
    taken: bool = False
    """Whether entries came from a file that was not written beside this database."""


@dataclass(frozen=True, slots=True)
class _Base:
    table: EntryTable
    sequence: int
    from_previous: bool = False
    checked: bool = True
    quarantined: int = 0


def recover(connection: Connection, directory: StateDirectory, now: datetime) -> Recovered:
    """Load the store.

    Raises:
        DamagedDataError: nothing trustworthy is there, or the files do not fit the database.
    """
    position = read_position(connection)
    base = _base(connection, directory, now, position)
    replayed = _replay(connection, base)
    return Recovered(
        table=base.table,
        sequence=max(position.last, base.sequence),
        previous_sequence=base.sequence,
        clean=position.clean and base.checked and not base.from_previous and not replayed,
        snapshot_usable=not base.from_previous,
        replayed=replayed,
        quarantined=base.quarantined,
        taken=not base.checked or (not position.used and len(base.table) > 0),
    )


def _base(
    connection: Connection, directory: StateDirectory, now: datetime, position: LogPosition
) -> _Base:
    path = directory.path / SNAPSHOT
    try:
        found = read_snapshot(path, directory.disk)
    except DamagedDataError as damage:
        if not position.used:
            raise DamagedDataError(
                damage.path,
                f"{damage.reason}; mend the file, or take it away to begin without sessions",
                offset=damage.offset,
            ) from damage

        return _from_previous(directory, damage, now, position)

    if found is None:
        if position.used:
            raise DamagedDataError(path, f"missing beside a database that was in use; {_PUT_BACK}")

        return _Base(EntryTable(), 0)

    if position.used:
        _check_range(path, found.sequence, position)
    else:
        _check_alone(path, directory, found.sequence, position)
        kept = "as they are" if position.taken else "none: there was no database beside it"
        get_logger().warning("store.imported", path=str(path), transcripts=kept)
    if isinstance(found, Trusted):
        return _Base(found.table, found.sequence)

    return _validated(connection, directory, found, now)


def _from_previous(
    directory: StateDirectory, damage: DamagedDataError, now: datetime, position: LogPosition
) -> _Base:
    """Fall back to the snapshot before, loudly; the damaged one is kept in quarantine."""
    path = directory.path / PREVIOUS
    try:
        found = read_snapshot(path, directory.disk)
    except DamagedDataError:
        found = None
    stands_in = isinstance(found, Trusted) and position.covers(found.sequence)
    # A directory in the file's place cannot be set aside by a link, nor replaced.
    if not isinstance(found, Trusted) or not stands_in or damage.path.is_dir():
        raise DamagedDataError(
            damage.path,
            f"{damage.reason}; {PREVIOUS} cannot stand in for it; {_PUT_BACK}",
            offset=damage.offset,
        ) from damage

    kept = directory.set_aside_link(damage.path, reason=str(damage), at=now)
    get_logger().error(
        "store.snapshot_damaged",
        path=str(damage.path),
        reason=damage.reason,
        offset_bytes=damage.offset,
        used_instead=str(path),
        kept=str(kept),
    )
    return _Base(found.table, found.sequence, from_previous=True)


def _check_alone(
    path: Path, directory: StateDirectory, sequence: int, position: LogPosition
) -> None:
    """Refuse an unused database beside two snapshots with changes between them: one is missing."""
    before = sequence_at(directory.path / PREVIOUS, directory.disk)
    if before is not None and before < sequence and not position.taken:
        raise DamagedDataError(
            path,
            f"the database it was written beside is gone, for {PREVIOUS} tells of a store that was "
            f"in use; {_WAY_OUT}",
        )


def _check_range(path: Path, sequence: int, position: LogPosition) -> None:
    if sequence < position.floor:
        raise DamagedDataError(
            path,
            f"older (sequence {sequence}) than what the session log still covers "
            f"(from {position.floor}); {_WAY_OUT}",
        )

    if sequence > position.last:
        raise DamagedDataError(
            path,
            f"newer (sequence {sequence}) than the database beside it (up to {position.last}); "
            f"{_WAY_OUT}",
        )


def _validated(
    connection: Connection, directory: StateDirectory, found: Unchecked, now: datetime
) -> _Base:
    """Take every valid entry of a file without a check sum; set the others aside."""
    table, aside = EntryTable(), []
    owners: dict[SessionId, str] = {}
    for key, raw in found.sessions.items():
        try:
            entry = _entry_of(key, raw)
            _own(connection, owners, entry)
        except EntryError as exc:
            aside.append({"key": key, "reason": str(exc), "entry": raw})
            continue

        table.put(entry.session_key, encode_member(entry))
        unknown = sorted(raw.keys() - FIELDS) if isinstance(raw, dict) else []
        if unknown:
            reason = f"loaded, but these fields are not known: {', '.join(unknown)}"
            aside.append({"key": key, "reason": reason, "entry": raw})
    if aside:
        lines = b"".join(map(_line, aside))
        if _ELSEWHERE.encode() in lines:
            directory.set_aside_link(
                directory.path / SNAPSHOT, reason="holds entries that are nested too deeply", at=now
            )
        reason = (
            f"{len(aside)} entries of {SNAPSHOT} that are not wholly valid, each with its reason"
        )
        kept = directory.set_aside("entries.jsonl", lines, reason=reason, at=now)
        get_logger().warning(
            "store.entries_quarantined",
            count=len(aside),
            loaded=len(table),
            kept=str(kept),
            first_key=aside[0]["key"],
            first_reason=aside[0]["reason"],
        )
    return _Base(table, found.sequence, checked=False, quarantined=len(found.sessions) - len(table))


def _line(record: dict[str, object]) -> bytes:
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # orjson reads deeper than it writes
        shallow = record | {"entry": _ELSEWHERE}
        return orjson.dumps(shallow, option=orjson.OPT_APPEND_NEWLINE)


def _entry_of(key: str, raw: object) -> SessionEntry:
    entry = entry_from_dict(raw)
    if entry.session_key != key:
        raise EntryError("session_key: accepted is the key it stands under")

    return entry


def _own(connection: Connection, owners: dict[SessionId, str], entry: SessionEntry) -> None:
    """Let a session id have one key: two that shared one would read each other's transcript."""
    owner = owners.get(entry.session_id) or owner_of(connection, entry.session_id)
    if owner not in {None, entry.session_key}:
        raise EntryError(f"session_id: accepted is one that no other session has ({owner})")

    owners[entry.session_id] = entry.session_key


def _replay(connection: Connection, base: _Base) -> int:
    count = 0
    for sequence, key, member in connection.execute(
        "SELECT sequence, session_key, member FROM session_log "
        "WHERE sequence > ? ORDER BY sequence",
        (base.sequence,),
    ):
        try:
            if member is None:
                base.table.drop(SessionKey(str(key)))
            else:
                base.table.put(SessionKey(str(key)), bytes(member))
        except (TypeError, ValueError) as exc:
            place = f"the session log is damaged (sequence {sequence}); {_SALVAGE}"
            raise DamagedDataError(Path(connection.filename), place) from exc
        count += 1
    return count
