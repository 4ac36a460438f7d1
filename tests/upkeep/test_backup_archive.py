"""Laws of the backup of an archive: the files that the copied database names, as written."""

from __future__ import annotations

import os
import stat
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio.to_thread
import pytest

from gateway.clock import FakeClock
from gateway.durable.disk import SYSTEM_DISK
from gateway.errors import DamagedDataError, StorageError
from gateway.upkeep.backup import BackedUp, back_up
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.support.state import import_file, open_state
from tests.support.upkeep import change, look, overwrite, used_state
from tests.upkeep.pruning import CONTENT, FILE, MakingDisk, PurgingDisk, pruned_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.durable.disk import Disk


def backed_up(path: Path, target: Path, disk: Disk = SYSTEM_DISK) -> BackedUp:
    return back_up(path, target, FakeClock(), disk=disk)


def files_in(path: Path) -> list[str]:
    return sorted(str(one.relative_to(path)) for one in path.rglob("*") if one.is_file())


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
async def test_the_archive_is_part_of_a_backup_and_what_no_row_names_is_not(
    tmp_path: Path, *, killed: bool
) -> None:
    path = await pruned_state(tmp_path / "state", killed=killed)
    for name in ("2026-01-02T000000Z-1.jsonl.zst", "x.jsonl.zst.tmp"):
        (path / "archive" / name).touch(mode=0o600)
    (path / "archive" / "folder").mkdir()
    before = look(path)

    made = backed_up(path, tmp_path / "copy")

    assert look(path) == before
    copy = tmp_path / "copy"
    assert files_in(copy) == [f"archive/{FILE}", "gateway.db", "sessions.json"]
    assert (copy / "archive" / FILE).read_bytes() == CONTENT
    assert made.bytes == sum((copy / name).stat().st_size for name in files_in(copy))
    for one in copy.rglob("*"):
        assert stat.S_IMODE(one.stat().st_mode) == (0o700 if one.is_dir() else 0o600)
    assert {one.level for one in check_store(copy).findings} == {Level.OK}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(lambda file: file.unlink(), "missing", id="missing"),
        pytest.param(
            lambda file: overwrite(file, 1_500_000, b"#"), "not as it was written", id="flipped"
        ),
        pytest.param(lambda file: os.truncate(file, 9), "not as it was written", id="truncated"),
        pytest.param(
            lambda file: file.symlink_to(file.rename(file.with_name("x"))), "link", id="link"
        ),
    ],
)
@pytest.mark.parametrize("live", [False, True], ids=["stopped", "running"])
async def test_a_damaged_archive_is_not_backed_up(
    tmp_path: Path, damage: Callable[[Path], None], reason: str, *, live: bool
) -> None:
    path = await pruned_state(tmp_path / "state")
    damage(path / "archive" / FILE)

    async with AsyncExitStack() as stack:
        if live:
            await stack.enter_async_context(open_state(path))
        with pytest.raises((DamagedDataError, StorageError), match=f"{FILE}.*{reason}"):
            await anyio.to_thread.run_sync(backed_up, path, tmp_path / "copy")

    assert sorted(one.name for one in tmp_path.iterdir()) == ["state"]


async def test_an_archive_that_a_daemon_takes_away_meanwhile_is_in_no_backup(
    tmp_path: Path,
) -> None:
    path = await pruned_state(tmp_path / "state")
    async with open_state(path) as state:
        disk = PurgingDisk(state)

        made = await anyio.to_thread.run_sync(backed_up, path, tmp_path / "copy", disk)

    assert disk.purged
    assert made.beside_daemon
    assert files_in(tmp_path / "copy") == ["gateway.db", "sessions.json"]
    assert {one.level for one in check_store(tmp_path / "copy").findings} == {Level.OK}


@pytest.mark.parametrize("purging", [False, True], ids=["stays", "is-purged-at-once"])
async def test_what_is_made_after_the_files_were_read_is_there_if_it_is_named(
    tmp_path: Path, *, purging: bool
) -> None:
    path = await pruned_state(tmp_path / "state")
    async with open_state(path) as state:
        disk = MakingDisk(state, purging=purging)

        await anyio.to_thread.run_sync(backed_up, path, tmp_path / "copy", disk)

    assert (disk.made, disk.purged) == (True, purging)
    made = [] if purging else [f"archive/{disk.MADE}"]
    copied = [f"archive/{FILE}", *made, "gateway.db", "sessions.json"]
    assert files_in(tmp_path / "copy") == copied
    assert {one.level for one in check_store(tmp_path / "copy").findings} == {Level.OK}


async def test_a_file_of_sessions_alone_has_no_archive(tmp_path: Path) -> None:
    donor = await used_state(tmp_path / "donor")
    path = import_file(tmp_path / "state", (donor / "sessions.json").read_bytes())
    (path / "archive").mkdir()
    (path / "archive" / FILE).touch()

    backed_up(path, tmp_path / "copy")

    assert files_in(tmp_path / "copy") == ["sessions.json"]


async def test_an_older_database_is_backed_up_without_an_archive(tmp_path: Path) -> None:
    path = await pruned_state(tmp_path / "state")
    change(path, "DROP TABLE archives", "PRAGMA user_version = 6")

    backed_up(path, tmp_path / "copy")

    assert files_in(tmp_path / "copy") == ["gateway.db", "sessions.json"]
