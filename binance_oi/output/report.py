"""A recording as one HTML page that opens offline.

The rule of this file: the page contains everything it shows, without scripts or addresses of other
sites, and all text is escaped. Charts are thinned to what a screen can show, and keep the lowest
and highest values.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import NamedTuple

from binance_oi.arguments import StrPath, check_path
from binance_oi.errors import RecordingError, printable
from binance_oi.market.gap import Gap
from binance_oi.output.curve import curve, thinned
from binance_oi.output.drawing import Span, chart, strip, trend
from binance_oi.output.selection import DATES, dated
from binance_oi.recorder import Recording, Sample, Samples
from binance_oi.recorder.atomic import replace_atomically, translate_write_errors
from binance_oi.recorder.recording import ALWAYS, CountedGap
from binance_oi.recorder.samples import ALL_TIME_MS
from binance_oi.times import instant, plain

SUFFIXES = (".html", ".htm")
MOVERS = 15  # rows of the table
CHARTS = 6  # of the largest movers
GAPS = 200  # rows of the table; the strip shows all
FAILURES = 20  # rows of the table
POINTS, TREND_POINTS = 480, 60  # columns of a chart; each keeps its lowest and highest value

STYLE = """
:root { --text: #1b1f24; --quiet: #57606a; --page: #fff; --rule: #d8dee4; --line: #0969da;
  --up: #1a7f37; --down: #cf222e }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --quiet: #8b949e; --page: #0d1117;
  --rule: #30363d; --line: #58a6ff; --up: #3fb950; --down: #ff7b72 } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
  color: var(--text); background: var(--page) }
h1, h2, h3 { line-height: 1.2; margin-bottom: .5rem } h2 { margin-top: 2.5rem }
h3 { margin-top: 1.75rem } svg { display: block; width: 100%; height: auto } .quiet, th
{ color: var(--quiet) } dl { display: grid; gap: 1rem; margin: 1.5rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)) } dt { color: var(--quiet) }
dd { font-size: 1.4rem; font-variant-numeric: tabular-nums; margin: 0 }
table { border-collapse: collapse; width: 100% } td, th { padding: .25rem .6rem; text-align: left;
  border-bottom: 1px solid var(--rule) } th { font-weight: 600 } td { overflow-wrap: anywhere }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.up { color: var(--up) } .down { color: var(--down) } .trend { width: 7.5rem }
