"""Laws of bits that flip and blocks that go: noticed, harmless, or a loss that is known by name."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import TYPE_CHECKING

import apsw
import pytest

from gateway.errors import DamagedDataError, DatabaseTooNewError
from gateway.sessions.entry import EntryError
from gateway.sessions.recovery import PREVIOUS, SNAPSHOT
from tests.faults.damage import (
    DATABASE,
    WAL,
    Content,
    Sample,
    damages,
    folder_in_memory,
    make_sample,
    start_damaged,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Count = Callable[[str, int], None]

HEAD_BYTES, FRAME_BYTES = 32, 24 + 4096
FEW, MANY = 40, 2_500


def amount(*, few: int = FEW, many: int = MANY) -> list[object]:
    """Return the seeds and sizes of a quick and of a long run."""
    return [
        pytest.param(1, few, id="seed 1"),
        *(pytest.param(s, many, id=f"seed {s}", marks=pytest.mark.torture) for s in (2, 3)),
    ]


@pytest.mark.parametrize(("seed", "count"), amount())
@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("killed", SNAPSHOT),
        ("killed", PREVIOUS),
        ("killed", WAL),
        ("stopped", SNAPSHOT),
        ("stopped", PREVIOUS),
    ],
)
async def test_a_damaged_file_is_refused_or_everything_is_served_all_the_same(
    tmp_path: Path, how: str, name: str, seed: int, count: int, torture_count: Count
) -> None:
    with folder_in_memory(tmp_path) as folder:
        sample = await make_sample(folder)
        directory = sample.killed if how == "killed" else sample.stopped
        data, served, refused = (directory / name).read_bytes(), 0, 0
        for what, damaged in itertools.islice(damages(data, random.Random(seed)), count):
            outcome, left = await start_damaged(directory, name, damaged)
            if outcome.error is None:
                assert outcome.served == sample.whole, what
                served += 1
                continue

            assert isinstance(outcome.error, DamagedDataError), (what, outcome.error)
            refused += 1
            if len(damaged) < HEAD_BYTES:
                # Too short to be told from a new one: the snapshot is newer than what is left.
                assert outcome.error.path.name == SNAPSHOT, what
            else:
                assert outcome.error.path.name == name, what
                assert left[name] == damaged, what
                assert left[DATABASE] == (directory / DATABASE).read_bytes(), what
    assert served + refused == count
    assert (refused == 0) == (name != WAL), "the snapshots stand in for each other"
    torture_count("damaged files", count)


@pytest.mark.parametrize(("seed", "count"), amount())
async def test_without_its_index_a_wal_loses_at_most_its_damaged_end(
    tmp_path: Path, seed: int, count: int, torture_count: Count
) -> None:
    with folder_in_memory(tmp_path) as folder:
        sample = await make_sample(folder)
        data = (sample.killed / WAL).read_bytes()
        end, prefixes = _end(data), await _prefixes(sample, data)
        lost = 0
        for what, damaged in itertools.islice(damages(data, random.Random(seed)), count):
            outcome, _ = await start_damaged(sample.killed, WAL, damaged, indexed=False)
            if outcome.error is not None:
                assert isinstance(outcome.error, DamagedDataError), (what, outcome.error)
            elif outcome.served != sample.whole:
                # A write that power loss broke off looks just like this.
                assert len(damaged) < len(data) or damaged[end:] != data[end:], what
                assert outcome.served in prefixes, what
                lost += 1
    assert 0 < lost < count
    torture_count("damaged files", count)


def _end(data: bytes) -> int:
    """Return where the last frame of the last commit but one begins.

    What comes behind it is told to follow by what stands in it.
    """
    commits = [n for n in _frames(data) if data[n + 4 : n + 8] != bytes(4)]
    return commits[-2]


def _frames(data: bytes | bytearray) -> range:
    return range(HEAD_BYTES, len(data) - FRAME_BYTES + 1, FRAME_BYTES)


async def _prefixes(sample: Sample, data: bytes) -> list[Content]:
    """Return what is served with the WAL as it was after each of its commits."""
    found: list[Content] = []
    for end in _frames(data):
        outcome, _ = await start_damaged(sample.killed, WAL, data[:end], indexed=False)
        if outcome.served is not None and outcome.served not in found:
            found.append(outcome.served)
    assert len(found) > 10
    return found


async def test_sqlite_itself_would_lose_what_is_behind_a_flipped_bit_in_silence(
    tmp_path: Path,
) -> None:
    sample = await make_sample(tmp_path)
    data = bytearray((sample.killed / WAL).read_bytes())
    data[_frames(data)[3] + 100] ^= 1
    (sample.killed / WAL).write_bytes(data)

    connection = apsw.Connection(str(sample.killed / DATABASE))
    try:
        messages = connection.execute("SELECT * FROM messages").fetchall()
        assert connection.pragma("integrity_check") == "ok"
    finally:
        connection.close()
    assert len(messages) < len(sample.whole["messages"])


@pytest.mark.parametrize(("seed", "count"), amount(many=5_000))
@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_damage_to_the_database_ends_in_words_and_is_never_served(
    tmp_path: Path, how: str, seed: int, count: int, torture_count: Count
) -> None:
    with folder_in_memory(tmp_path) as folder:
        sample = await make_sample(folder)
        directory = sample.killed if how == "killed" else sample.stopped
        data, found = (directory / DATABASE).read_bytes(), Counter[str]()
        for what, damaged in itertools.islice(damages(data, random.Random(seed)), count):
            outcome, _ = await start_damaged(directory, DATABASE, damaged)
            if outcome.error is not None:
                expected = (DamagedDataError, DatabaseTooNewError, EntryError)
                assert isinstance(outcome.error, expected), (what, outcome.error)
                found["noticed in service" if outcome.began else "refused at start"] += 1
            elif outcome.served == sample.whole:
                found["harmless"] += 1
            else:
                pytest.fail(f"{what}: unnoticed, and something else is served")
    assert found["refused at start"] > 0
    for name, number in found.items():
        torture_count(f"damaged databases ({how}): {name}", number)
