"""Makes pages of the rows of the past, and finds the holes between the rows.

The rule of this file: in nearly every page, each row is one step later than the row before it. Such
a page is *whole*, and one comparison shows that it is. We check only the other pages row by row.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from binance_oi.exchange.models import HistoryRow
from binance_oi.exchange.routes import MAX_ROWS, PERIODS
from binance_oi.market.gap import Gap

TOO_OLD, NO_ROW = "too_old", "no_row"


class Stretch(NamedTuple):
    """A stretch of time to read."""

    period: str
    """The time between rows, such as ``5m``."""
    first: int
    """The first instant, Unix ms."""
    last: int
    """The last instant, Unix ms."""

    @property
    def step(self) -> int:
        """The time between rows, ms."""
        return PERIODS[self.period]

    @property
    def pages(self) -> int:
        """The number of pages that the stretch needs."""
        return max(0, -(-(self.last - self.first + 1) // (MAX_ROWS * self.step)))


class Page(NamedTuple):
    """Rows of one page, the oldest first, each instant once."""

    rows: Sequence[HistoryRow]
    times: list[int]
    """The instants of the rows, Unix ms."""
    is_whole: bool
    """Whether each row follows the one before it by one step."""

    @classmethod
    def of(cls, rows: Sequence[HistoryRow], asked: Stretch) -> "Page":
        """Make a page of the rows of an answer that lie in the requested stretch.

        If two rows have the same instant, it keeps the later row of the answer.
        """
        times = [row.time for row in rows]
        if _is_whole(times, asked.step) and asked.first <= times[0] and times[-1] <= asked.last:
            return cls(rows, times, True)
        found = {row.time: row for row in rows if asked.first <= row.time <= asked.last}
        times = sorted(found)
        return cls([found[time] for time in times], times, _is_whole(times, asked.step))


def _is_whole(times: list[int], step: int) -> bool:
    """Whether there are rows, and each instant is one step after the one before it."""
    if not times or times[-1] - times[0] != step * (len(times) - 1):
        return False
    return times == list(range(times[0], times[-1] + 1, step))


def holes(pages: Iterable[Page], asked: Stretch, first: int, complete_until: int) -> Iterator[Gap]:
    """Yield a gap for each stretch without rows. The ends of a gap are multiples of the period.

    Args:
        pages: The pages, oldest first.
        asked: The requested stretch.
        first: The instant, Unix ms, at which the oldest page begins. If it is later than requested,
            the exchange no longer keeps the rows before it.
        complete_until: The instant, Unix ms, after which rows may still appear.
    """
    step = asked.step
    due = -(-asked.first // step) * step  # the next instant that may have a row
    kept = -(-first // step) * step
    if kept > due:
        yield Gap(due, kept - step, TOO_OLD, "only the last 30 days are kept")
        due = kept
    before = due - step
    for page in pages:
        for time in page.times[:1] if page.is_whole else page.times:
            if time - before != step:  # nearly never
                due, slot = before // step * step + step, time // step * step
                if slot > due:
                    yield Gap(due, slot - step, NO_ROW)
            before = time
        before = page.times[-1] if page.is_whole else before
    due = before // step * step + step
    end = complete_until // step * step
    if end >= due:
        yield Gap(due, end, NO_ROW)
