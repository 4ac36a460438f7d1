"""Laws of the rows of processes: what a check tells, and what a salvage gives up."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from gateway.processes import records
from gateway.processes.identity import KeeperIdentity
from gateway.processes.records import EndReason, ProcessEnd, ProcessRecord
from tests.processes.running import caller
from tests.support.state import open_state
from tests.support.upkeep import change, used_state
from tests.upkeep.salvaging import salvaged

if TYPE_CHECKING:
    from pathlib import Path

ENDED = "p-00000000aa"
RUNS = "p-00000000bb"


async def with_processes(path: Path) -> Path:
    """Return a used state directory with one process that ended and one that did not."""
    await used_state(path)
    asked = caller()
    async with open_state(path) as state:
        for process_id in (ENDED, RUNS):
            record = ProcessRecord(
                process_id=process_id,
                session_key=asked.session_key,
                session_id=asked.session_id,
                agent=asked.agent,
                source=asked.source,
                command=("make", "all of it"),
                cwd="/",
                created_at="2026-01-01T00:00:00Z",
            )
            await state.database.write(partial(records.add, record=record))
            keeper = KeeperIdentity(1, 2, "boot")
            note = partial(records.note_keeper, process_id=process_id, keeper=keeper)
            await state.database.write(note)
        end = ProcessEnd("2026-01-01T00:00:01.5Z", EndReason.EXITED, exit_status=0, output="done\n")
        await state.database.write(partial(records.note_end, process_id=ENDED, end=end))
    return path


async def test_processes_are_salvaged_as_they_are(tmp_path: Path) -> None:
    path = await with_processes(tmp_path / "state")
    async with open_state(path) as state:
        before = await state.database.read(records.unreported)

    made = await salvaged(path, tmp_path / "new")

    assert made.rows["processes"] == 2
    assert not made.given_up
    async with open_state(tmp_path / "new") as state:
        assert await state.database.read(records.unreported) == before


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("process_id = 'agent:main'", id="id"),
        pytest.param("session_key = 'main-alice'", id="key"),
        pytest.param("source = '{}'", id="source"),
        pytest.param("source = '{'", id="source-no-json"),
        pytest.param("command = '[]'", id="no-command"),
        pytest.param("command = '[1]'", id="command"),
        pytest.param("created_at = 'yesterday'", id="instant"),
        pytest.param("created_at = '2026-01-01T00:00:00'", id="naive-instant"),
        pytest.param("boot_id = NULL", id="half-a-keeper"),
        pytest.param("end_reason = 'bored'", id="reason"),
        pytest.param("ended_at = NULL", id="half-an-end"),
        pytest.param("ended_at = 'x'", id="end"),
    ],
)
async def test_a_row_that_is_no_process_is_given_up_and_told(tmp_path: Path, damage: str) -> None:
    path = await with_processes(tmp_path / "state")
    change(path, f"UPDATE processes SET {damage} WHERE process_id = '{ENDED}'")  # noqa: S608 - of ours

    made = await salvaged(path, tmp_path / "new")

    assert made.rows["processes"] == 1
    assert [loss.place for loss in made.given_up] == ["gateway.db: processes"]
