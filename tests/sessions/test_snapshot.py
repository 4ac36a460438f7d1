"""Laws of `sessions.json`: its format, when it is written, and what follows from it."""

from __future__ import annotations

import os
import re
import threading
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import orjson
import pytest

from gateway.clock import FakeClock
from gateway.errors import ConfigurationError
from gateway.sessions.entry import FIELDS, encode_member, entry_from_dict
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT
from gateway.sessions.settings import StoreSettings
from gateway.sessions.snapshot import Trusted, read_snapshot
from gateway.sessions.table import EntryTable
from tests.support.state import create_all, entry, key_of, open_state, shown, write_table

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.sessions.entry import SessionEntry
    from tests.support.state import State

KEY = key_of()


def _one_turn(one: SessionEntry) -> SessionEntry:
    return replace(one, turns=one.turns + 1)


async def _write(path: Path, count: int) -> EntryTable:
    table = EntryTable()
    for number in range(count):
        table.put(key_of(f"c{number}"), encode_member(entry(f"c{number}", turns=number)))
    await write_table(path, table, sequence=77)
    return table


@pytest.mark.parametrize("count", [0, 1, 2, 511, 512, 513, 1025])
async def test_a_snapshot_is_json_one_entry_a_line_with_a_right_check_sum(
    tmp_path: Path, count: int
) -> None:
    path = tmp_path / SNAPSHOT
    await _write(path, count)

    content = path.read_bytes()
    raw = orjson.loads(content)
    lines = content.splitlines(keepends=True)
    body = b"".join(lines[:-1])
    assert list(raw) == ["version", "sequence", "written_at", "sessions", "check"]
    assert (raw["version"], raw["sequence"]) == (1, 77)
    assert raw["written_at"] == "2026-01-01T00:00:00Z"
    assert raw["check"] == {"entries": count, "crc32": f"{zlib.crc32(body):08x}"}
    assert len(lines) == count + 2
    assert raw["sessions"].keys() == {key_of(f"c{n}") for n in range(count)}
    assert all(entry_from_dict(one).session_key == key for key, one in raw["sessions"].items())


@pytest.mark.parametrize("count", [0, 1, 513])
async def test_a_snapshot_reads_back_as_what_was_written(tmp_path: Path, count: int) -> None:
    path = tmp_path / SNAPSHOT
    table = await _write(path, count)

    found = read_snapshot(path)

    assert isinstance(found, Trusted)
    assert (found.sequence, len(found.table)) == (77, count)
    for number in range(count):
        key = key_of(f"c{number}")
        assert found.table.member(key) == table.member(key)


async def test_no_byte_of_a_snapshot_can_change_or_go_unseen(tmp_path: Path) -> None:
    path = tmp_path / SNAPSHOT
    await _write(path, 3)
    content = path.read_bytes()

    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0x01
        for bad in (bytes(damaged), content[:place]):
            path.write_bytes(bad)
            assert not _is_trusted(path), (place, bad)
    path.write_bytes(content + b"\n")
    assert not _is_trusted(path)


def _is_trusted(path: Path) -> bool:
    try:
        return isinstance(read_snapshot(path), Trusted)
    except Exception:  # noqa: BLE001 - whatever the reason, it was not trusted
        return False


async def test_dashboards_read_every_documented_field(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry())
        await state.store.snapshots.write()

        assert shown(state.path)[KEY].keys() == FIELDS


async def test_the_snapshot_before_stays_and_is_whole(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry("a"))
        await state.store.snapshots.write()
        await state.store.create(entry("b"))
        await state.store.snapshots.write()

        assert shown(state.path).keys() == {key_of("a"), key_of("b")}
        assert shown(state.path / PREVIOUS).keys() == {key_of("a")}
        assert sorted(one.name for one in state.path.glob("*.json*")) == [SNAPSHOT, PREVIOUS]


async def _logged(state: State) -> list[int]:
    rows = await state.database.read(
        lambda conn: conn.execute("SELECT sequence FROM session_log ORDER BY 1").fetchall()
    )
    return [int(str(row[0])) for row in rows]


async def test_the_log_is_trimmed_only_up_to_the_snapshot_before(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, map(entry, "abc"))
        await state.store.snapshots.write()
        assert await _logged(state) == [1, 2, 3]
        await create_all(state.store, map(entry, "de"))
        await state.store.snapshots.write()
        assert await _logged(state) == [4, 5]
        await state.store.snapshots.write()
        assert await _logged(state) == []


async def test_a_long_log_is_trimmed_to_its_end(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry())
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for _ in range(4500):
                    group.start_soon(state.store.update, KEY, _one_turn)
            await state.store.snapshots.write()
            await state.store.snapshots.write()

        assert await _logged(state) == []


async def test_files_are_private_and_for_the_dashboard_group_where_it_is_set(
    tmp_path: Path,
) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.snapshots.write()
        modes = {one.name: one.stat().st_mode & 0o777 for one in state.path.iterdir()}
        assert modes.pop("gateway.db-wal") == modes.pop("gateway.db-shm") == 0o600
        assert modes == dict.fromkeys(("lock", SNAPSHOT, PREVIOUS, "gateway.db"), 0o600)

    if os.geteuid() == 0:
        settings = StoreSettings(dashboard_group="daemon")
        async with open_state(tmp_path / "state", settings=settings) as state:
            await state.store.snapshots.write()
            status = (state.path / SNAPSHOT).stat()
            assert (status.st_mode & 0o777, status.st_gid) == (0o640, 1)


