"""Whether a state directory is whole: every file by itself, and all of them together.

Strictly reads. Beside a running daemon the order makes the comparison valid: both snapshots first,
then one read transaction on the database, which covers what a snapshot read before it reaches to;
where two newer snapshots came between, all is read again. Needs no more memory than a start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.durable.directory import LockHolder, read_holder
from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.inspecting import (
    NEWEST,
    Footprint,
    integrity_problems,
    reading,
    version_of,
)
from gateway.durable.wal import wal_of
from gateway.errors import DamagedDataError, DatabaseTooNewError, StorageError
from gateway.sessions.position import LogPosition, read_position
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT
from gateway.upkeep.agreement import check_agreement
from gateway.upkeep.archive_files import check_archives
from gateway.upkeep.backup import DATABASE
from gateway.upkeep.findings import Level, Report
from gateway.upkeep.log_rows import check_log
from gateway.upkeep.modes import check_modes
from gateway.upkeep.place_files import check_places
from gateway.upkeep.pruning_rows import check_pruning
from gateway.upkeep.snapshots import CheckedSnapshot, check_snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.connection import Connection

_TWO: Final = f"{SNAPSHOT} and {PREVIOUS} tell of a store that was in use"
TRIES: Final = 5
"""How often all is read again because a daemon went on meanwhile."""


def check_store(state_dir: Path, *, dashboard: bool = False, disk: Disk = SYSTEM_DISK) -> Report:
    """Check a state directory, whether its daemon runs or not; nothing of it changes.

    Args:
        state_dir: What is checked.
        dashboard: Whether a group may read the snapshots.
        disk: Where it is.
    """
    watched = [state_dir / name for name in (DATABASE, f"{DATABASE}-wal", SNAPSHOT, PREVIOUS)]
    report = Report()
    for attempt in range(TRIES):
        before = Footprint.of(watched)
        holder = read_holder(state_dir)
        report = Report()
        check_modes(report, state_dir, dashboard=dashboard)
        _tell_holder(report, holder)
        check_places(report, state_dir)
        settled = _check_content(report, state_dir, disk, live=holder is not None)
        last = attempt == TRIES - 1
        moved_on = Footprint.of(watched) != before
        # Without a daemon files are read without a lock, so they must have stood still.
        valid = not moved_on if holder is None else (settled or not moved_on)
        if valid or last:
            if not valid:
                report.warning("check", "the state changed all the time; some lines may be stale")
            break
    return report


def _tell_holder(report: Report, holder: LockHolder | None) -> None:
    if holder is None:
        report.ok("lock", "nobody holds it")
    elif not holder.pid:
        report.ok("lock", "held by a gateway that is starting or ending, or by a command")
    else:
        where = f" at {holder.url}" if holder.url else ""
        report.ok("lock", f"held by pid {holder.pid} since {holder.started_at}{where}")


def _check_content(report: Report, state_dir: Path, disk: Disk, *, live: bool) -> bool:
    """Check everything but modes; False where a daemon may have come in between."""
    # The snapshot before is read first and forgotten: one table in memory at a time.
    previous = check_snapshot(report, state_dir / PREVIOUS, disk)
    previous.forget()
    if live:
        # By the time the database is read, the daemon may have replaced it, and shortened the log.
        previous = CheckedSnapshot(known=False)
    snapshot = check_snapshot(report, state_dir / SNAPSHOT, disk)
    database = state_dir / DATABASE
    if not database.exists():
        _without_database(report, snapshot, previous, wal_of(database))
        return False

    try:
        with reading(database, live=live, disk=disk) as connection:
            problems = integrity_problems(connection, database)
            if problems:
                for problem in problems:
                    report.wrong("database", problem)
                return True

            settled = _check_database(report, connection, snapshot, previous)
            if version_of(connection) == NEWEST:
                check_pruning(report, connection)
                settled = check_archives(report, connection, state_dir, disk) and settled
            return settled
    except DatabaseTooNewError as error:
        report.add(Level.UNSAFE, "database", str(error))
        return True
    except (DamagedDataError, StorageError) as error:
        report.wrong("database", str(error))
        return True


def _without_database(
    report: Report, snapshot: CheckedSnapshot, previous: CheckedSnapshot, wal: Path
) -> None:
    if wal.exists() and wal.stat().st_size:
        report.wrong("database", f"not there, though {wal.name} holds commits to it")
    elif not snapshot.there:
        report.wrong("database", f"not there, and no {SNAPSHOT} either")
    elif previous.came_before(snapshot):
        report.wrong("database", f"not there, though {_TWO}; transcripts and session log are gone")
    else:
        report.warning("database", f"not there: {SNAPSHOT} would be imported, without transcripts")
    if snapshot.there:
        report.facts["entries"] = len(snapshot.table)


def _check_database(
    report: Report, connection: Connection, snapshot: CheckedSnapshot, previous: CheckedSnapshot
) -> bool:
    pages = int(str(connection.execute("PRAGMA page_count").fetchall()[0][0]))
    version = version_of(connection)
    report.ok("database", f"integrity_check ok, {pages} pages, version {version}")
    if version != NEWEST:
        report.warning("database", f"the next start brings it to version {NEWEST}")
    position = read_position(connection)
    _check_use(report, position, snapshot, previous)
    report.facts["sequence"] = max(position.last, snapshot.sequence)
    fits = _check_position(report, position, snapshot, previous)
    log = check_log(report, connection, position, after=snapshot.sequence if fits.usable else None)
    if fits.usable and log.sound:
        log.apply(connection, snapshot.table)
        report.facts["entries"] = len(snapshot.table)
        check_agreement(
            report,
            connection,
            snapshot.table,
            taken=position.taken or not position.used,
            newest=version == NEWEST,
        )
    else:
        report.warning(
            "agreement", "not checked: without the right entries there is nothing to compare"
        )
    return fits.settled


def _check_use(
    report: Report, position: LogPosition, snapshot: CheckedSnapshot, previous: CheckedSnapshot
) -> None:
    """Check that a database that no store was ever opened on has no right to know more."""
    if position.used or not snapshot.there:
        return

    if not position.taken and previous.came_before(snapshot):
        report.wrong(
            "database",
            f"knows of no store, though {_TWO}: its WAL ({DATABASE}-wal) is gone, and with it what "
            "was said",
        )
    else:
        report.warning("database", f"not in use yet: the next start imports {SNAPSHOT}")


@dataclass(frozen=True, slots=True)
class _Fit:
    """How snapshots and session log fit together."""

    usable: bool
    """Whether they make the present state."""
    settled: bool
    """False where a daemon's next snapshots, coming in between, would explain it."""


