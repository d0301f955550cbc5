"""Draws the charts of a report as SVG text.

The rule of this file: the pictures need no script and no font. They contain classes instead of
colours, and the style sheet of the page assigns a colour to each class. Every gap is visible. A
line breaks at each NaN of its curve.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import groupby, repeat
from typing import NamedTuple

from binance_oi.market.gap import Gap

WIDTH, HEIGHT = 960, 220  # of a chart; all sizes here are in SVG units
STRIP = 22  # height of the strip that shows the gaps
LABELS = 22  # height of the time labels below a chart
CHARACTER = 7  # width of a digit in a label
TREND_WIDTH, TREND_HEIGHT = 120, 22
# Distances between two time labels, s. Above 12 hours, the distance is a number of whole days.
STEPS_S = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10_800, 21_600, 43_200)
DAY_S = 86_400
TIMES, VALUES = 8, 4  # the most intervals between labels, along the bottom and the side

Periods = float | Sequence[float]
"""Seconds from slot to slot: one number for all gaps, or one number for each gap."""
Curve = tuple[Sequence[float], Sequence[float]]
"""Unix seconds and values, with a NaN at every break."""


class Span(NamedTuple):
    """The times at the left and the right edge of a picture, Unix seconds."""

    first: float
    last: float

    def x(self, time: float) -> float:
        """Return the horizontal position of a time, in SVG units."""
        return (time - self.first) / ((self.last - self.first) or 1.0) * WIDTH


def strip(span: Span, gaps: Iterable[Gap], periods: Periods) -> str:
    """Draw a strip with the gaps of a recording; even the shortest gap is visible.

    The strip is as wide as the page allows, and its labels have the same size at every width.
    """
    had = f'<rect class="had" width="100%" height="{STRIP}"/>'
    marks = "".join(_marks(span, gaps, periods, STRIP, _share))
    inside = had + marks + _times(span, STRIP, _share)
    size = f'width="100%" height="{STRIP + LABELS}"'
    return f'<svg class="strip" {size} role="img" aria-label="coverage">{inside}</svg>'


def chart(name: str, curve: Curve, span: Span, gaps: Iterable[Gap], periods: Periods) -> str:
    """Draw one line over time, on a grid, with the gaps in the background."""
    times, values = curve
    low, high = _ends(values)
    scale = HEIGHT / ((high - low) or 1.0)
    points = [(span.x(t), (high - v) * scale) for t, v in zip(times, values, strict=True)]
    labels = list(_values(low, high))
    grid = "".join(
        f'<path class="grid" d="M0 {(high - tick) * scale:.1f}H{WIDTH}"/>'
        f'<text class="axis" x="-8" y="{(high - tick) * scale + 4:.1f}" text-anchor="end">{label}'
        "</text>"
        for tick, label in labels
    )
    left = 8 + CHARACTER * max((len(label) for _, label in labels), default=0)
    behind = f'<g class="behind">{"".join(_marks(span, gaps, periods, HEIGHT))}</g>'
    line = f'<path class="line" d="{path(points)}"/>'
    box = (-left, -8, WIDTH + left, HEIGHT + LABELS + 8)
    return _svg(name, box, behind + grid + line + _times(span, HEIGHT))


def trend(name: str, curve: Curve) -> str:
    """Draw a small line without grid and labels, for a row of a table."""
    times, values = curve
    low, high = _ends(values)
    across, scale = (times[-1] - times[0]) or 1.0, (TREND_HEIGHT - 4) / ((high - low) or 1.0)
    points = [
        ((time - times[0]) / across * TREND_WIDTH, 2 + (high - value) * scale)
        for time, value in zip(times, values, strict=True)
    ]
    return (
        f'<svg class="trend" viewBox="0 0 {TREND_WIDTH} {TREND_HEIGHT}" role="img" '
        f'aria-label="{escape(name)}"><path class="line" d="{path(points)}"/></svg>'
    )


def path(points: Sequence[tuple[float, float]]) -> str:
    """Return the SVG path through the points. It breaks at every NaN.

    A point between two breaks becomes a short dash, because a path of one point is invisible.
    """
    unbroken = groupby(points, key=lambda point: math.isnan(point[1]))
    return "".join(_piece(list(part)) for broken, part in unbroken if not broken)


def _piece(points: list[tuple[float, float]]) -> str:
    texts = [f"{x:.1f} {y:.1f}" for x, y in points]
    return f"M{'L'.join(texts)}" + ("h2" if len(texts) == 1 else "")


def _ends(values: Sequence[float]) -> tuple[float, float]:
    known = [value for value in values if not math.isnan(value)]
    return (min(known), max(known)) if known else (0.0, 0.0)


def _svg(name: str, box: tuple[int, int, int, int], inside: str) -> str:
    corners = " ".join(map(str, box))
    return f'<svg viewBox="{corners}" role="img" aria-label="{escape(name)}">{inside}</svg>'


def _units(width: float) -> str:
    """Return a width in SVG units, as text."""
    return f"{width:.2f}"


def _share(width: float) -> str:
    """Return a width as a percentage of the picture's width."""
    return f"{100 * width / WIDTH:.3f}%"


def _marks(
    span: Span,
    gaps: Iterable[Gap],
    periods: Periods,
    height: int,
    text: Callable[[float], str] = _units,
) -> Iterator[str]:
    each = periods if isinstance(periods, Sequence) else repeat(periods)
    for gap, period_s in zip(gaps, each, strict=False):  # `repeat` never ends
        left, right = span.x(gap.first / 1000), span.x(gap.last / 1000 + period_s)
        yield (
            f'<rect class="gap {escape(gap.reason)}" x="{text(left)}" height="{height}" '
            f'width="{text(max(1.0, right - left))}"><title>{escape(str(gap))}</title></rect>'
        )


def _times(span: Span, y: int, text: Callable[[float], str] = _units) -> str:
    """Draw the labels of round times along the bottom; the label of midnight is its date."""
    return "".join(
        f'<text class="axis" x="{text(span.x(at))}" y="{y + 16}" text-anchor="middle">{label}'
        "</text>"
        for at, label in ticks(span)
        if 30 < span.x(at) < WIDTH - 30  # nearer to an edge, the label would be cut off
    )


def ticks(span: Span) -> Iterator[tuple[float, str]]:
    """Return the round times (UTC) in a span, as Unix seconds, with their labels."""
    least = (span.last - span.first) / TIMES
    days = max(1, math.ceil(least / DAY_S))
    step = next((step for step in STEPS_S if step >= least), days * DAY_S)
    for number in range(math.ceil(span.first / step), math.floor(span.last / step) + 1):
        at = datetime.fromtimestamp(number * step, UTC)
        midnight = number * step % DAY_S == 0
        clock = f"{at:%H:%M}" if step >= 60 else f"{at:%T}"
        yield number * step, f"{at:%b} {at.day}" if midnight else clock


def _values(low: float, high: float) -> Iterator[tuple[float, str]]:
    """Return the round values between `low` and `high`, with their labels."""
    if high <= low:
        yield low, f"{low:,.10g}"
        return
    step = _next_round((high - low) / VALUES)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    for number in range(math.ceil(low / step), math.floor(high / step) + 1):
        yield number * step, f"{number * step:,.{digits}f}"


def _next_round(number: float) -> float:
    """Return the smallest number at or above `number` that is 1, 2 or 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(number))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= number * (1 - 1e-9))
