"""A sample of numbered places, for loops that would take hours over all of them."""

from __future__ import annotations

from itertools import pairwise
from random import Random


def spread(last: int, size: int, seed: int) -> list[int]:
    """Return so many of the numbers from 1 to a last one, in order: all, where there are no more.

    The numbers are cut into parts of one length, and the seed draws one of each part.
    """
    if last <= size:
        return list(range(1, last + 1))

    numbers = Random(seed)
    ends = [1 + last * part // size for part in range(size + 1)]
    return [numbers.randrange(begin, end) for begin, end in pairwise(ends)]
