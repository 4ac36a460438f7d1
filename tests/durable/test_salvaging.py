"""Laws of reading a damaged table: what can be read is read once, what cannot be is in a gap."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from gateway.durable.inspecting import opened
from gateway.durable.salvaging import Gap, TableReader, all_rows, columns_of

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096
ROWS = 3_000


def made(path: Path, rows: int = ROWS, *, gaps: bool = False) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (number INTEGER PRIMARY KEY, text TEXT, data BLOB)")
        connection.executemany(
            "INSERT INTO t VALUES (?, ?, ?)",
            # Some rows go on in overflow pages of their own.
            (
                (n * (97 if gaps else 1), f"row {n}", bytes(9_000 if n % 500 == 7 else 100))
                for n in range(1, rows + 1)
            ),
        )
        connection.commit()
    return path


def ruined(path: Path, pages: list[int]) -> None:
    """Fill pages with what is no page; the first is 0."""
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE)
            file.write(b"\xa5" * PAGE)


def read(path: Path) -> tuple[list[int], list[Gap]]:
    rows: list[int] = []
    with opened(path, live=False) as connection:

        def take(rowid: int, row: tuple[object, ...]) -> None:
            assert row[0] == f"row {rowid}" or rowid % 97 == 0
            rows.append(rowid)

        gaps = TableReader(connection, "t", ["text", "data"], take).read()
    return rows, gaps


def one_by_one(path: Path, numbers: range) -> set[int]:
    """Return what single look-ups find: as much as any reader could."""
    found = set()
    with opened(path, live=False) as connection:
        for number in numbers:
            if all_rows(connection, f"SELECT text, data FROM t WHERE rowid = {number}"):  # noqa: S608 - a number
                found.add(number)
    return found


def covered(gaps: list[Gap], number: int) -> bool:
    return any(gap.after < number < gap.before for gap in gaps)


@pytest.mark.parametrize("gaps", [False, True], ids=["dense", "sparse"])
def test_a_sound_table_is_read_whole(tmp_path: Path, *, gaps: bool) -> None:
    rows, lost = read(made(tmp_path / "db", gaps=gaps))

    assert len(rows) == ROWS
    assert not lost


@pytest.mark.parametrize("seed", range(8))
def test_every_row_that_can_be_read_is_read_once(tmp_path: Path, seed: int) -> None:
    path = made(tmp_path / "db")
    dice = random.Random(seed)
    pages = path.stat().st_size // PAGE
    # Neither the schema nor the root of the table: those are laws of their own.
    ruined(path, dice.sample(range(2, pages), 1 + 2 * seed))

    rows, gaps = read(path)

    possible = one_by_one(path, range(1, ROWS + 1))
    assert len(possible) < ROWS, "nothing was ruined"
    assert len(rows) == len(set(rows)), f"seed {seed}"
    assert possible == set(rows), f"seed {seed}: {sorted(possible - set(rows))[:9]}"
    assert all(covered(gaps, number) for number in range(1, ROWS + 1) if number not in possible)
    assert not any(covered(gaps, number) for number in rows)


def test_a_table_without_a_root_is_one_gap_without_an_end(tmp_path: Path) -> None:
    path = made(tmp_path / "db")
    ruined(path, [1])

    rows, (gap,) = read(path)

    assert not rows
    assert gap.open_ended


def test_a_gap_between_rows_far_apart_is_found_quickly(tmp_path: Path) -> None:
    path = made(tmp_path / "db", gaps=True)
    ruined(path, [20, 21, 40])

    rows, gaps = read(path)

    assert ROWS - 200 < len(rows) < ROWS
    assert sum(gap.at_most for gap in gaps) < 200 * 97


def test_text_that_is_none_is_a_row_lost_and_no_other(tmp_path: Path) -> None:
    path = made(tmp_path / "db", rows=50)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"row 25", b"row \xff5"))

    rows, gaps = read(path)

    assert set(rows) == set(range(1, 51)) - {25}
    assert gaps == [Gap(24, 26)]


def test_a_database_without_a_schema_has_no_columns(tmp_path: Path) -> None:
    path = made(tmp_path / "db", rows=5)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * 3000)

    with opened(path, live=False) as connection:
        assert columns_of(connection, "t") == []
