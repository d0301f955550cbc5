"""How unusual one number is among those of the last days.

The rule of this file: the answer depends on the numbers alone, and not on the order or the history
in which they came and went. So a program that starts anew gets the same answer as one that never
stopped. Sums of floats would drift; these sums are exact integers.
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

LEAST = 200  # numbers; fewer say little about what is usual
SCALE = 2.0**100  # as an integer, a number of at least 1e-15 is exact, and any other off by 1e-30
_HOLE = math.nan


class Score(NamedTuple):
    """Where one number stands among others."""

    z_score: float | None
    """Its distance from their mean, in standard deviations; None when all of them are equal."""
    percentile: float
    """The share of them that is smaller, from 0 to 100; an equal one counts half."""


class Spread:
    """The numbers of the latest slots; a slot may have none.

    Args:
        size: How many slots count; memory is 16 bytes for each.
    """

    __slots__ = ("_ring", "_sorted", "_squares", "_sum")

    def __init__(self, size: int) -> None:
        self._ring = array("d", [_HOLE]) * size
        self._sorted = array("d")
        self._sum = 0
        self._squares = 0

    def __len__(self) -> int:
        return len(self._sorted)

    def put(self, slot: int, number: float | None) -> None:
        """Set the number of a slot; the number of the slot `size` before it is forgotten."""
        at = slot % len(self._ring)
        old = self._ring[at]
        if not math.isnan(old):
            del self._sorted[bisect_left(self._sorted, old)]
            self._count(old, -1)
        if number is None:
            self._ring[at] = _HOLE
            return
        self._ring[at] = number
        self._sorted.insert(bisect_right(self._sorted, number), number)
        self._count(number, 1)

    def _count(self, number: float, times: int) -> None:
        exact = _exact(number)
        self._sum += times * exact
        self._squares += times * exact * exact

    def at(self, slot: int) -> float | None:
        """The number of one of the latest slots; None when it has none."""
        number = self._ring[slot % len(self._ring)]
        return None if math.isnan(number) else number

    def score(
        self, number: float, without: Sequence[float | None] = ()
    ) -> tuple[Score | None, int]:
        """Where `number` stands, and among how many; no score among fewer than `LEAST`.

        Args:
            number: The number to judge.
            without: Numbers of slots that do not count now.
        """
        left_out = [each for each in without if each is not None]
        count = len(self._sorted) - len(left_out)
        if count < LEAST:
            return None, count
        smaller = bisect_left(self._sorted, number) - sum(x < number for x in left_out)
        equal = bisect_right(self._sorted, number) - bisect_left(self._sorted, number)
        equal -= sum(x == number for x in left_out)
        exact = [_exact(each) for each in left_out]
        total = self._sum - sum(exact)
        squares = self._squares - sum(each * each for each in exact)
        percentile = 100.0 * (smaller + equal / 2) / count
        return Score(_z_score(_exact(number), count, total, squares), percentile), count


def _exact(number: float) -> int:
    return int(number * SCALE)


def _z_score(number: int, count: int, total: int, squares: int) -> float | None:
    """The z-score, from integers that are all exact; the deviation is that of a sample (n - 1)."""
    spread = count * squares - total * total
    if spread <= 0:
        return None
    distance = (count * number - total) << 64
    return distance / math.isqrt(spread << 128) * math.sqrt((count - 1) / count)
