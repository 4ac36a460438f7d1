"""Check and salvage of clients' tokens: what nobody wrote lets nobody in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.access.tokens import ClientTokens
from gateway.clock import FakeClock
from gateway.upkeep.checking import check_store
from gateway.upkeep.findings import Level
from tests.support.state import open_state
from tests.support.upkeep import change, found, used_state
from tests.upkeep.salvaging import salvaged

if TYPE_CHECKING:
    from pathlib import Path

AT = "2026-01-01T00:00:00Z"
HASH = "ab" * 32
INSERT = "INSERT INTO api_tokens (name, hash, created_at, last_used_at, revoked_at) VALUES "
GOOD = f"{INSERT} ('alice', '{HASH}', '{AT}', '{AT}', NULL), ('bob', '', '{AT}', NULL, '{AT}')"
BAD = (
    f"{INSERT} ('', '{HASH}', '{AT}', NULL, NULL), ('c', '', '{AT}', NULL, NULL)",
    f"{INSERT} ('d', '{HASH}', 'then', NULL, NULL), ('e', '{HASH}', '{AT}', NULL, '{AT}')",
    f"{INSERT} ('f', '{HASH[:-2]}', '{AT}', NULL, NULL), ('g', '{HASH}', '{AT}', 'x', NULL)",
)


async def test_tokens_that_are_whole_are_kept(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(path, GOOD)
    report = check_store(path)

    made = await salvaged(path, tmp_path / "new")

    assert "tokens of clients: 2, revoked ones included" in found(report, Level.OK)
    assert made.complete
    assert made.rows["api_tokens"] == 2
    async with open_state(tmp_path / "new") as state:
        clients = await ClientTokens.load(state.database, FakeClock())
        assert [one.name for one in await clients.listing()] == ["alice", "bob"]


async def test_tokens_that_mean_nothing_are_told_and_given_up(tmp_path: Path) -> None:
    path = await used_state(tmp_path / "state")
    change(path, GOOD, *BAD)
    report = check_store(path)

    made = await salvaged(path, tmp_path / "new")

    (wrong,) = [text for text in found(report, Level.WRONG) if text.startswith("tokens of ")]
    assert wrong.startswith("tokens of clients: 6 tokens cannot be read: ")
    assert {loss.place: loss.count for loss in made.given_up} == {"gateway.db: api_tokens": 6}
    assert made.rows["api_tokens"] == 2
