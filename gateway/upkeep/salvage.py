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
from gateway.transcripts.gone import take_over
from gateway.upkeep.backup import DATABASE, copy_token
from gateway.upkeep.losses import Loss, Losses
from gateway.upkeep.place_files import salvage_places
from gateway.upkeep.salvage_entries import Record, Settling, set_position
from gateway.upkeep.salvage_files import Fit, SalvagedSnapshot, salvage_snapshot
from gateway.upkeep.salvage_log import SalvagedLog, read_log
from gateway.upkeep.salvage_merging import Merged, makes_up, merged, place
from gateway.upkeep.salvage_pruned import STRAYS, ArchiveCarrying, settle_pruned
from gateway.upkeep.salvage_rows import RowCopy, count_rows, version_to_read, wal_loss
from gateway.upkeep.snapshot_file import lie_apart

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from pathlib import Path

    from gateway.clock import Clock
    from gateway.durable.connection import Connection
    from gateway.sessions.table import EntryTable

REPORT: Final = "salvage.json"
HOMELESS: Final = "salvaged-messages.jsonl"
"""Messages that could be read, but of which nothing tells any more whose they were, or why they are
not in their transcripts."""


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
    """Rows of the new database, by table."""
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
        log = _copy_rows(state_dir / DATABASE, aside / DATABASE, losses, disk)
        with (
            finish_database(aside / DATABASE, disk) as connection,
            homeless_messages(aside / HOMELESS, disk) as keep,
        ):
            merged, reached = _entries(state_dir, log, connection, losses, disk)
            rebuilt = Settling(connection, merged, log, losses, clock.now(), keep).settle()
            settle_pruned(connection, losses, keep)
            ArchiveCarrying(state_dir, aside, connection, losses, disk).carry()
            take_over(connection, log.state)
            sequence = max(log.last, reached)
            taken = log.taken or bool(losses.losses) or not log.used
            set_position(connection, sequence, taken=taken)
            rows = count_rows(connection)
        table = merged.table
        kept = any((aside / name).exists() for name in (HOMELESS, STRAYS))
        if not (len(table) or any(rows.values()) or kept):
            raise DamagedDataError(state_dir, "nothing in it can be read; nothing was written")

        _try_token(state_dir, aside, losses, disk)
        salvage_places(state_dir, aside, losses, disk)
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


def _copy_rows(path: Path, target: Path, losses: Losses, disk: Disk) -> SalvagedLog:
    """Copy what can be read of a database to a new one; return its session log apart."""
    with ExitStack() as stack:
        source = _open(path, losses, disk, stack)
        if source is None:
            with new_database(target, NEWEST, disk):
                pass
            return SalvagedLog(whole=False)

        cut = bool(losses.losses)
        # A page that lost count of its rows is read without an error, an altered one mostly too.
        what = "certainty: pages are damaged, so rows may be missing or altered without a trace"
        for number, problem in enumerate(integrity_problems(source, path, disk)):
            losses.add(path.name, what, problem, count=0 if number else 1)
        version = version_to_read(source, path)
        with new_database(target, version, disk) as fresh:
            log = read_log(source, losses)
            RowCopy(source, fresh, losses).copy_all()
        if not log.used and not log.taken:
            _tell_unused(path, losses, disk)
        log.cut = cut and log.whole
        log.whole = log.whole and not cut
        log.knows_sessions = not losses.losses and not log.taken and log.floor is not None
        return log


def _tell_unused(path: Path, losses: Losses, disk: Disk) -> None:
    """Note a database that no store was opened on, where one must have been."""
    snapshot, previous = path.with_name(SNAPSHOT), path.with_name(PREVIOUS)
    if lie_apart(previous, snapshot, disk):
        losses.add(
            path.name,
            f"all that was said: it knows of no store, though {SNAPSHOT} and {PREVIOUS} tell of "
            f"one that was in use; its WAL ({path.name}-wal) is gone",
        )
    else:
        losses.note(f"{path.name}: no store was in use yet; {SNAPSHOT} was taken as an import")


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
    state_dir: Path, log: SalvagedLog, connection: Connection, losses: Losses, disk: Disk
) -> tuple[Merged, int]:
    """Return the newest entry of each key, and the newest change that a snapshot tells of."""
    found: list[SalvagedSnapshot] = []
    told = {SNAPSHOT: Losses(), PREVIOUS: Losses()}
    base = None
    for name, own in told.items():
        one = salvage_snapshot(state_dir / name, disk, own)
        if one is None:
            continue
        place(one, log, connection)
        found.insert(0, one)
        # What is newest is the base if the log goes on from it; what was before only if all of it.
        if one.whole and one.fit is Fit.RIGHT and (name == SNAPSHOT or makes_up(one, log)):
            base = one
            break
    _tell(base, found, told, log, losses)
    reached = max((one.sequence or 0 for one in found), default=0)
    return merged(base, found, log), reached


def _tell(
    base: SalvagedSnapshot | None,
    found: Sequence[SalvagedSnapshot],
    told: Mapping[str, Losses],
    log: SalvagedLog,
    losses: Losses,
) -> None:
    """Note what the snapshots lack, unless one of them and the log make up for all of it."""
    for own in told.values():
        losses.notes += own.notes
    newest = next((one for one in found if one.name == SNAPSHOT), None)
    if base is not None and base is newest:
        losses.losses.update(told[SNAPSHOT].losses)
        return

    if base is not None:
        made_up = f"{PREVIOUS} and the session log made up for all of it"
        if newest is not None and newest.fit is Fit.NEWER:
            losses.add(SNAPSHOT, f"changes after {log.last}: it is {newest.misfit}")
        elif newest is not None and newest.misfit:
            losses.note(f"{SNAPSHOT}: it is {newest.misfit}; {made_up}")
        else:
            losses.note(f"{SNAPSHOT}: {made_up}")
        return

    if newest is None:
        losses.add(SNAPSHOT, "the newest snapshot: it is not there")
    for one in found:
        _tell_guess(one, told[one.name], losses)


def _tell_guess(one: SalvagedSnapshot, own: Losses, losses: Losses) -> None:
    """Note what is not sure of a snapshot that is not made up for."""
    losses.losses.update(own.losses)
    if not len(one.table):
        losses.add(one.name, "all of it: no entry can be found in it")
    elif one.misfit:
        losses.add(one.name, f"certainty: it is {one.misfit}: entries may be out of date")
    elif one.name == SNAPSHOT and not own.losses:
        losses.add(one.name, "certainty: its check sum is wrong, any entry may be altered")


def _try_token(state_dir: Path, aside: Path, losses: Losses, disk: Disk) -> None:
    try:
        copy_token(state_dir, aside, disk)
    except GatewayError as error:
        what = "a file that cannot be read; without a token the next start makes a new one"
        losses.add("token", what, str(error))


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