async def test_a_file_read_while_it_is_rewritten_is_always_whole(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, (entry(f"c{n}") for n in range(600)))
        await state.store.snapshots.write()
        stop, wrong, seen = threading.Event(), [], []

        def read() -> None:
            while not stop.is_set():
                try:
                    seen.append(len(shown(state.path)))
                except (orjson.JSONDecodeError, OSError) as error:
                    wrong.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            number = 0
            with anyio.fail_after(60):
                # The reader may be late.
                while number < 60 or len(seen) <= 10:
                    await state.store.update(key_of(f"c{number % 600}"), _one_turn)
                    await state.store.snapshots.write()
                    number += 1
        finally:
            stop.set()
            await anyio.to_thread.run_sync(thread.join)

    assert wrong == []
    assert set(seen) == {600}


async def test_changes_made_while_a_snapshot_is_written_are_not_lost(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, (entry(f"c{n}") for n in range(1500)))
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(state.store.snapshots.write)
                for number in range(0, 1500, 10):
                    group.start_soon(state.store.update, key_of(f"c{number}"), _one_turn)
                    group.start_soon(state.store.remove, key_of(f"c{number + 1}"))
        due = state.store.snapshots.due_in_s()
        wanted = {one.session_key: one for one in state.store.entries(limit=2000)}

    # What came too late for that snapshot is due for the next one, and the last one has it all.
    assert due is not None
    raw = shown(tmp_path / "state")
    assert {key: entry_from_dict(one) for key, one in raw.items()} == wanted
    assert len(wanted) == 1350


async def test_a_snapshot_is_due_after_a_change_and_its_interval(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_state(tmp_path / "state", clock, StoreSettings(snapshot_interval_s=2)) as state:
        snapshots = state.store.snapshots
        told = anyio.Event()
        snapshots.on_change = told.set
        assert snapshots.due_in_s() is None
        await state.store.create(entry())
        with anyio.fail_after(30):
            await told.wait()
        assert snapshots.due_in_s() == pytest.approx(2)
        await clock.advance(2)
        assert snapshots.due_in_s() == 0
        await snapshots.write()
        assert snapshots.due_in_s() is None


async def test_snapshots_keep_to_their_budget_of_bytes(tmp_path: Path) -> None:
    clock = FakeClock()
    settings = StoreSettings(
        snapshot_interval_s=2, snapshot_budget_bytes_per_s=100, snapshot_burst_bytes=10_000
    )
    async with open_state(tmp_path / "state", clock, settings) as state:
        await create_all(state.store, (entry(f"c{n}") for n in range(5)))
        snapshots = state.store.snapshots
        begun, written = clock.monotonic(), 0
        for _ in range(20):
            await state.store.update(key_of("c1"), _one_turn)
            wait_s = snapshots.due_in_s()
            assert wait_s is not None
            await clock.advance(wait_s)
            await snapshots.write()
            written += snapshots.statistics().size_bytes
        passed_s = clock.monotonic() - begun

    assert written > 50_000
    # Within the burst and the rate, and not slower than they allow.
    assert written - 10_000 <= 100 * passed_s + snapshots.statistics().size_bytes
    assert 100 * passed_s <= written


async def test_a_snapshot_larger_than_the_burst_is_written_once_the_burst_is_full(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    settings = StoreSettings(
        snapshot_interval_s=2, snapshot_budget_bytes_per_s=100, snapshot_burst_bytes=500
    )
    async with open_state(tmp_path / "state", clock, settings) as state:
        await create_all(state.store, (entry(f"c{n}") for n in range(5)))
        await state.store.snapshots.write()
        await state.store.update(key_of("c1"), _one_turn)
        size = state.store.snapshots.statistics().size_bytes
        wait_s = state.store.snapshots.due_in_s()

    assert size > 500
    assert wait_s is not None
    assert 10 < wait_s <= (size + 119) / 100  # 119 bytes: the empty snapshot before


async def test_without_a_budget_only_the_interval_counts(tmp_path: Path) -> None:
    clock = FakeClock()
    settings = StoreSettings(snapshot_interval_s=1, snapshot_budget_bytes_per_s=0)
    async with open_state(tmp_path / "state", clock, settings) as state:
        for _ in range(5):
            await state.store.create(entry(f"c{state.store.statistics().sequence}"))
            assert state.store.snapshots.due_in_s() == pytest.approx(1)
            await clock.advance(1)
            await state.store.snapshots.write()


async def test_a_new_pace_counts_from_the_next_question_on(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry())
        state.store.snapshots.configure(StoreSettings(snapshot_interval_s=30))

        assert state.store.snapshots.due_in_s() == pytest.approx(30)


async def test_a_dashboard_group_that_is_not_there_is_refused(tmp_path: Path) -> None:
    settings = StoreSettings(dashboard_group="no-such-group")

    with pytest.raises(ConfigurationError, match=r"dashboard_group: accepted is .*no-such-group"):
        async with open_state(tmp_path / "state", settings=settings):
            pass


async def test_a_closing_store_writes_what_is_new_and_nothing_else(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry())
    assert shown(tmp_path / "state").keys() == {KEY}

    before = (tmp_path / "state" / SNAPSHOT).stat()
    async with open_state(tmp_path / "state"):
        pass
    after = (tmp_path / "state" / SNAPSHOT).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_format_is_the_documented_one(tmp_path: Path) -> None:
    async def write() -> None:
        await _write(tmp_path / SNAPSHOT, 2)

    anyio.run(write)

    assert re.fullmatch(
        rb'\{"version":1,"sequence":77,"written_at":"2026-01-01T00:00:00Z","sessions":\{\n'
        rb'"agent:main:http::dm:c\d::":\{.*\},\n'
        rb'"agent:main:http::dm:c\d::":\{.*\}\n'
        rb'\},"check":\{"entries":2,"crc32":"[0-9a-f]{8}"\}\}\n',
        (tmp_path / SNAPSHOT).read_bytes(),
    )
