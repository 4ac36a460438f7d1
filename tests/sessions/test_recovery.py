"""Laws of the database and its snapshots found again: nothing lost, nothing invented."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson
import pytest
from structlog.testing import capture_logs

from gateway.errors import DamagedDataError, ExitCode
from gateway.sessions.entry import encode_member
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT
from gateway.sessions.snapshot import Trusted, read_snapshot
from gateway.sessions.table import EntryTable
from tests.support.state import (
    create_all,
    entry,
    key_of,
    open_state,
    power_cut,
    shown,
    write_table,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.sessions.entry import SessionEntry

KEY = key_of()


def _one_turn(one: SessionEntry) -> SessionEntry:
    return replace(one, turns=one.turns + 1)


def _files(path: Path) -> dict[str, bytes]:
    """Return the content of everything but the lock and the database's index."""
    return {
        str(one.relative_to(path)): one.read_bytes()
        for one in path.rglob("*")
        if one.is_file() and one.name not in {"lock", "gateway.db-shm"}
    }


async def _used(path: Path) -> Path:
    """Make a state of three entries: one in `.prev`, one in the snapshot, one only logged."""
    async with open_state(path) as state:
        await state.store.create(entry("a"))
        await state.store.snapshots.write()
        await state.store.create(entry("b"))
        await state.store.snapshots.write()
        await state.store.create(entry("c"))
        left = power_cut(state, path.with_name(f"{path.name} left"))
    assert shown(left).keys() == {key_of("a"), key_of("b")}
    assert shown(left / PREVIOUS).keys() == {key_of("a")}
    return left


async def _entries(path: Path) -> set[str]:
    async with open_state(path) as state:
        return {one.display_name for one in state.store.entries()}


async def test_a_clean_restart_replays_nothing_and_changes_no_number(tmp_path: Path) -> None:
    path = tmp_path / "state"
    async with open_state(path) as state:
        await create_all(state.store, map(entry, "abc"))
    for _ in range(3):
        async with open_state(path) as state:
            found = state.store.statistics()
            assert (found.entries, found.sequence, found.replayed) == (3, 3, 0)
            assert found.snapshot.written == 0


async def test_an_unclean_restart_replays_and_writes_a_snapshot_at_once(tmp_path: Path) -> None:
    left = await _used(tmp_path / "state")

    async with open_state(left) as state:
        found = state.store.statistics()
        assert (found.entries, found.sequence, found.replayed) == (3, 3, 1)
        assert found.snapshot.written == 1
        assert len(shown(left)) == 3


async def test_removals_and_changes_are_replayed_in_their_order(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, map(entry, "abc"))
        await state.store.snapshots.write()
        await state.store.remove(key_of("a"))
        await state.store.update(key_of("b"), _one_turn)
        await state.store.remove(key_of("c"))
        await state.store.create(entry("c", turns=7))
        left = power_cut(state, tmp_path / "left")

    async with open_state(left) as state:
        assert state.store.get(key_of("a")) is None
        assert state.store.get(key_of("b")) == entry("b", turns=1)
        assert state.store.get(key_of("c")) == entry("c", turns=7)
        assert state.store.statistics().replayed == 4


async def test_the_sequence_never_goes_back(tmp_path: Path) -> None:
    path, sequences = tmp_path / "state0", [0]
    for number in range(1, 6):
        async with open_state(path) as state:
            assert state.store.statistics().sequence == sequences[-1]
            await state.store.create(entry(f"c{number}"))
            await state.store.remove(key_of(f"c{number}"))
            if number % 2:
                await state.store.snapshots.write()
                await state.store.snapshots.write()
            sequences.append(state.store.statistics().sequence)
            path = power_cut(state, tmp_path / f"state{number}")

    assert sequences == [0, 2, 4, 6, 8, 10]


