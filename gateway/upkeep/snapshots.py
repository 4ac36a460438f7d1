"""Whether a snapshot is whole: its check sum, and every entry in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.errors import DamagedDataError
from gateway.sessions.entry import EntryError, decode_member, encode_member, entry_from_dict
from gateway.sessions.snapshot import Trusted, read_snapshot
from gateway.sessions.table import SHARDS, EntryTable
from gateway.upkeep.findings import Report, Tally

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.durable.disk import Disk


@dataclass(slots=True)
class CheckedSnapshot:
    """A snapshot that was read and checked."""

    there: bool = False
    sound: bool = True
    """Whether what is there can be used; what is not there is no damage by itself."""
    sequence: int = 0
    table: EntryTable = field(default_factory=EntryTable)

    def forget(self) -> None:
        """Let go of the entries, which are most of the memory."""
        self.table = EntryTable()


def check_snapshot(report: Report, path: Path, disk: Disk) -> CheckedSnapshot:
    """Check one snapshot by itself."""
    try:
        found = read_snapshot(path, disk)
    except DamagedDataError as error:
        report.wrong(path.name, str(error))
        return CheckedSnapshot(there=True, sound=False)

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
        f"no check sum: the next start checks every one of its {len(found.sessions)} entries",
    )
    return CheckedSnapshot(there=True, sound=not bad.count, sequence=found.sequence, table=table)


def member_problem(key: str, member: bytes) -> str:
    """Return what is wrong with an entry's bytes; empty where nothing is."""
    if not member.startswith(b'"%b":' % key.encode()):
        return "not an entry of this key"

    try:
        entry = decode_member(key, member)
    except EntryError as error:
        return str(error)

    return "" if entry.session_key == key else "names another key"


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
