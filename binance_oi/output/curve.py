"""Recorded samples as a line: for charts, pages and tables.

The rule of this file: it computes numbers and draws nothing. A line is broken where nothing was
recorded, or a gap would look like a calm market.
"""

import math
from itertools import pairwise

from binance_oi.recorder import Samples

BREAK = 3  # times the median distance: samples farther apart are not joined


def curve(samples: Samples) -> tuple[list[float], list[float]]:
    """Unix seconds and values of one symbol, with a NaN at every break."""
    found = [(time / 1000, float(value)) for _, time, value, _, _ in samples.rows()]
    steps = sorted(after[0] - before[0] for before, after in pairwise(found))
    longest = BREAK * steps[len(steps) // 2] if steps else 0.0
    times, values = list[float](), list[float]()
    for time, value in found:
        if times and time - times[-1] > longest:
            times.append((times[-1] + time) / 2)
            values.append(float("nan"))
        times.append(time)
        values.append(value)
    return times, values


def thinned(
    times: list[float], values: list[float], columns: int
) -> tuple[list[float], list[float]]:
    """Keep at most two points for each column of a chart, the lowest and highest, and all NaN."""
    if len(times) <= 2 * columns:
        return times, values
    kept: list[int] = []
    size = math.ceil(len(times) / columns)
    for begin in range(0, len(times), size):
        part = range(begin, min(begin + size, len(times)))
        holes = {i for i in part if math.isnan(values[i])}
        known = [i for i in part if i not in holes]
        ends = {min(known, key=values.__getitem__), max(known, key=values.__getitem__)}
        kept += sorted(ends | holes)
    return [times[i] for i in kept], [values[i] for i in kept]
