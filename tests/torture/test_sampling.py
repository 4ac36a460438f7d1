"""Laws of a sample: every part of the whole is in it, and who has few has all."""

from __future__ import annotations

from itertools import pairwise

from tests.torture.sampling import spread


def test_a_sample_draws_one_of_each_part_and_another_with_another_seed() -> None:
    drawn = spread(215, 50, 1)

    assert len(drawn) == 50
    assert drawn == sorted(set(drawn))
    assert 1 <= drawn[0] <= 5
    assert 211 <= drawn[-1] <= 215
    assert max(b - a for a, b in pairwise(drawn)) <= 9
    assert spread(215, 50, 1) == drawn != spread(215, 50, 2)
    assert set().union(*(spread(10, 4, seed) for seed in range(100))) == set(range(1, 11))


def test_of_few_all_are_drawn() -> None:
    assert spread(3, 50, 1) == [1, 2, 3]
    assert spread(50, 50, 1) == list(range(1, 51))
    assert spread(0, 50, 1) == []
