"""The baseline every store figure is held against, and the store under test."""

from __future__ import annotations

import os
import random
import statistics
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from gateway.clock import SystemClock
from gateway.durable.database import Database
from gateway.durable.directory import hold
from gateway.model import AgentId, SessionId, SessionKey, SessionSource
from gateway.sessions.entry import SessionEntry, display_name, encode_member
from gateway.sessions.key import session_key
from gateway.sessions.settings import SessionSettings, StoreSettings
from gateway.sessions.store import SessionStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

RECORD_BYTES = 600
"""What the baseline appends; an entry has about as many."""


class Bare:
    """Appending a record to a file and syncing it: what no durable update can beat alone."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._record = b"x" * (RECORD_BYTES - 1) + b"\n"

    def append(self) -> None:
        os.write(self._descriptor, self._record)
        os.fdatasync(self._descriptor)

    def times_us(self, count: int) -> list[float]:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            self.append()
            times.append((time.perf_counter() - start) * 1e6)
        return times

    def close(self) -> None:
        os.close(self._descriptor)


async def times_us(work: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Return how long each of some awaits took, one after the other."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        await work()
        times.append((time.perf_counter() - start) * 1e6)
    return times


def make_entry(number: int) -> SessionEntry:
    """Return an entry of a usual size."""
    source = SessionSource(
        "telegram", f"{4_000_000_000 + number}", user_id=f"{number}", user_name=f"User {number}"
    )
    began = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(
        seconds=number % 1_000_000, microseconds=1
    )
    return SessionEntry(
        session_key=session_key(source, AgentId("main"), SessionSettings()),
        session_id=SessionId(f"20261101T000000-{number:012x}"),
        agent=AgentId("main"),
        created_at=began,
        updated_at=began,
        source=source,
        display_name=display_name(source),
        turns=number % 97,
        model="gpt-large",
    )


def write_state(directory: Path, entries: int) -> None:
    """Write a `sessions.json` as an import has it, one entry a line."""
    directory.mkdir(mode=0o700, parents=True)
    with (directory / "sessions.json").open("wb") as file:
        file.write(b'{"version":1,"sessions":{\n')
        for number in range(entries):
            file.write(b"" if number == 0 else b",\n")
            file.write(encode_member(make_entry(number)))
        file.write(b"\n}}\n")


@asynccontextmanager
async def opened(
    directory: Path, settings: StoreSettings | None = None
) -> AsyncGenerator[SessionStore]:
    """Open a store on a directory; no watcher runs, so no snapshot disturbs."""
    clock = SystemClock()
    with hold(directory, started_at=clock.now()) as state:
        async with (
            Database.open(directory / "gateway.db", clock) as database,
            SessionStore.open(state, database, clock, settings or StoreSettings()) as store,
        ):
            yield store


async def touch(store: SessionStore, key: SessionKey) -> None:
    """Update an entry as a turn does."""
    await store.update(key, lambda old: old.changed(turns=old.turns + 1))


def keys(entries: int, count: int, seed: int) -> list[SessionKey]:
    """Return keys picked evenly from a store of so many entries."""
    pick = random.Random(seed)
    return [make_entry(pick.randrange(entries)).session_key for _ in range(count)]


def median(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def p99(values: list[float]) -> float:
    """Return the value that one in a hundred exceeds."""
    return sorted(values)[int(len(values) * 0.99)]
