"""Laws of looking at a database and copying it: one instant, and nothing of it changes."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from gateway.durable.assembling import assembled
from gateway.durable.connection import open_writer
from gateway.durable.copying import copy_database
from gateway.durable.inspecting import Footprint, integrity_problems, reading
from gateway.durable.pages import with_check_sum
from gateway.durable.wal import count_frames
from gateway.errors import ConflictError, DamagedDataError, StorageError
from tests.support.upkeep import look

if TYPE_CHECKING:
    from pathlib import Path

ADD = "INSERT INTO session_log (sequence, session_key, member) VALUES (?, 'k', zeroblob(900))"


def rows_of(path: Path, *, live: bool = False) -> int:
    with reading(path, live=live) as connection:
        return int(str(connection.execute("SELECT count(*) FROM session_log").fetchall()[0][0]))


def test_a_wal_that_another_process_left_is_read_and_left(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "gateway.db")
    writer.execute("BEGIN; " + ADD, (1,))
    writer.execute("COMMIT")
    for name in ("gateway.db", "gateway.db-wal"):
        (tmp_path / "left").mkdir(exist_ok=True)
        (tmp_path / "left" / name).write_bytes((tmp_path / name).read_bytes())
    writer.close()
    before = look(tmp_path / "left")
    assert "gateway.db-wal" in before

    assert rows_of(tmp_path / "left" / "gateway.db") == 1

    assert look(tmp_path / "left") == before


def test_frames_are_counted_as_sqlite_counts_them(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "gateway.db")
    assert count_frames(tmp_path / "gateway.db") == 0
    for number in range(1, 9):
        writer.execute(ADD, (number,))
        frames, _ = writer.wal_checkpoint(mode=-1)  # SQLITE_CHECKPOINT_NOOP
        assert count_frames(tmp_path / "gateway.db") == frames > 0
    writer.close()


def test_a_reader_beside_a_writer_keeps_its_instant_and_does_not_checkpoint(
    tmp_path: Path,
) -> None:
    path = tmp_path / "gateway.db"
    writer = open_writer(path)
    writer.execute(ADD, (1,))
    with reading(path, live=True) as connection:
        writer.execute(ADD, (2,))
        assert len(connection.execute("SELECT * FROM session_log").fetchall()) == 1
    size = (tmp_path / "gateway.db-wal").stat().st_size

    assert rows_of(path, live=True) == 2

    assert (tmp_path / "gateway.db-wal").stat().st_size == size
    writer.close()


def test_what_is_no_database_of_ours_is_refused(tmp_path: Path) -> None:
    empty, folder, other = (tmp_path / name for name in ("empty", "folder", "other"))
    empty.touch()
    (tmp_path / "empty-wal").write_bytes(b"x" * 100)
    folder.mkdir()
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE t (x)")

    for path, reason in (
        (empty, "the file is empty"),
        (folder, "not a regular file"),
        (other, "another program"),
    ):
        with pytest.raises(DamagedDataError, match=reason), reading(path, live=False):
            pass
    with pytest.raises(StorageError, match="No such file"), reading(tmp_path / "x", live=False):
        pass
    assert (tmp_path / "empty-wal").read_bytes() == b"x" * 100


def test_a_copy_under_load_is_of_one_instant(tmp_path: Path) -> None:
    """Two rows are always written together: a copy with an odd number mixes two instants."""
    path, stop, written = tmp_path / "gateway.db", threading.Event(), threading.Event()
    writer = open_writer(path)
    writer.execute("BEGIN")
    for number in range(1, 2_001):
        writer.execute(ADD, (number,))
    writer.execute("COMMIT")

    def write() -> None:
        number = 2_000
        while not stop.is_set():
            writer.execute("BEGIN")
            for _ in range(2):
                number += 1
                writer.execute(ADD, (number,))
            writer.execute("COMMIT")
            written.set()
            writer.wal_checkpoint()

    thread = threading.Thread(target=write)
    thread.start()
    counts = []
    try:
        for number in range(5):
            target = tmp_path / f"copy{number}"
            written.clear()
            assert written.wait(30)
            with reading(path, live=True) as connection:
                copy_database(connection, path, target)
            counts.append(rows_of(target))
    finally:
        stop.set()
        thread.join()
        writer.close()

    assert counts == sorted(counts)
    assert counts[-1] > 2_000, "nothing was written meanwhile"
    assert all(count % 2 == 0 for count in counts)


def test_a_damaged_index_is_in_no_copy(tmp_path: Path) -> None:
    """A copy made row by row would build the index anew, and hide that the source is damaged."""
    path = tmp_path / "gateway.db"
    writer = open_writer(path)
    for number in range(40):
        writer.execute(
            "INSERT INTO messages (session_id, turn_id, role, text, created_at) "
            "VALUES (?, 't', 'user', '', '')",
            (f"session {number}",),
        )
    (root,) = writer.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'messages_by_session'"
    ).fetchall()[0]
    writer.close()
    data = bytearray(path.read_bytes())
    place = data.index(b"session 20", (int(str(root)) - 1) * 4096)
    data[place : place + 10] = b"session 99"
    page = slice(place // 4096 * 4096, place // 4096 * 4096 + 4096)
    data[page] = with_check_sum(bytes(data[page]))
    path.write_bytes(data)

    with reading(path, live=False) as connection:
        assert connection.execute("SELECT count(*) FROM messages").fetchall() == [(40,)]
        assert integrity_problems(connection, path)
        with pytest.raises(DamagedDataError, match="messages_by_session"):
            copy_database(connection, path, tmp_path / "copy")


def test_a_footprint_shows_every_change(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    seen = [Footprint.of(paths)]
    paths[0].write_text("1")
    seen.append(Footprint.of(paths))
    paths[0].write_text("12")
    seen.append(Footprint.of(paths))
    paths[1].write_text("12")
    paths[1].replace(paths[0])
    seen.append(Footprint.of(paths))

    assert len(set(seen)) == 4
    assert Footprint.of(paths) == seen[-1]


def broken_off(aside: Path, target: Path) -> None:
    (aside / "file").touch()
    assert aside.parent == target.parent
    assert not target.exists()
    raise ZeroDivisionError


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "target"

    with pytest.raises(ZeroDivisionError), assembled(target, tmp_path / "s") as aside:
        broken_off(aside, target)
    assert list(tmp_path.iterdir()) == []

    with assembled(target, tmp_path / "s") as aside:
        (aside / "file").touch()
        again = assembled(target, tmp_path / "s")
        with pytest.raises(ConflictError, match="a command that runs"), again:
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (target / "file").exists()
