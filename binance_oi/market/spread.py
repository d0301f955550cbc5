"""Says how unusual a number is among the numbers of the last days.

The rule of this file: a score depends on the numbers alone, not on the order in which they were
added, nor on earlier numbers. So a program that restarts computes the same score as one that never
stopped. Sums of floats would drift; these sums are exact integers.
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

LEAST = 200  # numbers; fewer do not show what is usual
SCALE = 2.0**100  # a number is exact from 1e-15; a smaller one loses less than 1e-30
_HOLE = math.nan


class Score(NamedTuple):
    """The place of one number among others."""

    z_score: float | None
    """Its distance from the mean of the others, in standard deviations; None if all are equal."""
    percentile: float
    """The share of the others that is smaller, from 0 to 100; an equal number counts half."""


class Spread:
    """Holds the numbers of the latest slots; a slot may have none.

    Args:
        size: How many slots it holds, at 16 bytes each.
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
        """Set the number of a slot, in place of the number of the slot `size` slots earlier."""
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
        """The score of `number`, and how many numbers it is compared with.

        The score is None when they are fewer than `LEAST`.

        Args:
            number: The number to judge.
            without: The numbers of those slots to leave out of the comparison.
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
    """The z-score, from exact integers; the standard deviation is that of a sample (n - 1)."""
    spread = count * squares - total * total
    if spread <= 0:
        return None
    distance = (count * number - total) << 64
    return distance / math.isqrt(spread << 128) * math.sqrt((count - 1) / count)
