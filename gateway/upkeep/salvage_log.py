"""The session log of a damaged database, as far as it can be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.durable.salvaging import all_rows, columns_of
from gateway.upkeep.row_checks import key_problem
from gateway.upkeep.salvage_rows import LOG, MEANINGS, read_rows
from gateway.upkeep.snapshots import member_problem

if TYPE_CHECKING:
    from gateway.durable.connection import Connection
    from gateway.durable.salvaging import Row
    from gateway.upkeep.losses import Losses


@dataclass(slots=True)
class SalvagedLog:
    """The changes that could be read of the session log."""

    changes: dict[int, tuple[str, bytes | None]] = field(default_factory=dict)
    """Key and entry, or None for a removal, by sequence."""
    whole: bool = True
    """Whether every row could be read."""
    used: bool = False
    """Whether a store was ever opened on the database."""
    cut: bool = False
    """Whether the WAL has lost its newest commits, so that all of the database is an older one."""
    floor: int | None = None
    """The change that the log begins after; None where nothing tells, or any snapshot fits."""
    last: int = 0
    """The newest change that anything tells of."""
    taken: bool = False
    """Whether entries were once taken from a file that was not written beside the database."""
    knows_sessions: bool = False
    """Whether the database surely has every session there ever was."""
    state: Mapping[str, int] = field(default_factory=dict)
    """What `store_state` says; nothing where it cannot be read."""


def read_log(source: Connection, losses: Losses) -> SalvagedLog:
    """Read the session log, and what the database knows of its reach."""
    columns = ("session_key", "member")
    if set(columns) - set(columns_of(source, LOG)):
        losses.add(f"gateway.db: {LOG}", f"all {MEANINGS[LOG]}: no such table")
        return SalvagedLog(whole=False)

    log = SalvagedLog()

    def take(rowid: int, row: Row) -> None:
        key, member = row
        problem = _problem(key, member)
        if problem:
            log.whole = False
            example = f"sequence {rowid}: {problem}"
            losses.add(f"gateway.db: {LOG}", f"{MEANINGS[LOG]} that are not valid", example)
        else:
            log.changes[rowid] = (str(key), member if isinstance(member, bytes) else None)

    log.whole = not read_rows(source, LOG, columns, take, losses) and log.whole
    _read_state(source, log, losses)
    log.last = max(log.last, *log.changes, 0)
    return log


def _problem(key: object, member: object) -> str:
    problem = key_problem(key)
    if problem or member is None:
        return problem

    return member_problem(str(key), member) if isinstance(member, bytes) else "not an entry"


def _read_state(source: Connection, log: SalvagedLog, losses: Losses) -> None:
    rows = all_rows(source, "SELECT name, value FROM store_state")
    state = {str(name): value for name, value in rows or () if isinstance(value, int)}
    if rows is None or len(state) < len(rows) or (log.changes and not state.get("used")):
        losses.note("gateway.db: store_state cannot be read; it is made anew")
        # Whether there was an import is lost with it.
        log.used = log.taken = True
        return

    log.state = state
    floor = state.get("floor", 0)
    log.last = max(floor, state.get("last", 0))
    log.taken = bool(state.get("taken"))
    log.used = bool(state.get("used"))
    if log.used:
        log.floor = floor
