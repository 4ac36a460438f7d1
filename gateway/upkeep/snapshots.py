"""Whether a snapshot is whole: its check sum, and every entry in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from gateway.errors import BadRequestError, DamagedDataError
from gateway.sessions.entry import (
    HOUR_CHARS,
    EntryError,
    decode_member,
    encode_member,
    entry_from_dict,
    identity,
    updated_at_text,
)
from gateway.sessions.key import agent_of
from gateway.sessions.snapshot import Trusted, read_snapshot
from gateway.sessions.table import SHARDS, EntryTable
from gateway.upkeep.findings import Report, Tally

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.durable.disk import Disk
    from gateway.sessions.entry import SessionEntry


@dataclass(slots=True)
class CheckedSnapshot:
    """A snapshot that was read and checked."""

    there: bool = False
    sound: bool = True
    """Whether what is there can be used; what is not there is no damage by itself."""
    checked: bool = True
    """Whether it has a check sum."""
    known: bool = True
    """False where it was not looked at, for it may be another one by now."""
    in_the_way: bool = False
    """Whether something has its name that no other file can be put in the place of."""
    sequence: int = 0
    table: EntryTable = field(default_factory=EntryTable)

    def came_before(self, other: CheckedSnapshot) -> bool:
        """Return whether both are there, and changes lie between: a store was in use here."""
        both = self.there and self.sound and other.there and other.sound
        return both and self.sequence < other.sequence

    def forget(self) -> None:
        """Let go of the entries, which are most of the memory."""
        self.table = EntryTable()


def check_snapshot(report: Report, path: Path, disk: Disk) -> CheckedSnapshot:
    """Check one snapshot by itself."""
    try:
        found = read_snapshot(path, disk)
    except DamagedDataError as error:
        report.wrong(path.name, str(error))
        return CheckedSnapshot(there=True, sound=False, in_the_way=path.is_dir())

    if found is None:
        report.ok(path.name, "not there")
        return CheckedSnapshot()

    if isinstance(found, Trusted):
        bad = _undecodable(found.table)
        if bad.count:
            report.wrong(path.name, f"{path}: check sum right, but {bad}")
        else:
            report.ok(
                path.name,
                f"check sum right, {len(found.table)} entries, sequence {found.sequence}",
            )
        return CheckedSnapshot(
            there=True, sound=not bad.count, sequence=found.sequence, table=found.table
        )

    table, bad = _validated(found.sessions)
    if bad.count:
        report.wrong(path.name, f"{path}: {bad}; a start sets them aside")
    report.warning(
        path.name,
        f"no check sum, as after an edit by hand: the next start checks each of its "
        f"{len(found.sessions)} entries, and takes what is valid",
    )
    return CheckedSnapshot(
        there=True, sound=not bad.count, checked=False, sequence=found.sequence, table=table
    )


def member_problem(key: str, member: bytes) -> str:
    """Return what is wrong with an entry's bytes; empty where nothing is.

    As strict as an import is with every value, and as the store is with the form: it finds some
    fields without decoding, and an entry is one line of the snapshot.
    """
    if not member.startswith(b'"%b":' % key.encode()):
        return "not an entry of this key"

    try:
        agent_of(key)
        entry = decode_member(key, member)
    except (EntryError, BadRequestError) as error:
        return str(error)

    if entry.session_key != key:
        return "names another key"

    return "" if _is_in_form(member, entry) else "not in the form that entries are written in"


def _is_in_form(member: bytes, entry: SessionEntry) -> bool:
    try:
        session_id, _ = identity(member)
        updated_at = updated_at_text(member).decode()
        same = datetime.fromisoformat(updated_at) == entry.updated_at
    except (EntryError, ValueError):
        return False

    # The prune goes by the text of the hour.
    hour = updated_at[:HOUR_CHARS] == entry.updated_at.isoformat()[:HOUR_CHARS]
    return b"\n" not in member and session_id == entry.session_id and same and hour


def _undecodable(table: EntryTable) -> Tally:
    bad = Tally("entries cannot be decoded")
    for shard in range(SHARDS):
        for member in table.members(shard):
            key = member[1 : member.find(b'":')].decode(errors="replace")
            problem = member_problem(key, member)
            if problem:
                bad.add(f"{key} ({problem})")
    return bad


def _validated(sessions: Mapping[str, object]) -> tuple[EntryTable, Tally]:
    table, bad = EntryTable(), Tally("entries are not valid")
    for key, raw in sessions.items():
        try:
            entry = entry_from_dict(raw)
        except EntryError as error:
            bad.add(f"{key} ({error})")
            continue
        if entry.session_key == key:
            table.put(entry.session_key, encode_member(entry))
        else:
            bad.add(f"{key} (names another key)")
    return table, bad
