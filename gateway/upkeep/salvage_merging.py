"""Which snapshot goes with the session log, and the newest entry of each key of all that was read.

A snapshot and the log make the present state where the log begins at or before it, ends at or after
it, and the database has had its sessions: so a start takes it. Of what does not fit, the numbers
mean nothing here; there an entry is the newer one that was used later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.model import SessionKey
from gateway.sessions.entry import decode_member, identity
from gateway.sessions.history import owner_of
from gateway.sessions.table import SHARDS, EntryTable
from gateway.upkeep.salvage_files import Fit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from gateway.durable.connection import Connection
    from gateway.upkeep.salvage_files import SalvagedSnapshot
    from gateway.upkeep.salvage_log import SalvagedLog

_BEFORE_ALL: Final = -1
"""A sequence that every logged change follows."""
_RANKS: Final = {Fit.FOREIGN: 0, Fit.RIGHT: 1, Fit.OLDER: 2, Fit.NEWER: 2}
"""In which order snapshots are laid over each other."""


@dataclass(frozen=True, slots=True)
class Merged:
    """The entries of all that was read."""

    table: EntryTable
    exact: bool
    """Whether a start would come to the same; otherwise some of it is a guess."""
    ahead: bool
    """Whether the database is older than the entries, so that a session without one was dropped."""


def place(snapshot: SalvagedSnapshot, log: SalvagedLog, connection: Connection) -> None:
    """Note how a snapshot fits the session log and the sessions in the new database."""
    sequence, covered = snapshot.sequence, f"{log.floor} to {log.last}"
    known = sequence is not None and log.floor is not None
    if known and sequence < log.floor:  # type: ignore[operator]
        snapshot.fit = Fit.OLDER
        snapshot.misfit = (
            f"older (sequence {sequence}) than what the session log beside it covers ({covered})"
        )
    elif known and log.whole and sequence > log.last:  # type: ignore[operator]
        snapshot.fit = Fit.NEWER
        snapshot.misfit = (
            f"newer (sequence {sequence}) than the session log beside it, which covers {covered}"
        )
    elif log.knows_sessions and (strange := _strangers(connection, snapshot.table)):
        snapshot.fit = Fit.FOREIGN
        snapshot.misfit = (
            f"of another store, it seems: {strange} of its {len(snapshot.table)} entries are of "
            "sessions that the database beside it has never had"
        )


def makes_up(snapshot: SalvagedSnapshot | None, log: SalvagedLog) -> bool:
    """Return whether a snapshot and the log make the present state without a guess."""
    if snapshot is None or log.floor is None or snapshot.sequence is None:
        return False

    return snapshot.whole and log.whole and snapshot.fit is Fit.RIGHT


def merged(
    base: SalvagedSnapshot | None, others: Sequence[SalvagedSnapshot], log: SalvagedLog
) -> Merged:
    """Return the newest entry of each key.

    Args:
        base: A whole snapshot that fits: a key it lacks has no entry but by a later change.
        others: Where there is none, whatever there is, the newest last: one fills the other's
            holes, and the log, as far as it reaches back, tells of keys that were removed since.
        log: The changes that could be read.
    """
    if base is not None:
        table, reached, unsure = base.table, dict[str, int](), set[str]()
        otherwise = base.sequence or 0
    else:
        table, reached, unsure = _laid_over(others)
        # Of a key that a snapshot with holes lacks, any change there is of use.
        otherwise = _BEFORE_ALL
    for sequence in sorted(log.changes):
        key, changed = log.changes[sequence]
        if sequence <= reached.get(key, otherwise):
            continue
        if key in unsure:
            held = table.member(key)
            if changed is None or (held is not None and _used(changed) < _used(held)):
                # A removal has no date; `settle` looks when the session ended.
                continue
            unsure.discard(key)
        if changed is None:
            table.drop(SessionKey(key))
        else:
            table.put(SessionKey(key), changed)
    ahead = base is not None and log.cut and (base.sequence or 0) > log.last
    return Merged(table, exact=base is not None and log.whole, ahead=ahead)


def _laid_over(
    snapshots: Sequence[SalvagedSnapshot],
) -> tuple[EntryTable, dict[str, int], set[str]]:
    """Lay snapshots over each other.

    Returns the entries, the change after which the log goes on for each key, and the keys whose
    entries the log must be compared with, for their snapshot is newer than it.
    """
    table = EntryTable()
    reached: dict[str, int] = {}
    unsure: set[str] = set()
    for snapshot in sorted(snapshots, key=lambda one: _RANKS[one.fit]):
        by_use = snapshot.fit in {Fit.OLDER, Fit.NEWER}
        for key, member in _members(snapshot.table):
            held = table.member(key)
            if by_use and held is not None and _used(member) <= _used(held):
                continue
            table.put(SessionKey(key), member)
            fits = snapshot.fit is Fit.RIGHT
            reached[key] = (snapshot.sequence or 0) if fits else _BEFORE_ALL
            unsure.discard(key)
            if snapshot.fit is Fit.NEWER:
                unsure.add(key)
    return table, reached, unsure


def _members(table: EntryTable) -> Iterator[tuple[str, bytes]]:
    for shard in range(SHARDS):
        for member in table.members(shard):
            yield member[1 : member.find(b'":')].decode(), member


def _used(member: bytes) -> tuple[datetime, int, int]:
    """Return what tells the newer one of two entries of a key."""
    entry = decode_member(member[1 : member.find(b'":')].decode(), member)
    return entry.updated_at, entry.turns, entry.context_step


def _strangers(connection: Connection, table: EntryTable) -> int:
    """Return how many entries go on with a session that a database does not have under the key."""
    return sum(owner_of(connection, identity(member)[0]) != key for key, member in _members(table))
