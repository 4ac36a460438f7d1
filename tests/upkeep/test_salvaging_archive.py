"""Laws of a salvage of the archive: files with their check, and what is told of lost ones."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from gateway.upkeep.salvage_pruned import STRAYS
from tests.support.upkeep import change, overwrite
from tests.upkeep.pruning import (
    ARCHIVED,
    CONTENT,
    FILE,
    RESTORED,
    ROWS,
    files_in,
    pruned_state,
    rows_of,
    states,
)
from tests.upkeep.salvaging import salvaged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda file: file.unlink(), id="missing"),
        pytest.param(lambda file: overwrite(file, 1_500_000, b"#"), id="flipped"),
        pytest.param(lambda file: os.truncate(file, 9), id="truncated"),
        pytest.param(lambda file: file.symlink_to(file.rename(file.with_name("x"))), id="link"),
    ],
)
async def test_items_in_a_lost_file_are_told_and_count_as_purged(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = await pruned_state(tmp_path / "state")
    change(path, f"UPDATE pruned_items SET archive = '{FILE}' WHERE item = {RESTORED}")  # noqa: S608 - texts of ours
    damage(path / "archive" / FILE)

    made = await salvaged(path, tmp_path / "new")

    (loss, *others) = made.given_up
    assert (loss.place, loss.count) == ("archive", 1)
    assert loss.examples[0].startswith(f"{FILE}: ")
    assert [other.what.split(",")[0] for other in others] in (
        [],
        ["files of which nothing tells what they hold"],
    )
    assert FILE not in files_in(tmp_path / "new" / "archive")
    assert made.rows["archives"] == 0
    assert states(tmp_path / "new") == states(path) | {ARCHIVED: "purged"}


async def test_a_file_whose_row_is_lost_is_named_again_by_its_items(tmp_path: Path) -> None:
    path = await pruned_state(tmp_path / "state")
    before = rows_of(path, "SELECT name, items, content_bytes, file_bytes, sha256 FROM archives")
    change(path, "UPDATE archives SET sha256 = 'x'")

    made = await salvaged(path, tmp_path / "new")

    told = [(loss.place, loss.what.split(":")[0], loss.examples) for loss in made.given_up]
    assert told[1:] == [("archive", "certainty", [FILE])]
    after = rows_of(
        tmp_path / "new", "SELECT name, items, content_bytes, file_bytes, sha256 FROM archives"
    )
    assert after == before
    assert (tmp_path / "new" / "archive" / FILE).read_bytes() == CONTENT


async def test_a_file_whose_items_are_partly_forgotten_is_not_taken_for_cut_off(
    tmp_path: Path,
) -> None:
    """The next sweep would else write it anew without the lines that nothing names any more."""
    path = await pruned_state(tmp_path / "state")
    change(path, "UPDATE archives SET items = 2")
    change(path, f"UPDATE pruned_items SET state = 'nowhere' WHERE item = {RESTORED}")  # noqa: S608 - texts of ours

    await salvaged(path, tmp_path / "new")

    assert rows_of(tmp_path / "new", "SELECT items FROM archives") == [(1,)]
    assert (tmp_path / "new" / "archive" / FILE).read_bytes() == CONTENT


async def test_of_an_erased_session_no_file_is_carried_over_without_its_row(
    tmp_path: Path,
) -> None:
    """What an erasure that was cut off left is named by purged entries alone."""
    path = await pruned_state(tmp_path / "state")
    change(
        path,
        "UPDATE pruned_items SET state = 'purged' WHERE state = 'archived'",
        "UPDATE archives SET sha256 = 'x'",
    )

    made = await salvaged(path, tmp_path / "new")

    assert made.rows["pruned_items"] == ROWS["pruned_items"] - 1
    assert not (tmp_path / "new" / "archive").exists()
    assert not (tmp_path / "new" / STRAYS).exists()


async def test_left_over_files_are_left_where_all_else_is_whole(tmp_path: Path) -> None:
    path = await pruned_state(tmp_path / "state")
    for name in ("left-over.jsonl.zst", f"{FILE}.tmp"):
        (path / "archive" / name).write_bytes(b"old")

    made = await salvaged(path, tmp_path / "new")

    assert made.complete
    assert files_in(tmp_path / "new" / "archive") == {FILE}
    assert not (tmp_path / "new" / STRAYS).exists()


async def test_of_a_lost_database_the_files_of_the_archive_are_kept_aside(tmp_path: Path) -> None:
    path = await pruned_state(tmp_path / "state")
    (path / "archive" / "x.tmp").touch()
    (path / "gateway.db").write_bytes(random.Random(1).randbytes(20_000))

    made = await salvaged(path, tmp_path / "new")

    told = {loss.place: loss.examples for loss in made.given_up}
    assert told["archive"] == [FILE]
    assert files_in(tmp_path / "new" / STRAYS) == {FILE}
    assert (tmp_path / "new" / STRAYS / FILE).read_bytes() == CONTENT
    assert not (tmp_path / "new" / "archive").exists()
