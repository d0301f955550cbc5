"""Shows how complete a recording is: its slots, its gaps by reason, and failed reads.

The rule of this file: it counts all gaps, and lists the longest ones. A picture joins gaps that it
cannot show apart, so a page has room even for a hundred thousand gaps.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from typing import NamedTuple

from binance_oi.market.gap import Gap
from binance_oi.output.drawing import Span, strip
from binance_oi.output.markup import cells, table
from binance_oi.output.selection import DATES
from binance_oi.recorder import Recording
from binance_oi.recorder.recording import CountedGap
from binance_oi.times import instant, plain

LONGEST = 20  # gaps in the list
FAILURES = 20  # rows of the table of failed reads
# A picture joins gaps that together span less than 1 / `MOST_MARKS` of its width. So it has at most
# about 1,920 marks.
MOST_MARKS = 960


class Part(NamedTuple):
    """The part of a recording that a page covers."""

    symbols: frozenset[str] | None
    """The symbols; None for all."""
    span: tuple[int, int]
    """The span of slots and transaction times, Unix ms: start (included) and end (excluded)."""

    def has(self, symbol: str) -> bool:
        """Whether the part has this symbol."""
        return self.symbols is None or symbol in self.symbols


class Mark(NamedTuple):
    """A mark in a picture, for one gap or for several gaps that lie close together."""

    first: int
    """The first slot, Unix ms."""
    last: int
    """The end of the last slot, Unix ms."""
    reason: str
    """The reason of the gap; for joined gaps, the reason of the longest one."""


@dataclass(frozen=True, slots=True)
class Completeness:
    """The counts of recorded slots and samples, and of missing slots."""

    first: datetime
    """The first slot."""
    last: datetime
    """The last slot."""
    sweeps: int
    """The number of slots with a sweep."""
    samples: int
    """The number of samples."""
    missed: int
    """The number of slots without a sweep."""
    gaps: Sequence[CountedGap]
    """The gaps."""
    period_s: float
    """The period of the last sweep, s; 1 without a sweep. Each gap has a period of its own."""
    end: float
    """The end of the last slot, Unix seconds."""

    @property
    def span(self) -> Span:
        """The time from the first slot to the end of the last one."""
        return Span(self.first.timestamp(), self.end)

    @property
    def share(self) -> str:
        """The share of the slots that have a sweep, as text."""
        slots = self.sweeps + self.missed
        return f"{100 * self.sweeps / slots:.3f} %" if slots else "none was due"

    def marks(self) -> list[Mark]:
        """Return marks for the gaps, in order; join gaps that a picture cannot show apart."""
        least = (self.end - self.first.timestamp()) * 1000 / MOST_MARKS
        found: list[Mark] = []
        longest = 0  # ms of the longest gap in the last mark
        for gap, period, _ in self.gaps:
            mark = Mark(gap.first, max(gap.first, gap.last) + period, gap.reason)
            length = mark.last - mark.first
            if (
                found
                and mark.first - found[-1].last < least
                and mark.last - found[-1].first < least
            ):
                before = found[-1]
                reason = mark.reason if length > longest else before.reason
                found[-1] = Mark(before.first, max(before.last, mark.last), reason)
                longest = max(longest, length)
            else:
                found.append(mark)
                longest = length
        return found


def completeness_of(recording: Recording, part: Part) -> Completeness | None:
    """Count the slots and samples of a part of a recording; None if it has no slot.

    Raises:
        RecordingError: The recording cannot be read.
    """
    slots: list[int] = []
    ends: list[int] = []
    sweeps, samples, period = 0, 0, 1000
    # Omit slots with an impossible date, as for samples: no picture should reach the year 9999.
    span = max(part.span[0], DATES[0]), min(part.span[1], DATES[1])
    for sweep in recording.sweeps(span):
        sweeps, samples, period = sweeps + 1, samples + sweep.new, sweep.period
        slots, ends = [*slots[:1], sweep.slot], [sweep.slot + period]
    gaps = tuple(recording.counted_gaps(span))
    slots += [slot for it in gaps for slot in (it.gap.first, max(it.gap[:2]))]
    if not slots:
        return None
    ends += [it.gap.last + it.period for it in gaps]
    if part.symbols is not None:
        samples = recording.selection(sorted(part.symbols), part.span).count()
    first, last = min(slots), max(slots)
    missed = sum(it.slots for it in gaps)
    return Completeness(
        *(instant(first), instant(last), sweeps, samples, missed, gaps, period / 1000),
        max(first, *ends) / 1000,
    )


def as_gaps(marks: Iterable[Mark]) -> list[Gap]:
    """Convert marks to gaps. Their period is 0, because `Mark.last` is already a slot's end."""
    return [Gap(mark.first, mark.last, mark.reason, "") for mark in marks]