async def test_a_crash_at_any_write_of_a_snapshot_loses_nothing(tmp_path: Path) -> None:
    left = await _used(tmp_path / "state")
    # Between the two renames: the old snapshot has both names, the new one lies aside.
    (left / PREVIOUS).unlink()
    (left / PREVIOUS).hardlink_to(left / SNAPSHOT)
    (left / f"{SNAPSHOT}.tmp").write_bytes(b'{"version":1,"seq')

    assert await _entries(left) == {"a", "b", "c"}
    assert not (left / f"{SNAPSHOT}.tmp").exists()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": lambda data: data.replace(b'"turns":0', b'"turns":1', 1),
    "cut short": lambda data: data[: len(data) // 2],
    "zero bytes": lambda data: bytes(len(data)),
    "empty": lambda _: b"",
    "garbage": lambda _: b"\xff\xfe garbage",
    "a list": lambda _: b"[]",
    "null": lambda _: b"null",
    "another version": lambda _: b'{"version":2,"sessions":{}}',
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_for_a_damaged_snapshot_the_one_before_stands_in_loudly(
    tmp_path: Path, damage: str
) -> None:
    left = await _used(tmp_path / "state")
    damaged = DAMAGE[damage]((left / SNAPSHOT).read_bytes())
    (left / SNAPSHOT).write_bytes(damaged)

    with capture_logs() as logs:
        assert await _entries(left) == {"a", "b", "c"}

    (said,) = [log for log in logs if log["event"] == "store.snapshot_damaged"]
    assert said["log_level"] == "error"
    assert said["path"] == str(left / SNAPSHOT)
    (kept,) = [one for one in (left / "quarantine").iterdir() if one.suffix != ".reason"]
    assert kept.read_bytes() == damaged
    assert str(left / SNAPSHOT) in kept.with_name(f"{kept.name}.reason").read_text()
    # What stood in is still there, and the damaged file has not become the one before.
    for name in (SNAPSHOT, PREVIOUS):
        assert isinstance(read_snapshot(left / name), Trusted)
    assert await _entries(left) == {"a", "b", "c"}


async def test_the_one_before_stands_in_after_a_clean_restart_too(tmp_path: Path) -> None:
    path = tmp_path / "state"
    async with open_state(path) as state:
        await state.store.create(entry("a"))
        await state.store.snapshots.write()
        await state.store.create(entry("b"))
    async with open_state(path) as state:
        await state.store.create(entry("c"))
        left = power_cut(state, tmp_path / "left")
    (left / SNAPSHOT).write_bytes(b"")

    assert await _entries(left) == {"a", "b", "c"}


async def _refused(path: Path, match: str) -> DamagedDataError:
    """Open what must be refused, with everything left as it is."""
    before = _files(path)
    with pytest.raises(DamagedDataError, match=match) as refused:
        await _entries(path)
    assert refused.value.exit_code is ExitCode.DAMAGED_DATA
    assert refused.value.path == path / SNAPSHOT
    assert "gateway store adopt" in str(refused.value)
    after = _files(path)
    assert {name: after[name] for name in before if "gateway.db" not in name} == {
        name: data for name, data in before.items() if "gateway.db" not in name
    }
    return refused.value


@pytest.mark.parametrize("previous", ["missing", "damaged", "unchecked"])
async def test_without_anything_trustworthy_starting_is_refused(
    tmp_path: Path, previous: str
) -> None:
    left = await _used(tmp_path / "state")
    (left / SNAPSHOT).write_bytes((left / SNAPSHOT).read_bytes()[:400])
    match previous:
        case "missing":
            (left / PREVIOUS).unlink()
        case "damaged":
            (left / PREVIOUS).write_bytes(b"{}")
        case _:
            raw = orjson.loads((left / PREVIOUS).read_bytes())
            del raw["check"]
            (left / PREVIOUS).write_bytes(orjson.dumps(raw))

    error = await _refused(left, r"not JSON .* sessions\.json\.prev cannot stand in for it")

    assert error.offset == 400


async def test_a_snapshot_missing_beside_a_used_database_is_refused(tmp_path: Path) -> None:
    left = await _used(tmp_path / "state")
    (left / SNAPSHOT).unlink()

    await _refused(left, "missing beside a database that was in use")
    assert not (left / SNAPSHOT).exists()


async def test_a_snapshot_older_than_the_log_covers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    async with open_state(path) as state:
        await state.store.create(entry("a"))
        await state.store.snapshots.write()
        old = (path / SNAPSHOT).read_bytes()
        for name in "bcd":
            await state.store.create(entry(name))
            await state.store.snapshots.write()
    (path / SNAPSHOT).write_bytes(old)

    await _refused(path, r"older \(sequence 1\) than what the session log still covers \(from 3\)")


async def test_an_older_snapshot_that_the_log_still_covers_loses_nothing(tmp_path: Path) -> None:
    left = await _used(tmp_path / "state")
    (left / PREVIOUS).replace(left / SNAPSHOT)

    assert await _entries(left) == {"a", "b", "c"}


async def test_a_snapshot_newer_than_the_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    async with open_state(path) as state:
        await state.store.create(entry("a"))
        left = power_cut(state, tmp_path / "left")
        await state.store.create(entry("b"))
    (left / SNAPSHOT).write_bytes((path / SNAPSHOT).read_bytes())

    await _refused(left, r"newer \(sequence 2\) than the database beside it \(up to 1\)")


async def test_an_edit_by_hand_with_its_check_taken_out_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "state"
    async with open_state(path) as state:
        await create_all(state.store, map(entry, "abc"))
    raw = orjson.loads((path / SNAPSHOT).read_bytes())
    del raw["check"]
    del raw["sessions"][key_of("a")]
    raw["sessions"][key_of("b")]["turns"] = 41
    (path / SNAPSHOT).write_bytes(orjson.dumps(raw, option=orjson.OPT_INDENT_2))

    for _ in range(2):
        async with open_state(path) as state:
            assert state.store.get(key_of("a")) is None
            assert state.store.get(key_of("b")) == entry("b", turns=41)
            assert len(state.store) == 2
    assert isinstance(read_snapshot(path / SNAPSHOT), Trusted)


async def test_an_edit_by_hand_that_left_its_check_is_not_taken_for_true(tmp_path: Path) -> None:
    path = tmp_path / "state"
    async with open_state(path) as state:
        await state.store.create(entry("a"))
    edited = (path / SNAPSHOT).read_bytes().replace(b'"turns":0', b'"turns":9')
    (path / SNAPSHOT).write_bytes(edited)

    with capture_logs() as logs:
        async with open_state(path) as state:
            assert state.store.get(key_of("a")) == entry("a")
    (said,) = [log for log in logs if log["event"] == "store.snapshot_damaged"]
    assert 'take out its member "check"' in said["reason"]


def _special(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["directory", "fifo", "symlink"])
async def test_what_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    _special(path / SNAPSHOT, kind)

    with pytest.raises(DamagedDataError, match=r"sessions\.json: (not a reg|cannot be read)"):
        await _entries(path)

    assert not (path / SNAPSHOT).is_file()


@pytest.mark.parametrize("kind", ["directory", "fifo", "symlink"])
async def test_what_took_the_place_of_a_snapshot_is_set_aside(tmp_path: Path, kind: str) -> None:
    left = await _used(tmp_path / "state")
    _special(left / SNAPSHOT, kind)

    if kind == "directory":  # it cannot have a second name, and is not ours to remove
        await _refused(left, "not a regular file")
    else:
        assert await _entries(left) == {"a", "b", "c"}


async def test_a_poisoned_entry_of_a_trusted_snapshot_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state"
    table = EntryTable()
    for name in "abc":
        table.put(key_of(name), encode_member(entry(name)))
    table.put(KEY, b'"%b":{"updated_at":"2026-01-01T00:00:00Z","turns":"x"}' % KEY.encode())
    path.mkdir(mode=0o700)
    await write_table(path / SNAPSHOT, table)

    async with open_state(path) as state:
        store = state.store
        assert len(store) == 4
        pages = [store.entries(limit=1)]
        while pages[-1]:
            pages.append(store.entries(after=pages[-1][-1].session_key, limit=1))
        assert sorted(page[0].display_name for page in pages[:-1]) == ["a", "b", "c"]
        await store.update(key_of("a"), _one_turn)
        await store.snapshots.write()
    assert len(shown(path)) == 4


async def test_a_damaged_row_of_the_log_refuses_the_start_and_names_it(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await state.store.create(entry("a"))
        await state.database.write(
            lambda tx: tx.execute(
                "UPDATE session_log SET member = CAST(replace(CAST(member AS TEXT), "
                "'updated_at', 'updated_au') AS BLOB)"
            )
        )
        path = power_cut(state, tmp_path / "left")

    with pytest.raises(DamagedDataError, match=r"session log is damaged \(sequence 1\)"):
        async with open_state(path):
            pass
