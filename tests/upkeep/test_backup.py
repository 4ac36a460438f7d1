"""Laws of the backup: it starts, has all that was acknowledged, and is whole or not there."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import pytest

from gateway.clock import FakeClock
from gateway.errors import (
    ConflictError,
    DamagedDataError,
    StorageError,
    StorageFullError,
    UnsafeStateDirectoryError,
)
from gateway.upkeep.backup import BackedUp, back_up
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.support.disk import small_disk
from tests.support.state import create_all, entry, import_file, key_of, open_state
from tests.support.turns import running_turns
from tests.support.upkeep import change, edit, found, look, overwrite, shown_entries, used_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


COPIES: Final = 5


def backed_up(path: Path, target: Path) -> BackedUp:
    return back_up(path, target, FakeClock())


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
async def test_a_backup_is_the_state_itself_and_leaves_it_as_it_is(
    tmp_path: Path, *, killed: bool
) -> None:
    path = await used_state(tmp_path / "state", killed=killed)
    (path / "token").write_text("secret")
    (path / "archive").mkdir()
    (path / "archive" / "left-over.jsonl.zst").write_bytes(b"old")
    (path / "quarantine").mkdir()
    before = look(path)

    made = backed_up(path, tmp_path / "copy")

    assert look(path) == before
    copy = tmp_path / "copy"
    assert (made.entries, made.sequence, made.messages) == (3, 12, 12)
    assert made.bytes == sum(one.stat().st_size for one in copy.rglob("*") if one.is_file())
    assert not made.beside_daemon
    names = {str(one.relative_to(copy)) for one in copy.rglob("*") if one.is_file()}
    assert names == {"gateway.db", "sessions.json", "token"}
    assert (copy / "token").read_text() == "secret"
    for one in (copy, *copy.rglob("*")):
        assert stat.S_IMODE(one.stat().st_mode) == (0o700 if one.is_dir() else 0o600)
    assert {one.level for one in check_store(copy).findings} == {Level.OK}
    assert await shown_entries(copy) == await shown_entries(path)


async def test_everything_acknowledged_before_is_in_a_backup_of_a_store_in_use(
    tmp_path: Path,
) -> None:
    """Messages and snapshots go on while copies are made; each copy has what came before it."""
    async with running_turns(tmp_path / "state") as bench:
        acknowledged: list[tuple[str, str]] = []
        owed: list[list[tuple[str, str]]] = []
        meanwhile = 0
        stop, news = anyio.Event(), anyio.Event()

        async def talk() -> None:
            nonlocal news
            number = 0
            while not stop.is_set():
                number += 1
                chat, message_id = f"chat{number % 7}", f"m{number}"
                reply = await bench.say(f"text {number}", chat, message_id=message_id)
                acknowledged.append((chat, reply.turn_id))
                news.set()
                news = anyio.Event()
                if number % 5 == 0:
                    await bench.state.store.snapshots.write()

        with anyio.fail_after(120):
            async with anyio.create_task_group() as group:
                group.start_soon(talk)
                while len(owed) < COPIES or not meanwhile:
                    number = len(owed)
                    while len(acknowledged) < 15 * (number + 1):
                        await news.wait()
                    owed.append(list(acknowledged))
                    made = await anyio.to_thread.run_sync(
                        backed_up, bench.state.path, tmp_path / f"copy{number}"
                    )
                    assert made.beside_daemon
                    meanwhile += len(acknowledged) - len(owed[-1])
                stop.set()
    for number, wanted in enumerate(owed):
        copy = tmp_path / f"copy{number}"
        report = check_store(copy)
        assert {one.level for one in report.findings} == {Level.OK}, report
        async with open_state(copy) as state:
            rows = await state.database.read(
                lambda conn: conn.execute(
                    "SELECT session_key, turn_id FROM sessions JOIN messages USING (session_id)"
                ).fetchall()
            )
        assert {(key_of(chat), turn) for chat, turn in wanted} <= set(rows)


async def test_a_backup_sees_one_instant_of_snapshot_and_log(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        await create_all(state.store, [entry("a"), entry("b")])
        await state.store.snapshots.write()
        await state.store.remove(key_of("a"))
        await state.store.create(entry("c"))
        made = backed_up(state.path, tmp_path / "copy")

    assert (made.entries, made.sequence) == (2, 4)
    assert set(await shown_entries(tmp_path / "copy")) == {key_of("b"), key_of("c")}


async def test_a_file_of_sessions_alone_is_backed_up_as_it_is(tmp_path: Path) -> None:
    donor = await used_state(tmp_path / "donor")
    edit(donor, lambda raw: None)
    path = import_file(tmp_path / "state", (donor / "sessions.json").read_bytes())

    made = backed_up(path, tmp_path / "copy")

    assert (made.entries, made.messages) == (3, 0)
    copied = (tmp_path / "copy" / "sessions.json").read_bytes()
    assert copied == (path / "sessions.json").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: overwrite(path / "sessions.json", 700, b"#"), id="check-sum"),
        pytest.param(lambda path: (path / "sessions.json").write_bytes(b""), id="empty"),
        pytest.param(lambda path: (path / "sessions.json").unlink(), id="missing"),
        pytest.param(
            lambda path: os.truncate(path / "sessions.json", 700), id="truncated-snapshot"
        ),
        pytest.param(lambda path: os.truncate(path / "gateway.db", 20_480), id="truncated"),
        pytest.param(lambda path: overwrite(path / "gateway.db", 0, bytes(100)), id="header"),
        pytest.param(lambda path: overwrite(path / "gateway.db", 12_288, bytes(4096)), id="page"),
        pytest.param(lambda path: change(path, "PRAGMA application_id = 7"), id="another-program"),
        pytest.param(
            lambda path: change(path, "UPDATE store_state SET value = 99 WHERE name = 'floor'"),
            id="too-old",
        ),
        pytest.param(lambda path: change(path, "DELETE FROM session_log"), id="too-new"),
        pytest.param(
            lambda path: change(
                path,
                "PRAGMA writable_schema = ON",
                "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema "
                "WHERE name = 'messages_by_session') WHERE name = 'sessions_by_key'",
            ),
            id="index",
        ),
    ],
)
async def test_a_damaged_state_is_not_backed_up(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = await used_state(tmp_path / "state")
    damage(path)

    with pytest.raises(DamagedDataError):
        backed_up(path, tmp_path / "copy")

    assert sorted(one.name for one in tmp_path.iterdir()) == ["state"]


async def test_commits_lost_from_the_middle_of_the_wal_are_no_backup(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state", killed=True)
    wal = path / "gateway.db-wal"
    overwrite(wal, wal.stat().st_size // 2, b"\xff" * 64)

    with pytest.raises(DamagedDataError, match="cannot be read any more"):
        backed_up(path, tmp_path / "copy")

    assert not (tmp_path / "copy").exists()


async def test_only_a_free_name_or_an_empty_directory_is_taken(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "broken.incomplete").mkdir()

    backed_up(path, tmp_path / "empty")
    for name, reason in (
        ("full", "is not empty"),
        ("file", "is there already"),
        ("link", "is there already"),
        ("broken", "was broken off"),
        ("state/copy", "inside"),
    ):
        with pytest.raises(ConflictError, match=reason):
            backed_up(path, tmp_path / name)
    with pytest.raises(StorageError, match="No such file"):
        backed_up(path, tmp_path / "no" / "parent")

    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o700
    assert check_store(tmp_path / "empty").facts["entries"] == 3


async def test_a_mount_point_cannot_be_taken_but_what_is_in_it_can(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(ConflictError, match="mount point"):
            backed_up(path, disk)
        backed_up(path, disk / "copy")
        assert found(check_store(disk / "copy"), Level.WRONG) == []


async def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(path, "CREATE TABLE ballast (x)", "INSERT INTO ballast VALUES (zeroblob(4000000))")
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(StorageFullError, match=r"disk/copy\.incomplete"):
            backed_up(path, disk / "copy")

        assert list(disk.iterdir()) == []


async def test_a_directory_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    path.chmod(0o755)

    with pytest.raises(UnsafeStateDirectoryError):
        backed_up(path, tmp_path / "copy")

    assert not (tmp_path / "copy").exists()
