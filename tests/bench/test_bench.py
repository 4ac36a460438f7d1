"""The bench measures what it says: its states, its goals, its reader and its slices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import orjson
import pytest

from gateway.sessions.entry import encode_member
from tests.bench import parsing, prune, pruning, updates
from tests.bench.prune import Timed
from tests.bench.report import Report, quantile
from tests.bench.states import keys, make_entry, members, opened, write_state

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.model import SessionKey


def _sessions_json(path: Path, key: SessionKey, *, counted: int = 1) -> Path:
    content = {
        "written_at": "2026-11-20T10:00:00Z",
        "sessions": {key: {"turns": 5}},
        "check": {"entries": counted},
    }
    path.write_bytes(orjson.dumps(content))
    return path


@pytest.mark.parametrize(
    ("measured", "met"),
    [
        pytest.param(1.999, True, id="under"),
        pytest.param(2, True, id="exactly"),
        pytest.param(2.001, False, id="over, though it is shown as 2.0"),
    ],
)
def test_a_goal_is_met_by_the_number_and_not_by_how_it_is_shown(measured: float, met: bool) -> None:  # noqa: FBT001 - a column
    report = Report()
    report.at_most("what", "ms", measured, 2)
    report.at_least("what", "ms", -measured, -2)

    assert [line.met for line in report.lines] == [met, met]


def test_one_in_a_thousand_is_beyond_the_quantile() -> None:
    values = [float(number) for number in range(1_000)]

    assert quantile(values, 0.999) == 999
    assert quantile(values, 0.99) == 990
    assert quantile([7.0], 0.999) == 7


def test_entries_written_fast_are_those_of_the_store() -> None:
    assert list(members(3)) == [encode_member(make_entry(number)) for number in range(3)]
    assert set(keys(3, 100, seed=1)) == {make_entry(number).session_key for number in range(3)}


async def test_a_written_state_opens_with_all_its_entries(tmp_path: Path) -> None:
    write_state(tmp_path / "state", 5_000)
    async with opened(tmp_path / "state") as state:
        assert len(state.store) == 5_000
        assert state.store.get(make_entry(4_999).session_key) == make_entry(4_999)
        assert state.store.statistics().quarantined == 0


async def test_every_step_of_a_coroutine_is_timed_and_its_result_kept() -> None:
    done: list[int] = []

    async def work() -> str:
        for number in range(4):
            done.append(number)
            await anyio.lowlevel.checkpoint()
        return "result"

    timed = Timed(work(), lambda: len(done) == 2)

    assert await timed == "result"
    assert len(timed.steps_ms) + len(timed.later_steps_ms) >= 5
    assert timed.later_steps_ms


async def test_an_error_of_a_timed_coroutine_comes_through() -> None:
    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError

    with pytest.raises(LookupError):
        await Timed(work(), lambda: False)


def test_a_reader_counts_what_is_torn_missing_or_short(tmp_path: Path) -> None:
    key = make_entry(0).session_key
    good = _sessions_json(tmp_path / "good.json", key)
    short = _sessions_json(tmp_path / "short.json", key, counted=2)
    torn = tmp_path / "torn.json"
    torn.write_bytes(good.read_bytes()[:-1])

    assert not parsing.read(good, key, 1)["failed"]
    for path in (short, torn, tmp_path / "missing.json"):
        assert parsing.read(path, key, 1)["failed"]


async def test_updates_and_prunes_can_be_measured(tmp_path: Path) -> None:
    small = await updates.measure(tmp_path, sizes=(500,), rounds=1)
    pruned = await prune.measure(tmp_path / "prune", entries=2_000)

    assert {line.met for line in small.lines} <= {True, False, None}
    assert all(line.measured > 0 for line in small.lines + pruned.lines)


async def test_rules_can_be_measured(tmp_path: Path) -> None:
    report = await pruning.measure(tmp_path / "pruning", items=20_000, in_memory=2_000)

    plans = [report.data[f"plan_{share}"] for share in (0.02, 0.1)]
    assert all({"old", "old-results", "count"} <= set(plan) for plan in plans)  # type: ignore[call-overload]
    assert [line.goal for line in report.lines].count("<= 3") == 2
    assert all(line.measured >= 0 for line in report.lines)
