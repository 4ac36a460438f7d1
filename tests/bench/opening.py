"""Opens a store in a fresh process, as the daemon does, and prints what that took.

    python -m tests.bench.opening open DIRECTORY
    python -m tests.bench.opening replay DIRECTORY

The second one only recovers it, and changes nothing: so it can be done again.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import orjson

from gateway.clock import SystemClock
from gateway.daemon import spare_the_collector
from gateway.durable.database import Database
from gateway.durable.directory import hold
from gateway.log import LogSettings, configure
from gateway.sessions.recovery import recover
from tests.bench.states import keys, opened, touch
from tests.bench.ticking import forget_peak, peak_bytes, resident_bytes

if TYPE_CHECKING:
    from gateway.durable.connection import Connection
    from gateway.sessions.store import SessionStore

_USED: Final = 20_000
_TOGETHER: Final = 500


class Noting:
    """A connection that notes when the reading of the session log began."""

    def __init__(self, connection: Connection) -> None:
        """Wrap a connection."""
        self._connection = connection
        self.replay_began: float | None = None

    def execute(self, sql: str, bindings: Any = ()) -> Any:  # noqa: ANN401 - apsw's own types
        """Run one statement."""
        if "FROM session_log" in sql and "ORDER BY" in sql and self.replay_began is None:
            self.replay_began = time.perf_counter()
        return self._connection.execute(sql, bindings)


async def open_store(directory: Path) -> dict[str, float]:
    """Return the time and the memory that an opened store takes."""
    json_bytes = _warmed(directory / "sessions.json")
    forget_peak()
    before = resident_bytes()
    started, cpu = time.perf_counter(), time.process_time()
    async with opened(directory) as state:
        taken_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        after, peak = resident_bytes(), peak_bytes()
        entries = len(state.store)
        spare_the_collector()
        started_ms, _ = _collect_ms()
        await _use(state.store, entries)
        used_ms, used_cpu_ms = _collect_ms()
    return {
        "open_s": taken_s,
        "open_cpu_s": cpu_s,
        "bytes_each": (after - before) / entries,
        "json_bytes_each": json_bytes / entries,
        "peak_x": (peak - before) / (after - before),
        "collect_at_start_ms": started_ms,
        "collect_in_use_ms": used_ms,
        "collect_in_use_cpu_ms": used_cpu_ms,
        "page_faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt,
    }


async def replay(directory: Path) -> dict[str, float]:
    """Return how long the log rows after the snapshot took to apply."""
    _warmed(directory / "sessions.json")
    clock = SystemClock()
    with hold(directory, started_at=clock.now()) as state:
        async with Database.open(directory / "gateway.db", clock) as database:

            def query(connection: Connection) -> dict[str, float]:
                noting = Noting(connection)
                started = time.perf_counter()
                recovered = recover(cast("Connection", noting), state, clock.now())
                ended = time.perf_counter()
                assert noting.replay_began is not None
                return {
                    "replayed": recovered.replayed,
                    "replay_s": ended - noting.replay_began,
                    "recover_s": ended - started,
                }

            return await database.read(query)


async def _use(store: SessionStore, entries: int) -> None:
    """Update so many sessions that as many stay decoded as ever do."""
    picked = keys(entries, _USED, seed=3)
    for start in range(0, len(picked), _TOGETHER):
        async with anyio.create_task_group() as group:
            for key in picked[start : start + _TOGETHER]:
                group.start_soon(touch, store, key)


def _collect_ms() -> tuple[float, float]:
    """Return wall time and processor time of a full garbage collection."""
    start, cpu = time.perf_counter(), time.thread_time()
    gc.collect()
    return (time.perf_counter() - start) * 1000, (time.thread_time() - cpu) * 1000


def _warmed(path: Path) -> int:
    """Read a file once, and return its size."""
    with path.open("rb") as file:
        while file.read(1_048_576):
            pass
        return file.tell()


if __name__ == "__main__":
    configure(LogSettings(level="error"), sys.stderr.buffer)
    work = {"open": open_store, "replay": replay}[sys.argv[1]]
    result = anyio.run(work, Path(sys.argv[2]), backend_options={"use_uvloop": True})
    sys.stdout.write(orjson.dumps(result).decode())
