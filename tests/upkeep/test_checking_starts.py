"""Laws of what a check says of the next start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.errors import DamagedDataError
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.support.state import entry, open_state
from tests.support.upkeep import found, overwrite, shown_entries, used_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("gone", ["gateway.db-wal", "gateway.db", "both"])
async def test_what_was_in_use_is_not_taken_for_an_import(tmp_path: Path, gone: str) -> None:
    path = await used_state(tmp_path / "state", killed=True)
    for name in ("gateway.db", "gateway.db-wal", "gateway.db-shm"):
        if gone in {name, "both"} or name.endswith("-shm"):
            (path / name).unlink()

    report = check_store(path)

    wanted = {
        "gateway.db-wal": "database: knows of no store, though sessions.json and",
        "gateway.db": "database: not there, though gateway.db-wal holds commits to it",
        "both": "database: not there, though sessions.json and sessions.json.prev tell",
    }
    assert any(text.startswith(wanted[gone]) for text in found(report, Level.WRONG)), report


def flip_both(path: Path) -> None:
    for name in ("sessions.json", "sessions.json.prev"):
        overwrite(path / name, 700, b"#")


def put_in_the_way(path: Path) -> None:
    (path / "sessions.json").unlink()
    (path / "sessions.json").mkdir()


@pytest.mark.parametrize(
    ("damage", "level", "finding"),
    [
        pytest.param(
            lambda path: overwrite(path / "sessions.json", 700, b"#"),
            Level.WARNING,
            "sequence: a start takes sessions.json.prev (10) and the session log instead",
            id="the-one-before-stands-in",
        ),
        pytest.param(
            flip_both,
            Level.WRONG,
            "sequence: no start: sessions.json.prev cannot stand in",
            id="both",
        ),
        pytest.param(
            put_in_the_way,
            Level.WRONG,
            "sequence: no start: sessions.json.prev cannot stand in",
            id="in-the-way",
        ),
    ],
)
async def test_what_a_start_makes_of_a_damaged_snapshot_is_told(
    tmp_path: Path, damage: Callable[[Path], None], level: Level, finding: str
) -> None:
    path = await used_state(tmp_path / "state")
    damage(path)

    report = check_store(path)

    assert any(text.startswith(finding) for text in found(report, level)), report
    assert not [text for text in found(report, Level.WARNING) if "shutdown was orderly" in text]
    if level is Level.WARNING:
        assert len(await shown_entries(path)) == 3
    else:
        with pytest.raises(DamagedDataError):
            await shown_entries(path)


async def test_the_one_before_is_named_where_another_was_put_in_its_place(tmp_path: Path) -> None:
    async with open_state(tmp_path / "state") as state:
        path, old = state.path, (state.path / "sessions.json").read_bytes()
        for chat in ("a", "b", "c"):
            await state.store.create(entry(chat))
            await state.store.snapshots.write()
    (path / "sessions.json").write_bytes(old)

    report = check_store(path)

    assert any("sessions.json (0) is older than" in text for text in found(report, Level.WRONG))
    assert "sequence: sessions.json.prev (2) is one that fits, put in its place" in found(
        report, Level.WARNING
    )
    (path / "sessions.json.prev").rename(path / "sessions.json")
    assert len(await shown_entries(path)) == 3
