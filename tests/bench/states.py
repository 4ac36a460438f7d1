"""Stores of any size to measure on: their files, written fast, and the store opened on them."""

from __future__ import annotations

import random
import zlib
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from gateway.clock import SystemClock
from gateway.durable.database import Database
from gateway.durable.directory import hold
from gateway.model import AgentId, ContextSource, SessionId, SessionKey, SessionSource
from gateway.sessions.entry import SessionEntry, display_name, encode_member
from gateway.sessions.history import stamp
from gateway.sessions.key import session_key
from gateway.sessions.settings import SessionSettings, StoreSettings
from gateway.sessions.store import SessionStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from pathlib import Path

SPREAD_S: Final = 60 * 86_400
"""Entries were last used within so many seconds before now, evenly and in no order."""
_NOW: Final = datetime.now(UTC).replace(microsecond=123_456)
_SAMPLE: Final = 8_899_889
"""A number whose digits stand nowhere else in an entry."""
_PIECE: Final = 4_096


@dataclass(frozen=True, slots=True)
class Opened:
    """A store that is open, and what it stands on."""

    store: SessionStore
    database: Database
    clock: SystemClock


def updated_at(number: int) -> datetime:
    """Return when an entry was last used."""
    return _NOW - timedelta(seconds=number * 2_654_435_761 % SPREAD_S)


def make_entry(number: int) -> SessionEntry:
    """Return an entry as a dozen turns leave it."""
    at = updated_at(number)
    source = SessionSource(
        "telegram", f"400{number:07d}", user_id=f"{number:07d}", user_name=f"User {number:07d}"
    )
    return SessionEntry(
        session_key=session_key(source, AgentId("main"), SessionSettings()),
        session_id=SessionId(f"20261101T000000-00000{number:07d}"),
        agent=AgentId("main"),
        created_at=at,
        updated_at=at,
        source=source,
        display_name=display_name(source),
        turns=12,
        input_tokens=5_316,
        output_tokens=2_140,
        total_tokens=7_456,
        context_tokens=1_233,
        context_window_tokens=128_000,
        context_source=ContextSource.USAGE,
        context_measured_at=at,
        context_step=12,
        cache_touched_at=at,
        model="gpt-large",
    )


def members(entries: int) -> Generator[bytes]:
    """Yield the members of entries 0, 1, ...; as `encode_member` makes them, but faster."""
    sample = encode_member(make_entry(_SAMPLE)).replace(b"%", b"%%")
    text = sample.replace(b"%d" % _SAMPLE, b"%(number)07d")
    text = text.replace(stamp(updated_at(_SAMPLE)).encode(), b"%(at)b")
    for number in range(entries):
        yield text % {b"number": number, b"at": stamp(updated_at(number)).encode()}


def write_state(directory: Path, entries: int) -> None:
    """Write a state directory with a checked `sessions.json` and no database yet."""
    directory.mkdir(mode=0o700, parents=True)
    head = b'{"version":1,"sequence":0,"written_at":"%b","sessions":{\n' % stamp(_NOW).encode()
    with (directory / "sessions.json").open("wb") as file:
        file.write(head)
        crc, piece = zlib.crc32(head), bytearray()
        for count, member in enumerate(members(entries), start=1):
            piece += member + (b",\n" if count < entries else b"\n")
            if count % _PIECE == 0 or count == entries:
                file.write(piece)
                crc = zlib.crc32(piece, crc)
                piece.clear()
        file.write(b'},"check":{"entries":%d,"crc32":"%08x"}}\n' % (entries, crc))


@asynccontextmanager
async def opened(directory: Path, settings: StoreSettings | None = None) -> AsyncGenerator[Opened]:
    """Open a store on a directory; no watcher runs, so no snapshot disturbs."""
    clock = SystemClock()
    with hold(directory, started_at=clock.now()) as state:
        async with (
            Database.open(directory / "gateway.db", clock) as database,
            SessionStore.open(state, database, clock, settings or StoreSettings()) as store,
        ):
            yield Opened(store, database, clock)


async def touch(store: SessionStore, key: SessionKey) -> None:
    """Update an entry as a turn does."""
    await store.update(key, lambda old: old.changed(turns=old.turns + 1))


def keys(entries: int, count: int, seed: int) -> list[SessionKey]:
    """Return keys picked evenly from a store of so many entries."""
    pick = random.Random(seed)
    sample = make_entry(_SAMPLE).session_key
    return [
        SessionKey(sample.replace(str(_SAMPLE), f"{pick.randrange(entries):07d}"))
        for _ in range(count)
    ]
