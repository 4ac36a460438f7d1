"""Check and salvage of pairings: what nobody wrote lets nobody in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.access.pairing import Pairing
from gateway.clock import FakeClock
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.access.people import somebody
from tests.support.state import open_state
from tests.support.upkeep import change, found, used_state
from tests.upkeep.salvaging import salvaged

if TYPE_CHECKING:
    from pathlib import Path

AT = "2026-01-01T00:00:00Z"
PAIRED = "INSERT INTO paired_users (platform, account, user_id, user_name, paired_at) VALUES "
ASKED = (
    "INSERT INTO pairing_requests (platform, account, user_id, user_name, salt, code_hash, "
    "asked_at, told_at) VALUES "
)
LOCK = "INSERT INTO pairing_locks (platform, account, failures, locked_until) VALUES "
SALT, HASH = "a" * 32, "b" * 64
GOOD = (
    f"{PAIRED} ('telegram', '', '9', 'Ann', '{AT}'), ('telegram', 'bot', '8', '', '{AT}')",
    f"{ASKED} ('telegram', '', '7', 'Bob', '{SALT}', '{HASH}', '{AT}', '{AT}')",
    f"{LOCK} ('telegram', '', 4, NULL), ('telegram', 'bot', 5, '{AT}')",
)
BAD = (
    f"{PAIRED} ('telegram', '', '', '', '{AT}'), ('', '', '5', '', '{AT}')",
    f"{PAIRED} ('telegram', '', '4', '', 'then'), ('telegram', '', char(0), '', '{AT}')",
    f"{ASKED} ('telegram', '', '6', '', '', '{HASH}', '{AT}', '{AT}')",
    f"{ASKED} ('telegram', '', '5', '', '{SALT}', 'x', '{AT}', '{AT}')",
    f"{ASKED} ('telegram', '', '4', '', '{SALT}', '{HASH}', '{AT}', '2026-01-01T00:00:00')",
    f"{LOCK} ('a', '', 0, NULL), ('b', '', 5, 'soon')",
)


async def test_pairings_that_are_whole_are_kept(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(path, *GOOD)
    report = check_store(path)

    made = await salvaged(path, tmp_path / "new")

    assert "pairing: 2 paired users" in found(report, Level.OK)
    assert made.complete
    rows = [made.rows[table] for table in ("paired_users", "pairing_requests", "pairing_locks")]
    assert rows == [2, 1, 2]
    async with open_state(tmp_path / "new") as state:
        pairing = await Pairing.load(state.database, FakeClock())
        assert pairing.is_paired(somebody("9"))
        assert pairing.is_paired(somebody("8", account="bot"))
        assert not pairing.is_paired(somebody("8"))


async def test_pairings_that_mean_nothing_are_told_and_given_up(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(path, *GOOD, *BAD)
    report = check_store(path)

    made = await salvaged(path, tmp_path / "new")

    (wrong,) = [text for text in found(report, Level.WRONG) if text.startswith("pairing: ")]
    assert wrong.startswith("pairing: 9 rows about pairing cannot be read: ")
    told = {loss.place: loss.count for loss in made.given_up}
    assert told == {
        "gateway.db: paired_users": 4,
        "gateway.db: pairing_requests": 3,
        "gateway.db: pairing_locks": 2,
    }
    rows = [made.rows[table] for table in ("paired_users", "pairing_requests", "pairing_locks")]
    assert rows == [2, 1, 2]