def sections(recording: Recording, part: Part, found: Completeness, marks: Sequence[Mark]) -> str:
    """Return the markup of the section about completeness.

    Raises:
        RecordingError: The recording cannot be read.
    """
    picture = strip(found.span, as_gaps(marks), 0.0)
    return (
        '<section class="list" aria-labelledby="complete"><h2 id="complete">Completeness</h2>'
        f"<p>{_in_words(found)}</p>"
        f'{picture}<p class="quiet">{_legend(found.gaps)}</p>'
        f"{_by_reason(found.gaps)}{_longest(found.gaps)}{_failures(recording, part)}</section>"
    )


def _in_words(found: Completeness) -> str:
    if not found.sweeps + found.missed:
        return "No slot was due."
    return (
        f"{found.share} of the slots have a sweep: {found.sweeps:,} have one, and "
        f"{found.missed:,} have none."
    )


def _legend(gaps: Iterable[CountedGap]) -> str:
    reasons = dict.fromkeys(it.gap.reason for it in gaps)
    kinds = [("had", "recorded"), *((f"gap {reason}", reason) for reason in reasons)]
    return "".join(
        f'<span class="legend"><span class="key {escape(kind)}"></span>{escape(name)}</span>'
        for kind, name in kinds
    )


class _Group(NamedTuple):
    gaps: int
    slots: int
    longest: CountedGap


def _by_reason(gaps: Iterable[CountedGap]) -> str:
    groups: dict[str, _Group] = {}
    for gap in gaps:
        reason = gap.gap.reason
        before = groups.get(reason, _Group(0, 0, gap))
        longest = max(before.longest, gap, key=_duration)
        groups[reason] = _Group(before.gaps + 1, before.slots + gap.slots, longest)
    ordered = sorted(groups.items(), key=lambda pair: -_duration(pair[1].longest))
    rows = [
        cells((reason, f"{group.gaps:,}", f"{group.slots:,}", _length(group.longest)))
        for reason, group in ordered
    ]
    head = ("Reason", "Gaps", "Slots", "Longest")
    return "<h3>Gaps by reason</h3>" + table("Gaps by reason", head, rows, (1, 2, 3))


def _longest(gaps: Sequence[CountedGap]) -> str:
    longest = sorted(gaps, key=lambda gap: (-_duration(gap), gap.gap.first))[:LONGEST]
    rows = [
        cells(
            (
                plain(instant(it.gap.first)),
                plain(instant(max(it.gap.first, it.gap.last))),
                f"{it.slots:,}",
                it.gap.reason,
                it.gap.detail,
            )
        )
        for it in longest
    ]
    if not rows:
        return ""
    title = "Gaps" if len(rows) == len(gaps) else f"The longest {LONGEST} of {len(gaps):,} gaps"
    return f"<h3>{title}</h3>" + table(
        title, ("From", "To", "Slots", "Reason", "Detail"), rows, (2,)
    )


def _duration(gap: CountedGap) -> int:
    return max(gap.gap.first, gap.gap.last) + gap.period - gap.gap.first


def _length(gap: CountedGap) -> str:
    return str(timedelta(milliseconds=_duration(gap)))


def _failures(recording: Recording, part: Part) -> str:
    """Return a table of the symbols that some sweeps failed to read."""
    failures = [failure for failure in recording.failures(part.span) if part.has(failure[0])]
    if not failures:
        return ""
    rows = [cells((symbol, f"{n:,}", reason)) for symbol, reason, n in failures[:FAILURES]]
    head = ("Symbol", "Sweeps without it", "Reason")
    most = f", the most frequent of {len(failures)}" if len(failures) > FAILURES else ""
    return f"<h3>Single reads that failed{most}</h3>" + table("Failed reads", head, rows, (1,))


def as_state(marks: Iterable[Mark]) -> list[Mapping[str, object]]:
    """Convert marks to the form that page.js reads."""
    return [mark._asdict() for mark in marks]
