"""What people write for a run: as much of its id as is enough, also where its row is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.errors import BadRequestError, NotFoundError
from gateway.retention.naming import run_id_of
from tests.support.kept import store

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND, THIRD = "abcd1111", "abcd2222", "abce3333"


@pytest.mark.parametrize("lost", [(), (FIRST,), (SECOND,), (FIRST, SECOND), (FIRST, SECOND, THIRD)])
async def test_a_start_means_the_same_runs_whether_or_not_their_rows_are_lost(
    tmp_path: Path, lost: tuple[str, ...]
) -> None:
    async with store(tmp_path / "state") as one:
        said = await one.say("s", 6)
        for position, run in zip(said, (FIRST, SECOND, THIRD), strict=False):
            await one.take(position, run=run)
        for run in lost:
            await one.run("DELETE FROM pruning_runs WHERE run_id = ?", run)

        async def meant(given: str) -> str:
            return await one.database.read(lambda place: run_id_of(place, given))

        for given, run in (("abcd1", FIRST), ("abcd2", SECOND), ("abce", THIRD), (FIRST, FIRST)):
            assert await meant(given) == run
        with pytest.raises(BadRequestError, match=r"more than one run: abcd1111, abcd2222$"):
            await meant("abcd")
        for given in ("abc", "abcd3"):
            with pytest.raises(NotFoundError):
                await meant(given)
