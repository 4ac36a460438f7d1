"""What a store goes through while its disk is recorded, each from a beginning of its own."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Final

import apsw
import orjson
from structlog.testing import capture_logs

from gateway.clock import FakeClock
from gateway.durable.database import Database
from gateway.durable.directory import hold
from gateway.errors import GatewayError
from gateway.sessions.adopting import adopt
from gateway.sessions.recovery import SNAPSHOT
from gateway.sessions.store import SessionStore
from tests.crash.client import Client
from tests.crash.expectation import Expectation, Outcome
from tests.crash.exploring import recording
from tests.crash.operations import Given
from tests.crash.recording import Record, RecordingDisk, read_folder
from tests.crash.recovering import recovered, write_out
from tests.support.state import START, key_of, open_state

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from gateway.durable.batch import Transaction
    from tests.crash.faults import Fault


@dataclass(slots=True)
class Place:
    """Where a workload runs, on what, and what came of it."""

    path: Path
    disk: RecordingDisk
    kind: type[SessionStore] = SessionStore
    clients: list[Client] = field(default_factory=list)
    calls_before_stop: int = 0
    """How many calls a fault could have hit before the store was stopped."""
    failed: bool = False
    """Whether the store had failed by then."""
    refused_afterwards: list[GatewayError] = field(default_factory=list)
    """What was refused after a fault was over."""

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Client]:
        clock = FakeClock()
        async with open_state(self.path, clock, disk=self.disk, kind=self.kind) as state:
            client = Client(state, clock, self.disk.record.note)
            self.clients.append(client)
            yield client
            self.calls_before_stop = self.disk.record.fault.seen
            self.failed = state.database.statistics().failed


async def prepare(path: Path) -> None:
    """Make a store of some sessions, with a snapshot, the one before, and log rows after both."""
    path.mkdir(mode=0o700)
    with capture_logs():
        async with open_state(path) as state:
            client = Client(state, FakeClock(), lambda _: None)
            for name in ("a", "b", "c"):
                await client.create(name)
            await client.turn("a", "turn-0")
            await client.snapshot()
            await client.update("b")


async def prepare_unclean(path: Path) -> None:
    """The same, as a kill leaves it: with a WAL and log rows after the snapshot."""
    await prepare(path)
    with capture_logs():
        async with open_state(path) as state:
            client = Client(state, FakeClock(), lambda _: None)
            await client.update("a")
            await client.snapshot()
            await client.update("b")
            await client.remove("c")
            files = read_folder(path)
    write_out(files, path)


async def prepare_damaged(path: Path) -> None:
    """The same with a snapshot that is damaged: the one before must stand in."""
    await prepare_unclean(path)
    snapshot = path / SNAPSHOT
    snapshot.write_bytes(snapshot.read_bytes()[:-20])


async def prepare_import(path: Path) -> None:
    """A file alone, as an operator brings it."""
    await prepare(path.with_name("elsewhere"))
    raw = orjson.loads((path.with_name("elsewhere") / SNAPSHOT).read_bytes())
    del raw["check"]
    for entry in raw["sessions"].values():
        entry["turns"] = 0
    path.mkdir(mode=0o700)
    (path / SNAPSHOT).write_bytes(orjson.dumps(raw))


async def prepare_adoption(path: Path) -> None:
    """A file that was changed by hand beside a database that knows more."""
    await prepare_unclean(path)
    raw = orjson.loads((path / SNAPSHOT).read_bytes())
    del raw["check"]
    # One that the session log has no entry for any more.
    del raw["sessions"][key_of("c")]
    (path / SNAPSHOT).write_bytes(orjson.dumps(raw))


async def prepare_nothing(path: Path) -> None:
    """An empty state directory."""
    path.mkdir(mode=0o700)


async def changes(place: Place) -> None:
    """A start, changes of all kinds with snapshots between them, a clean stop."""
    async with place.client() as client:
        await client.create("d")
        await client.create("e")
        await client.snapshot()
        await client.update("d")
        await client.reset("d")
        await client.snapshot()
        await client.remove("d")
        await client.update("e")
        await client.snapshot()
        await client.create("d")
        await client.prune(1)


async def turns(place: Place) -> None:
    """Turns, with the WAL moved into the database in each of the three ways between them."""
    async with place.client() as client:
        await client.turn("a", "turn-1")
        await client.turn("new", "turn-2")
        await client.compact(0)
        await client.turn("a", "turn-3")

        def checkpoint(transaction: Transaction) -> None:
            def move() -> None:
                transaction.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

            transaction.on_commit(move)

        if not place.disk.record.fault.at:
            # It is not the gateway's, so neither is what it would do where it fails.
            await client.state.database.write(checkpoint)
        await client.turn("new", "turn-4")
        await client.compact(1 << 30)
        await client.turn("a", "turn-5")


async def restart(place: Place) -> None:
    """A start that has something to mend, one change, a clean stop."""
    async with place.client() as client:
        await client.update("a")


async def life(place: Place) -> None:
    """A start that has something to mend, some of everything, and changes after a fault is over."""
    fault = place.disk.record.fault
    async with place.client() as client:
        await client.create("d")
        await client.turn("a", "turn-1")
        await client.snapshot()
        await client.remove("d")
        await client.compact(0)
        await client.reset("b")
        await client.snapshot()
        await client.update("a")
        if fault.fired:
            fault.end()
            before = len(client.errors)
            await client.update("a")
            await client.snapshot()
            place.refused_afterwards = client.errors[before:]


async def adoption(place: Place) -> None:
    """The file is taken as the truth, then the store starts on it."""
    path, disk = place.path, place.disk
    raw = orjson.loads((path / SNAPSHOT).read_bytes())["sessions"]
    adopted = {key: b'"%b":%b' % (key.encode(), orjson.dumps(one)) for key, one in raw.items()}
    before = dict(disk.record.known)
    place.disk.record.note(Given((before, adopted)))
    with hold(path, started_at=START, disk=disk) as directory:
        async with Database.open(path / "gateway.db", FakeClock(), disk) as database:
            await adopt(directory, database, START)
            place.disk.record.note(Given((adopted,)))
    await restart(place)


WORKLOADS: Final[
    dict[str, tuple[Callable[[Path], Awaitable[None]], Callable[[Place], Awaitable[None]]]]
] = {
    "first-start": (prepare_nothing, changes),
    "changes": (prepare, changes),
    "turns": (prepare, turns),
    "kill": (prepare_unclean, restart),
    "damaged": (prepare_damaged, restart),
    "import": (prepare_import, restart),
    "adopt": (prepare_adoption, adoption),
    "life": (prepare_unclean, life),
}
"""By name: how the state directory begins, and what is done with it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One recorded workload, and what was known before it."""

    record: Record
    before: Outcome
    damaged: bytes | None
    """A snapshot that could not be read at the beginning."""
    place: Place
    error: GatewayError | None
    """What ended it before its time."""

    def expected(self) -> Expectation:
        expectation = Expectation()
        expectation.settle(self.before)
        return expectation


async def run(
    name: str, folder: Path, fault: Fault | None = None, kind: type[SessionStore] = SessionStore
) -> Run:
    """Prepare a state directory in a folder and record a workload on it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    prepare_it, work = WORKLOADS[name]
    path, copy = folder / "state", folder / "copy"
    await prepare_it(path)
    files = read_folder(path)
    write_out(files, copy)
    damaged = files.get(SNAPSHOT) if name == "damaged" else None
    before = await recovered(copy, damaged)
    ended = None
    with recording(path, fault) as disk, capture_logs():
        disk.record.known = before.entries
        place = Place(path, disk, kind)
        try:
            await work(place)
        except GatewayError as error:
            ended = error
        except apsw.Error as error:
            # What fails in its close SQLite keeps to itself, but for what a VFS in Python raises.
            if "_close" not in [frame.name for frame in extract_tb(error.__traceback__)]:
                raise
    return Run(disk.record, before, damaged, place, ended)
