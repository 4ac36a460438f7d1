"""A new state directory from whatever can still be read of a damaged one.

The source is held, so that no daemon works on it, and never changed. Every source of entries is
read, the newest valid one of each key wins, and what had to be given up is told: in the result, and
in `salvage.json` in the new directory.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.durable.assembling import assembled
from gateway.durable.connection import translated
from gateway.durable.directory import hold_unchanged
from gateway.durable.disk import SYSTEM_DISK, Disk
from gateway.durable.files import Replacement, write_whole
from gateway.durable.inspecting import NEWEST, integrity_problems, opened
from gateway.durable.salvaging import columns_of, finish_database, new_database
from gateway.errors import DamagedDataError, GatewayError
from gateway.sessions.history import stamp
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT
from gateway.sessions.snapshot import write_snapshot
from gateway.upkeep.backup import DATABASE, copy_others
from gateway.upkeep.losses import Loss, Losses
from gateway.upkeep.salvage_entries import Record, exact, merged, set_position, settle
from gateway.upkeep.salvage_files import SalvagedSnapshot, salvage_snapshot
from gateway.upkeep.salvage_rows import RowCopy, SalvagedLog, version_to_read, wal_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from gateway.clock import Clock
    from gateway.durable.connection import Connection
    from gateway.sessions.table import EntryTable

REPORT: Final = "salvage.json"
HOMELESS: Final = "salvaged-messages.jsonl"
"""Messages that could be read, but of which nothing tells any more whose they were."""


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What the new directory holds, and what was given up."""

    path: str
    complete: bool
    """Whether nothing was given up."""
    entries: int
    entries_rebuilt: int
    """Those that no file and no log had any more, made from their transcripts."""
    sequence: int
    rows: dict[str, int] = field(default_factory=dict)
    """Rows that were kept, by table."""
    given_up: list[Loss] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was mended or went another way, and lost nothing."""


async def salvage(
    state_dir: Path, target: Path, clock: Clock, *, disk: Disk = SYSTEM_DISK
) -> Salvaged:
    """Write a new state directory from whatever can be read of one.

    Durability: on return the new directory survives power loss; before, there is nothing of its
    name.

    Raises:
        AlreadyRunningError: a daemon, or another command, holds the source.
        DatabaseTooNewError: a newer gateway wrote it.
        DamagedDataError: nothing can be read; no directory was made.
        ConflictError: the target is not free.
    """
    losses = Losses()
    with hold_unchanged(state_dir), assembled(target, state_dir, disk) as aside:
        log, rows = _copy_rows(state_dir / DATABASE, aside / DATABASE, losses, disk)
        table, reached = _entries(state_dir, log, losses, disk)
        sequence = max(log.last, reached)
        with (
            finish_database(aside / DATABASE, disk) as connection,
            homeless_messages(aside / HOMELESS, disk) as keep,
        ):
            rebuilt = settle(connection, table, log, losses, clock.now(), keep)
            set_position(
                connection, sequence, taken=log.taken or bool(losses.losses) or bool(rebuilt)
            )
        if not len(table) and not any(rows.values()):
            raise DamagedDataError(state_dir, "nothing in it can be read; nothing was written")

        if rebuilt:
            losses.add(
                "entries",
                "entries rebuilt from their transcripts; pauses, names and context sizes are lost",
                count=rebuilt,
            )
        _try_others(state_dir, aside, losses, disk)
        await _write_entries(aside / SNAPSHOT, table, sequence, clock, disk)
        result = _result(target, table, losses, rows, rebuilt=rebuilt, sequence=sequence)
        _write_report(aside / REPORT, state_dir, result, clock, disk)
    return result


def _result(
    target: Path,
    table: EntryTable,
    losses: Losses,
    rows: dict[str, int],
    *,
    rebuilt: int,
    sequence: int,
) -> Salvaged:
    return Salvaged(
        path=str(target.absolute()),
        complete=not losses.losses,
        entries=len(table),
        entries_rebuilt=rebuilt,
        sequence=sequence,
        rows=rows,
        given_up=losses.all(),
        notes=losses.notes,
    )


@contextmanager
def homeless_messages(path: Path, disk: Disk) -> Generator[Callable[[Record], None]]:
    """Give a function that keeps messages in a file of JSON lines, made with the first of them."""
    files: list[Replacement] = []

    def keep(record: Record) -> None:
        if not files:
            files.append(Replacement(path, disk=disk))
        files[0].write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))

    try:
        yield keep
        for file in files:
            file.commit()
    finally:
        for file in files:
            file.discard()


def _write_report(path: Path, state_dir: Path, result: Salvaged, clock: Clock, disk: Disk) -> None:
    document: dict[str, Any] = {
        "salvaged_from": str(state_dir.absolute()),
        "salvaged_at": stamp(clock.now()),
        **asdict(result),
    }
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    write_whole(path, text, disk=disk)


def _copy_rows(
    path: Path, target: Path, losses: Losses, disk: Disk
) -> tuple[SalvagedLog, dict[str, int]]:
    """Copy what can be read of a database to a new one; return its session log apart."""
    with ExitStack() as stack:
        source = _open(path, losses, disk, stack)
        if source is None:
            with new_database(target, NEWEST, disk):
                pass
            return SalvagedLog(whole=False), {}

        # A page that lost count of its rows is read without an error: only this tells.
        for problem in integrity_problems(source, path):
            what = "certainty: integrity_check fails, so rows may be missing that nothing tells of"
            losses.add(path.name, what, problem)
        version = version_to_read(source, path)
        with new_database(target, version, disk) as fresh:
            copy = RowCopy(source, fresh, losses)
            log = copy.read_log()
            copy.copy_all()
        return log, copy.counts


def _open(path: Path, losses: Losses, disk: Disk, stack: ExitStack) -> Connection | None:
    """Open a damaged database with its WAL, else without; None where it is none any more."""
    problems: list[str] = []
    for with_wal in (True, False):
        attempt = ExitStack()
        try:
            with translated(path):
                source = attempt.enter_context(
                    opened(path, live=False, with_wal=with_wal, disk=disk)
                )
            if columns_of(source, "sessions") or columns_of(source, "session_log"):
                stack.push(attempt)
                if with_wal:
                    wal_loss(source, path, losses)
                else:
                    losses.add(f"{path.name}-wal", "commits since the last checkpoint", problems[0])
                return source

            problems.append("none of its tables can be read")
        except GatewayError as error:
            problems.append(str(error))
        attempt.close()
    losses.add(path.name, "the whole database, with transcripts and session log", problems[0])
    return None


def _entries(
    state_dir: Path, log: SalvagedLog, losses: Losses, disk: Disk
) -> tuple[EntryTable, int]:
    """Return the newest entry of each key, and the newest change that a snapshot tells of."""
    own, before = Losses(), Losses()
    snapshot = salvage_snapshot(state_dir / SNAPSHOT, disk, own)
    previous = None
    if snapshot is None or not snapshot.whole:
        previous = salvage_snapshot(state_dir / PREVIOUS, disk, before)
    _tell(snapshot, previous, log, losses, own, before)
    reached = [one.sequence for one in (snapshot, previous) if one is not None and one.sequence]
    return merged(snapshot, previous, log), max(reached, default=0)


def _tell(
    snapshot: SalvagedSnapshot | None,
    previous: SalvagedSnapshot | None,
    log: SalvagedLog,
    losses: Losses,
    own: Losses,
    before: Losses,
) -> None:
    """Note what the snapshots lack, unless the one before and the log make up for all of it."""
    losses.notes += own.notes + before.notes
    if snapshot is not None and snapshot.whole:
        losses.losses.update(own.losses)
        return

    if previous is not None and exact(previous, log):
        losses.note(f"{SNAPSHOT}: {PREVIOUS} and the session log made up for all of it")
        return

    if snapshot is None:
        losses.add(SNAPSHOT, "the newest snapshot: it is not there")
    losses.losses.update(own.losses)
    losses.losses.update(before.losses)
    if snapshot is not None and not own.losses:
        losses.add(SNAPSHOT, "certainty: its check sum is wrong, so any entry may be")


def _try_others(state_dir: Path, aside: Path, losses: Losses, disk: Disk) -> None:
    try:
        copy_others(state_dir, aside, disk)
    except GatewayError as error:
        losses.add("token, archive", "files that cannot be read", str(error))


async def _write_entries(
    path: Path, table: EntryTable, sequence: int, clock: Clock, disk: Disk
) -> None:
    replacement = Replacement(path, disk=disk)
    try:
        await write_snapshot(replacement, table, sequence=sequence, at=clock.now())
        replacement.commit()
    finally:
        with suppress(OSError):
            replacement.discard()
