"""Laws of a salvage of what pruning holds: it stays with its entry, goes to a file, or is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from gateway.upkeep.salvage import HOMELESS
from tests.support.upkeep import change
from tests.upkeep.pruning import HELD, ROWS, SHORTENED, pruned_state, states
from tests.upkeep.salvaging import salvaged

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("statement", "given_up", "kept", "aside"),
    [
        pytest.param(
            "UPDATE pruned_originals SET original = x'00' WHERE entry = 1",
            {"pruned_items": 1, "pruned_originals": 1},
            "purged",
            [],
            id="not-readable",
        ),
        pytest.param(
            "UPDATE pruned_originals SET original = CAST(json_remove(original, '$.text') AS BLOB) "
            "WHERE entry = 1",
            {"pruned_items": 1, "pruned_originals": 1},
            "purged",
            [],
            id="no-row",
        ),
        pytest.param(
            "DELETE FROM pruned_originals WHERE entry = 1",
            {"pruned_items": 1},
            "purged",
            [],
            id="not-there",
        ),
        pytest.param(
            "UPDATE pruned_originals SET original = "
            "CAST(json_set(original, '$.position', 99) AS BLOB) WHERE entry = 1",
            {"pruned_items": 1},
            "purged",
            ["hello 0"],
            id="of-another-item",
        ),
        *(
            pytest.param(
                f"UPDATE pruned_items SET {damage} WHERE item = {HELD}",  # noqa: S608 - texts of ours
                {"pruned_items": 1, "pruned_originals": 1},
                None,
                ["hello 0"],
                id=damage,
            )
            for damage in ("action = 'shred'", "record = '['", "due_at = 'soon'", "item = 0")
        ),
    ],
)
async def test_what_was_held_is_told_as_gone_or_kept_in_a_file(
    tmp_path: Path,
    statement: str,
    given_up: dict[str, int],
    kept: str | None,
    aside: list[str],
) -> None:
    path = await pruned_state(tmp_path / "state")
    change(path, statement)

    made = await salvaged(path, tmp_path / "new")

    told = {loss.place.removeprefix("gateway.db: "): loss.count for loss in made.given_up}
    assert told == given_up
    assert states(tmp_path / "new").get(HELD) == kept
    assert states(tmp_path / "new")[SHORTENED] == "held"
    assert made.rows["pruned_originals"] == 1
    file = tmp_path / "new" / HOMELESS
    lines = file.read_bytes().splitlines() if file.exists() else []
    assert [orjson.loads(line)["text"] for line in lines] == aside


async def test_an_original_that_its_entry_says_is_gone_is_left_behind_and_no_loss(
    tmp_path: Path,
) -> None:
    path = await pruned_state(tmp_path / "state")
    change(
        path,
        "INSERT INTO pruned_originals SELECT 3, original FROM pruned_originals WHERE entry = 1",
    )

    made = await salvaged(path, tmp_path / "new")

    assert made.complete
    assert len([note for note in made.notes if "pruned_originals: 1 items" in note]) == 1
    assert made.rows["pruned_originals"] == ROWS["pruned_originals"]
    assert not (tmp_path / "new" / HOMELESS).exists()
