"""Laws of what tells a WAL that lost synced commits from one whose last write was broken off."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import apsw
import pytest

from gateway.durable.connection import open_writer
from gateway.durable.wal import INDEX_BYTES, read_count, wal_of
from gateway.errors import DamagedDataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Damage = Callable[[bytes], bytes]

FRAME_BYTES = 24 + 4096
COMMITS = 5
# Place in a frame, name, how many commits must follow: that one follows a frame is told by its sum.
PLACES = ((3, "number", 1), (8, "salt", 1), (20, "sum", 2), (2000, "page", 1))


def _write(connection: apsw.Connection, number: int, *, chars: int = 3) -> None:
    name = f"{number}" * chars
    connection.execute("INSERT INTO store_state (name, value) VALUES (?, ?)", (name, number))


def _copy(path: Path, name: str, wal: bytes | None = None, *, indexed: bool = False) -> Path:
    """Copy a database as it is; return where the copy is."""
    copy = path.parent.with_name(name)
    shutil.copytree(path.parent, copy)
    if wal is not None:
        wal_of(copy / path.name).write_bytes(wal)
    if not indexed:
        (copy / "gateway.db-shm").unlink()
    return copy / path.name


def _killed(tmp_path: Path) -> Path:
    """Make a database whose commits, of one page each, are all in the WAL."""
    path = tmp_path / "live" / "gateway.db"
    path.parent.mkdir()
    connection = open_writer(path)
    for number in range(COMMITS):
        _write(connection, number)
    killed = _copy(path, "killed", indexed=True)
    connection.close()
    assert wal_of(killed).stat().st_size == 32 + COMMITS * FRAME_BYTES
    return killed


def _found(path: Path) -> int:
    """Open a database, and return how many of the commits are there."""
    connection = open_writer(path)
    try:
        return len(connection.execute("SELECT * FROM store_state").fetchall())
    finally:
        connection.close()


def _flipped(wal: bytes, place: int) -> bytes:
    return wal[:place] + bytes([wal[place] ^ 1]) + wal[place + 1 :]


@pytest.mark.parametrize(
    ("place", "frame"),
    [
        pytest.param(place, frame, id=f"{name} of {frame}")
        for place, name, behind in (
            (3, "number", 1),
            (8, "salt", 1),
            (20, "sum", 2),
            (2000, "page", 1),
        )
        for frame in range(COMMITS - behind)
    ],
)
def test_a_damaged_frame_with_a_commit_behind_it_is_refused_with_its_place(
    tmp_path: Path, place: int, frame: int
) -> None:
    killed = _killed(tmp_path)
    begins = 32 + frame * FRAME_BYTES
    damaged = _flipped(wal_of(killed).read_bytes(), begins + place)
    path = _copy(killed, "damaged", damaged)
    before = path.read_bytes()

    with pytest.raises(DamagedDataError, match="synced and cannot be read any more") as refused:
        open_writer(path)

    assert (refused.value.path, refused.value.offset) == (wal_of(path), begins)
    assert (path.read_bytes(), wal_of(path).read_bytes()) == (before, damaged)


@pytest.mark.parametrize("place", [0, 4, 9, 17, 27])
def test_a_damaged_header_before_commits_is_refused(tmp_path: Path, place: int) -> None:
    killed = _killed(tmp_path)
    path = _copy(killed, "damaged", _flipped(wal_of(killed).read_bytes(), place))

    with pytest.raises(DamagedDataError) as refused:
        open_writer(path)

    assert (refused.value.path, refused.value.offset) == (wal_of(path), 0)


@pytest.mark.parametrize("left_bytes", [FRAME_BYTES - 1, 24, 1, 0])
def test_a_last_commit_that_was_broken_off_is_no_damage(tmp_path: Path, left_bytes: int) -> None:
    killed = _killed(tmp_path)
    cut = wal_of(killed).read_bytes()[: 32 + (COMMITS - 1) * FRAME_BYTES + left_bytes]

    assert _found(_copy(killed, "cut", cut)) == COMMITS - 1


@pytest.mark.parametrize("content", [b"", b"\0" * 32, b"garbage"])
def test_a_wal_that_was_never_written_is_no_damage(tmp_path: Path, content: bytes) -> None:
    killed = _killed(tmp_path)

    assert _found(_copy(killed, "fresh", content)) == 0


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda wal: _flipped(wal, len(wal) - 1), id="the last byte"),
        pytest.param(lambda wal: wal[:-FRAME_BYTES], id="a commit cut off"),
        pytest.param(lambda wal: wal[:-1], id="a byte cut off"),
        pytest.param(lambda wal: wal[:32], id="all commits cut off"),
    ],
)
def test_after_a_kill_the_index_tells_of_the_last_commit_too(
    tmp_path: Path, damage: Damage
) -> None:
    killed = _killed(tmp_path)
    counted = read_count(killed)
    assert counted is not None
    assert counted.frames == COMMITS
    path = _copy(killed, "damaged", damage(wal_of(killed).read_bytes()), indexed=True)

    with pytest.raises(DamagedDataError, match="synced and cannot be read any more"):
        open_writer(path)


def test_an_index_that_is_behind_or_not_of_this_wal_tells_nothing(tmp_path: Path) -> None:
    killed = _killed(tmp_path)
    index = killed.with_name("gateway.db-shm").read_bytes()
    wal = wal_of(killed).read_bytes()[:-FRAME_BYTES]
    for number, other in enumerate((b"", index[:40], bytes(len(index)), _flipped(index, 17))):
        path = _copy(killed, f"copy{number}", wal, indexed=True)
        path.with_name("gateway.db-shm").write_bytes(other)
        assert read_count(path) is None
        assert _found(path) == COMMITS - 1

    restarted = _copy(killed, "restarted")
    connection = open_writer(restarted)
    _write(connection, 77)
    left = _copy(restarted, "left", indexed=True)
    connection.close()
    left.with_name("gateway.db-shm").write_bytes(index)
    assert _found(left) == COMMITS + 1


def test_what_a_refused_commit_left_behind_a_broken_off_one_is_no_damage(tmp_path: Path) -> None:
    """A full disk stops a large commit half way; a small one takes its place, then power goes."""
    killed = _killed(tmp_path)
    large, small = _copy(killed, "large"), _copy(killed, "small")
    written = []
    for path, chars in ((large, 30_000), (small, 5_000)):
        # Not checkpointed at the opening: both go on in the same WAL.
        connection = apsw.Connection(str(path))
        connection.wal_autocheckpoint(0)
        _write(connection, 8, chars=chars)
        written.append(wal_of(path).read_bytes())
        connection.close()
    refused, wal = written
    assert len(wal) + 2 * FRAME_BYTES < len(refused)
    broken_off = _flipped(wal, 32 + COMMITS * FRAME_BYTES + 2000) + refused[len(wal) :]

    assert _found(_copy(killed, "left", broken_off)) == COMMITS


def test_after_an_end_that_was_not_orderly_the_database_is_checked(tmp_path: Path) -> None:
    killed = _killed(tmp_path)
    root = 4096 * 3
    content = killed.read_bytes()
    killed.write_bytes(content[:root] + bytes(4096) + content[root + 4096 :])

    with pytest.raises(DamagedDataError, match="the database is damaged") as refused:
        open_writer(killed)

    assert refused.value.path == killed
    assert wal_of(killed).stat().st_size == 32 + COMMITS * FRAME_BYTES


@pytest.mark.parametrize("gone", [False, True])
def test_an_emptied_database_is_refused_and_its_wal_kept(tmp_path: Path, *, gone: bool) -> None:
    killed = _killed(tmp_path)
    wal = wal_of(killed).read_bytes()
    killed.write_bytes(b"")
    if gone:
        killed.unlink()

    with pytest.raises(DamagedDataError, match=r"empty or missing, though gateway\.db-wal"):
        open_writer(killed)

    assert wal_of(killed).read_bytes() == wal
    assert killed.exists() is not gone


def test_an_empty_file_is_no_new_database(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    path.touch(mode=0o600)

    with pytest.raises(DamagedDataError, match="the file is empty"):
        open_writer(path)

    assert path.read_bytes() == b""


def test_the_index_has_its_room_from_the_beginning(tmp_path: Path) -> None:
    connection = open_writer(tmp_path / "gateway.db")
    assert (tmp_path / "gateway.db-shm").stat().st_size == INDEX_BYTES
    assert (tmp_path / "gateway.db-shm").stat().st_blocks * 512 >= INDEX_BYTES
    connection.close()
