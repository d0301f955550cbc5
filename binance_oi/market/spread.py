"""Says how unusual a number is among the numbers of the last days.

The rule of this file: a score depends only on the numbers that are in the spread now. Their order
does not matter, nor do numbers that have left the spread. So a program computes the same score
after a restart. Sums of floats would depend on the order, so the sums here are exact integers.
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

LEAST = 200  # numbers; with fewer, we compute no score
SCALE = 2.0**100  # a number above 4e-15 stays exact; a smaller one loses less than 1e-30
_HOLE = math.nan


class Score(NamedTuple):
    """The place of one number among others."""

    z_score: float | None
    """The distance from the mean of the others, in standard deviations; None if all are equal."""
    percentile: float
    """The percentage of the others that are smaller, from 0 to 100; equal ones count half."""


class Spread:
    """The numbers of the latest slots (instants of a series). A slot may have no number.

    Args:
        size: The number of slots; each takes 16 bytes.
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
        """Set the number of a slot, and forget the number of the slot `size` slots earlier."""
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
        """Return the number of one of the latest slots; None if the slot has no number."""
        number = self._ring[slot % len(self._ring)]
        return None if math.isnan(number) else number

    def score(
        self, number: float, without: Sequence[float | None] = ()
    ) -> tuple[Score | None, int]:
        """Compare `number` with the others; return its score, and how many others there are.

        The score is None if there are fewer than `LEAST` others.

        Args:
            number: The number to compare.
            without: Numbers in the spread that the comparison must omit.
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
    """Compute the z-score from exact integers, with the standard deviation of a sample (n - 1)."""
    spread = count * squares - total * total
    if spread <= 0:
        return None
    distance = (count * number - total) << 64
    return distance / math.isqrt(spread << 128) * math.sqrt((count - 1) / count)