.line { fill: none; stroke: var(--line); stroke-width: 1.5; stroke-linejoin: round }
.axis { fill: var(--quiet); font-size: 12px } .grid { stroke: var(--rule) } .behind { opacity: .2 }
.had { fill: #2da44e; background: #2da44e } .gap { fill: #cf222e; background: #cf222e }
.stopped { fill: #8c959f; background: #8c959f } .storage { fill: #8250df; background: #8250df }
.overrun, .late, .limited, .budget, .clock { fill: #d4a72c; background: #d4a72c }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .35em 0 1em }
.key:first-child { margin-left: 0 }
"""


@dataclass(frozen=True, slots=True)
class Mover:
    """A symbol and its change over the recording."""

    symbol: str
    first: Sample
    last: Sample

    @property
    def percent(self) -> float:
        """The change from the first sample to the last, in percent."""
        before, after = self.first.open_interest, self.last.open_interest
        return float((after - before) / before) * 100 if before else 0.0


class Part(NamedTuple):
    """The part of a recording that a page covers."""

    symbols: frozenset[str] | None
    """None: all."""
    span: tuple[int, int]
    """Unix ms, from the first on and before the second: of slots, and of transaction times."""

    def has(self, symbol: str) -> bool:
        """Whether a symbol is part of it."""
        return self.symbols is None or symbol in self.symbols


def write_report(
    recording: Recording,
    target: StrPath,
    *,
    symbols: Iterable[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> None:
    """Write the page: coverage and gaps, largest movers, charts.

    An existing page is replaced at once, as a whole. The target must have a page's suffix, because
    a file of another name may be a recording or its log.

    Args:
        recording: The subject of the page.
        target: A file whose name ends in ``.html`` or ``.htm``.
        symbols: Only these; None takes all.
        since: From this moment on (aware): slots of the schedule, and transaction times.
        until: Before this one (aware).

    Raises:
        InvalidSymbolError: One of `symbols` cannot be a symbol, or it is one `str`, not a list.
        RecordingError: Nothing was recorded there, one of `symbols` never was, or the target cannot
            be written, is the recording or a side file of it, or has another suffix.
        ValueError: A time has no time zone, or `since` is later than `until`.
    """
    path = check_path("target", target)
    recording.check_target(path)
    if path.suffix.lower() not in SUFFIXES:
        raise RecordingError(f"{path}: a page's name ends in {' or '.join(SUFFIXES)}")
    page = report(recording, symbols=symbols, since=since, until=until)
    with translate_write_errors(path), replace_atomically(path) as file:
        file.write(page.encode())


def report(
    recording: Recording,
    *,
    symbols: Iterable[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> str:
    """The page as text; see `write_report`.

    Raises:
        RecordingError: Nothing was recorded.
    """
    part = _part(recording, symbols, since, until)
    times = max(DATES[0], part.span[0]), min(DATES[1], part.span[1])
    movers = sorted(
        (
            Mover(first.symbol, first, last)
            for first, last in recording.first_and_last(times)
            if part.has(first.symbol)
        ),
        key=lambda mover: (-abs(mover.percent), mover.symbol),
    )
    coverage = Coverage.of(recording, part)
    if coverage is None or not movers:
        raise RecordingError(f"{recording.path} has nothing to report")
    title = f"Open interest: {printable(recording.path.name)}"
    sections = (
        f"<h1>{escape(title)}</h1>",
        _summary(coverage, len(movers), recording.source),
        _coverage(coverage),
        _failures(recording, part),
        _movers(recording, movers, times),
        "<h2>Charts of the largest movers</h2>",
        *(_chart(recording, mover.symbol, times, coverage) for mover in movers[:CHARTS]),
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _part(
    recording: Recording,
    symbols: Iterable[str] | None,
    since: datetime | None,
    until: datetime | None,
) -> Part:
    """What a page is about; a warning names the samples whose date cannot be true."""
    if symbols is None and since is None and until is None:
        # Not by `samples`: the file may have names that no caller can give.
        dated(Samples(recording.path, recording.symbols(), *ALL_TIME_MS), recording.path)
        return Part(None, ALWAYS)
    chosen = recording.samples(symbols, since=since, until=until)
    dated(chosen, recording.path)
    names = None if symbols is None else frozenset(chosen.symbols)
    first = ALWAYS[0] if since is None else chosen.since
    return Part(names, (first, chosen.until))


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was recorded, and what is missing."""

    first: datetime
    last: datetime
    sweeps: int
    samples: int
    missed: int
    gaps: Sequence[CountedGap]
    period_s: float
    """Period of the last sweep; a gap has its own."""
    end: float
    """The end of the last slot, Unix seconds."""

    @classmethod
    def of(cls, recording: Recording, part: Part) -> "Coverage | None":
        """The coverage of a part of a recording; None when it has no slot."""
        slots: list[int] = []
        ends: list[int] = []
        sweeps, samples, period = 0, 0, 1000
        for sweep in recording.sweeps(part.span):
            sweeps, samples, period = sweeps + 1, samples + sweep.new, sweep.period
            slots, ends = [*slots[:1], sweep.slot], [sweep.slot + period]
        gaps = tuple(recording.counted_gaps(part.span))
        slots += [slot for it in gaps for slot in (it.gap.first, max(it.gap[:2]))]
        if not slots:
            return None
        ends += [it.gap.last + it.period for it in gaps]
        if part.symbols is not None:
            samples = Samples(recording.path, tuple(sorted(part.symbols)), *part.span).count()
        first, last = min(slots), max(slots)
        missed = sum(it.slots for it in gaps)
        return cls(
            *(instant(first), instant(last), sweeps, samples, missed, gaps, period / 1000),
            max(first, *ends) / 1000,
        )

    @property
    def span(self) -> Span:
        """The time from the first slot to the end of the last one."""
        return Span(self.first.timestamp(), self.end)

    @property
    def marks(self) -> tuple[list[Gap], list[float]]:
        """The gaps, and the period of each in seconds."""
        return [it.gap for it in self.gaps], [it.period / 1000 for it in self.gaps]


def _summary(coverage: Coverage, symbols: int, source: str | None) -> str:
    slots = coverage.sweeps + coverage.missed
    figures = {
        "slots with a sweep": f"{100 * coverage.sweeps / slots:.3f} %" if slots else "none was due",
        "sweeps": f"{coverage.sweeps:,}",
        "slots without": f"{coverage.missed:,}",
        "samples": f"{coverage.samples:,}",
        "symbols": f"{symbols:,}",
    }
    tiles = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items()
    )
    span = f"{plain(coverage.first)} to {plain(coverage.last)} UTC"
    where = f"source: {escape(source or 'unknown')}"
    return f'<p class="quiet">{span}, every {coverage.period_s:g} s, {where}</p><dl>{tiles}</dl>'


def _coverage(coverage: Coverage) -> str:
    reasons = Counter[str]()
    for gap, _, slots in coverage.gaps:
        reasons[gap.reason] += slots
    keys = "".join(
        f'<span class="key gap {escape(reason)}"></span>{escape(reason)} ({slots:,})'
        for reason, slots in reasons.items()
    )
    rows = [
        (_at(gap.first), _at(max(gap.first, gap.last)), f"{slots:,}", gap.reason, gap.detail)
        for gap, _, slots in coverage.gaps[-GAPS:]
    ]
    title = "Gaps" if len(rows) == len(coverage.gaps) else f"The latest {GAPS} gaps"
    return (
        f"<h2>Coverage</h2>{strip(coverage.span, *coverage.marks)}"
        f'<p class="quiet"><span class="key had"></span>recorded{keys}</p>'
        f"<h2>{title}</h2>"
        + _table(("from", "to", "slots", "reason", "detail"), map(_cells, rows), numbers=(2,))
    )


def _failures(recording: Recording, part: Part) -> str:
    """A table of the symbols that single sweeps lack."""
    failures = [failure for failure in recording.failures(part.span) if part.has(failure[0])]
    if not failures:
        return ""
    rows = [(symbol, f"{slots:,}", reason) for symbol, reason, slots in failures[:FAILURES]]
    head = ("symbol", "sweeps without it", "reason")
    most = f", the most frequent of {len(failures)}" if len(failures) > FAILURES else ""
    return f"<h2>Single reads that failed{most}</h2>" + _table(
        head, map(_cells, rows), numbers=(1,)
    )


def _movers(recording: Recording, movers: Sequence[Mover], times: tuple[int, int]) -> str:
    rows = [
        (
            escape(mover.symbol),
            f"{mover.first.open_interest:,f}",
            f"{mover.last.open_interest:,f}",
            f'<span class="{"down" if mover.percent < 0 else "up"}">{mover.percent:+.2f} %</span>',
            trend(mover.symbol, _curve(recording, mover.symbol, times, TREND_POINTS)),
        )
        for mover in movers[:MOVERS]
    ]
    title = f"<h2>Largest movers of {len(movers)} symbols</h2>"
    head = ("symbol", "first", "last", "change", "trend")
    return title + _table(head, rows, numbers=(1, 2, 3))


def _at(unix_ms: int) -> str:
    return plain(instant(unix_ms))


def _cells(texts: Sequence[str]) -> Sequence[str]:
    return [escape(text) for text in texts]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table; the cells must be markup already."""
    kinds = [' class="n"' if i in numbers else "" for i in range(len(head))]

    def row(cells: Sequence[str], tag: str) -> str:
        inner = zip(cells, kinds, strict=True)
        return "<tr>" + "".join(f"<{tag}{k}>{c}</{tag}>" for c, k in inner) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<table>{row(head, 'th')}{body}</table>" if body else "<p>None.</p>"


def _chart(recording: Recording, symbol: str, times: tuple[int, int], coverage: Coverage) -> str:
    line = _curve(recording, symbol, times, POINTS)
    picture = chart(symbol, line, coverage.span, *coverage.marks)
    return f"<h3>{escape(symbol)}</h3>{picture}"


def _curve(
    recording: Recording, symbol: str, times: tuple[int, int], points: int
) -> tuple[list[float], list[float]]:
    # Not `Recording.samples`: it checks names as if a caller had passed them.
    return thinned(*curve(Samples(recording.path, (symbol,), *times)), points)