def _check_position(
    report: Report, position: LogPosition, snapshot: CheckedSnapshot, previous: CheckedSnapshot
) -> _Fit:
    """Check that the snapshots and the session log fit together."""
    covered = f"{position.floor} to {position.last}"
    if not snapshot.there and position.used:
        report.wrong("sequence", f"{SNAPSHOT} is missing beside a database that was in use")
        return _Fit(usable=False, settled=True)

    if snapshot.sound and not position.covers(snapshot.sequence):
        older = snapshot.sequence < position.floor
        report.wrong(
            "sequence",
            f"{SNAPSHOT} ({snapshot.sequence}) is {'older' if older else 'newer'} than what the "
            f"session log covers ({covered}); `gateway store adopt` takes it as the truth",
        )
        if previous.there and previous.sound and position.covers(previous.sequence):
            text = f"{PREVIOUS} ({previous.sequence}) is one that fits, put in its place"
            report.warning("sequence", text)
        return _Fit(usable=False, settled=False)

    if not snapshot.sound and position.used:
        _tell_stand_in(report, position, snapshot, previous)
    elif snapshot.sound:
        text = f"{SNAPSHOT} at {snapshot.sequence}, the session log covers {covered}"
        report.ok("sequence", text)
    if previous.there and previous.sound and not position.covers(previous.sequence):
        report.warning(
            "sequence",
            f"{PREVIOUS} ({previous.sequence}) could not stand in: "
            f"the session log covers {covered}",
        )
        return _Fit(usable=snapshot.sound, settled=False)

    return _Fit(usable=snapshot.sound, settled=True)


def _tell_stand_in(
    report: Report, position: LogPosition, snapshot: CheckedSnapshot, previous: CheckedSnapshot
) -> None:
    """Say what a start does where the newest snapshot is damaged."""
    if not previous.known:
        # Beside a daemon, which writes the next one from memory.
        return

    usable = previous.there and previous.sound and previous.checked
    if usable and position.covers(previous.sequence) and not snapshot.in_the_way:
        text = f"a start takes {PREVIOUS} ({previous.sequence}) and the session log instead"
        report.warning("sequence", f"{text}, which has every change since")
    else:
        report.wrong("sequence", f"no start: {PREVIOUS} cannot stand in for {SNAPSHOT} either")
