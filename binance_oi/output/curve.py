"""Turns recorded samples into the line of a chart.

The rule of this file: it computes numbers and draws nothing. A line breaks where several samples in
a row are missing; otherwise it would show a calm market there.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from binance_oi.recorder import Samples

BREAK = 3  # a line breaks where a distance is over 3 times the median distance of neighbours
NAN = float("nan")


class Curve(NamedTuple):
    """One symbol over time, with a NaN value at every break."""

    times: list[float]
    """Unix seconds."""
    values: list[float]
    """In units of the base asset."""
    prices: list[float]
    """Mark prices; NaN where none was recorded."""

    def in_usd(self) -> "Curve":
        """Return the same line in units of the quote asset, with NaN where there is no price."""
        values = [value * price for value, price in zip(self.values, self.prices, strict=True)]
        return self._replace(values=values)


def curve(samples: Samples) -> Curve:
    """Return the line of one symbol."""
    return joined(
        (time / 1000, float(value), NAN if price is None else float(price))
        for _, time, value, _, price in samples.rows()
    )


def joined(points: Iterable[tuple[float, float, float]]) -> Curve:
    """Join points (time, value, price) to a line that breaks where they are far apart."""
    found = list(points)
    steps = sorted(after[0] - before[0] for before, after in pairwise(found))
    longest = BREAK * steps[len(steps) // 2] if steps else 0.0
    made = Curve([], [], [])
    for time, value, price in found:
        if made.times and time - made.times[-1] > longest:
            _add(made, (made.times[-1] + time) / 2, NAN, NAN)
        _add(made, time, value, price)
    return made


def _add(made: Curve, time: float, value: float, price: float) -> None:
    made.times.append(time)
    made.values.append(value)
    made.prices.append(price)


def thinned(line: Curve, columns: int) -> Curve:
    """Keep the lowest and the highest point in each column of a chart, and every NaN."""
    times, values, prices = line
    if len(times) <= 2 * columns:
        return line
    kept: list[int] = []
    size = math.ceil(len(times) / columns)
    for begin in range(0, len(times), size):
        part = range(begin, min(begin + size, len(times)))
        holes = {i for i in part if math.isnan(values[i])}
        known = sorted((i for i in part if i not in holes), key=values.__getitem__)
        kept += sorted({*known[:1], *known[-1:], *holes})
    return Curve(*([column[i] for i in kept] for column in (times, values, prices)))
