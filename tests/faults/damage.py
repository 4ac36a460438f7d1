"""Damage to the files of a state directory, and what a start then makes of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from gateway.errors import GatewayError
from gateway.sessions.entry import EntryError
from tests.support.state import State, key_of, open_state, power_cut
from tests.support.turns import Bench, running_turns

if TYPE_CHECKING:
    import random
    from collections.abc import Generator, Iterator

    from gateway.sessions.entry import SessionEntry

DATABASE: Final = "gateway.db"
WAL: Final = "gateway.db-wal"
INDEX: Final = "gateway.db-shm"
CHATS: Final = ("alice", "bob", "carol", "dave")
_TABLES: Final = (
    *("sessions", "messages", "model_calls", "inbox", "outbox"),
    *("projections", "context_accounts", "summaries", "session_users", "usage"),
)

Content = dict[str, Any]
"""Everything a gateway serves: entries by key, and the rows of every table that holds messages."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Two state directories of one history, and what is in them."""

    killed: Path
    """As a process that was killed left it: the newest commits are in the WAL only."""
    stopped: Path
    """As an orderly stop left it: there is no WAL."""
    whole: Content


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a start and reading everything came to."""

    served: Content | None
    error: GatewayError | EntryError | None
    began: bool
    """Whether it started at all, before it was refused or served."""


@contextmanager
def folder_in_memory(tmp_path: Path) -> Generator[Path]:
    """Give a folder where a sync costs nothing; one on the disk where there is none."""
    shared = Path("/dev/shm")  # noqa: S108 - the folder in it is private
    where = str(shared) if os.access(shared, os.W_OK) else str(tmp_path)
    with tempfile.TemporaryDirectory(prefix="gateway-faults-", dir=where) as name:
        yield Path(name)


async def make_sample(path: Path) -> Sample:
    """Live through a history of turns, resets and removals that reaches every file."""
    path.mkdir(exist_ok=True)
    async with running_turns(path / "state") as bench:
        await _talk(bench, 6)
        await bench.state.store.snapshots.write()
        await bench.state.database.compact(2**30)
        await _talk(bench, 2)
        await bench.state.store.snapshots.write()
        await bench.state.store.reset(key_of("bob"))
        await bench.state.store.remove(key_of("dave"))
        await _talk(bench, 2)
        await bench.state.store.update(key_of("alice"), _one_turn)
        whole = await content(bench.state)
        killed = power_cut(bench.state, path / "killed")
    assert (killed / WAL).stat().st_size > 20 * 4096
    assert not (path / "state" / WAL).exists()
    return Sample(killed, path / "state", whole)


async def _talk(bench: Bench, rounds: int) -> None:
    for number in range(rounds):
        for chat in CHATS:
            await bench.say(f"{chat} says {number} " + "words " * 40, chat, message_id="")


def _one_turn(entry: SessionEntry) -> SessionEntry:
    return replace(entry, turns=entry.turns + 1)


async def content(state: State) -> Content:
    """Read everything that is served.

    Raises:
        GatewayError: the database cannot be read.
        EntryError: an entry cannot be read.
    """
    entries = {key: state.store.get(key) for key in map(key_of, CHATS)}
    served: Content = {"entries": entries, "count": len(state.store)}
    for table in _TABLES:
        query = f"SELECT * FROM {table} ORDER BY 1"  # noqa: S608 - a name of ours
        served[table] = await state.database.read(lambda c, q=query: c.execute(q).fetchall())  # type: ignore[misc]
    return served


async def start(path: Path) -> Outcome:
    """Start on a directory, read everything there is, and stop."""
    began = False
    try:
        with anyio.fail_after(60):
            async with open_state(path) as state:
                began = True
                return Outcome(await content(state), None, began)
    except (GatewayError, EntryError) as error:
        return Outcome(None, error, began)


async def start_damaged(
    sample: Path, name: str, damaged: bytes, *, indexed: bool = True
) -> tuple[Outcome, dict[str, bytes]]:
    """Start on a copy of a directory in which one file has other bytes.

    Args:
        sample: The directory.
        name: The file.
        damaged: Its bytes.
        indexed: Whether the WAL's index is there, as after a kill, or gone with the machine.

    Returns:
        What it came to, and the files as they then are.
    """
    copy = sample.with_name("copy")
    shutil.copytree(sample, copy)
    try:
        (copy / name).write_bytes(damaged)
        if not indexed:
            (copy / INDEX).unlink(missing_ok=True)
        outcome = await start(copy)
        return outcome, {one.name: one.read_bytes() for one in copy.iterdir() if one.is_file()}
    finally:
        shutil.rmtree(copy)


def damages(data: bytes, numbers: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield damaged versions of a file without end, each with what was done to it."""
    yield "emptied", b""
    while True:
        place = numbers.randrange(len(data))
        bit = numbers.randrange(8)
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} flipped", bytes(flipped)
        for size in (512, 4096):
            start_at = place // size * size
            zeros = bytes(len(data[start_at : start_at + size]))
            zeroed = data[:start_at] + zeros + data[start_at + size :]
            if zeroed != data:
                yield f"{size} bytes from {start_at} zeroed", zeroed
        yield f"cut at byte {place}", data[:place]
