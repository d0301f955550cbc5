"""A recording as one HTML page that opens offline.

The rule of this file: the page holds everything it shows, no script and no address of another
place, and text is escaped before it becomes markup. Charts are thinned out to what a screen can
show, lowest and highest values included.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from itertools import groupby
from pathlib import Path

from binance_oi.chart import curve
from binance_oi.errors import RecordingError
from binance_oi.recorder import Recording, Sample
from binance_oi.snapshot import Gap

MOVERS = 15  # lines in the table
CHARTS = 6  # of the largest movers
GAPS = 200  # lines in the table; the strip shows all
WIDTH, HEIGHT = 960, 220  # of a chart, in its own units
POINTS = 480  # columns of a chart; each keeps its lowest and its highest value

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
  color: #1b1f24; background: #fff }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem } svg { width: 100%; height: auto }
table { border-collapse: collapse; width: 100% } td, th { padding: .25rem .6rem; text-align: left;
  border-bottom: 1px solid #d8dee4 } td.n, th.n { text-align: right;
  font-variant-numeric: tabular-nums } .up { color: #1a7f37 } .down { color: #cf222e }
.line { fill: none; stroke: #0969da; stroke-width: 1.5 } .axis { fill: #57606a; font-size: 12px }
.had { fill: #2da44e } .gap { fill: #cf222e }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3 }
  td, th { border-color: #30363d } .axis { fill: #8b949e } }
"""


@dataclass(frozen=True, slots=True)
class Mover:
    """A symbol and how far it went."""

    symbol: str
    first: Sample
    last: Sample

    @property
    def percent(self) -> float:
        """From the first sample to the last one."""
        before, after = self.first.open_interest, self.last.open_interest
        return float((after - before) / before) * 100 if before else 0.0


def write_report(recording: Recording, target: str | Path) -> None:
    """Write the page: coverage and gaps, largest movers, charts.

    Raises:
        RecordingError: Nothing was recorded, or the target cannot be written or is the recording.
    """
    path = Path(target)
    recording.check_target(path)
    page = report(recording)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RecordingError(f"{path} cannot be written: {error}") from error


def report(recording: Recording) -> str:
    """The page as text.

    Raises:
        RecordingError: Nothing was recorded.
    """
    span = recording.span()
    movers = sorted(
        (Mover(first.symbol, first, last) for first, last in recording.ends()),
        key=lambda mover: (-abs(mover.percent), mover.symbol),
    )
    if span is None or not movers:
        raise RecordingError(f"{recording.path} has nothing to report")
    title = f"Open interest: {recording.path.name}"
    sections = (
        f"<h1>{escape(title)}</h1>",
        _coverage(recording, span),
        _movers(movers[:MOVERS], len(movers)),
        *(_chart(recording, mover.symbol) for mover in movers[:CHARTS]),
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _coverage(recording: Recording, span: tuple[datetime, datetime]) -> str:
    sweeps, gaps = list(recording.sweeps()), list(recording.gaps())
    samples = sum(sweep.new for sweep in sweeps)
    period = sweeps[-1].period if sweeps else 1
    missed = recording.missed()
    whole = 100 * len(sweeps) / (len(sweeps) + missed)
    rows = [(_time(gap.first), _time(gap.last), gap.reason, gap.detail) for gap in gaps[-GAPS:]]
    return (
        f"<p>{_time(_ms(span[0]))} to {_time(_ms(span[1]))} UTC: {len(sweeps):,} sweeps, "
        f"{samples:,} samples. {whole:.3f} % of all slots have a sweep; {missed:,} have none.</p>"
        f"<h2>Coverage</h2>{_strip(gaps, _ms(span[0]), _ms(span[1]), period)}"
        f"<h2>Gaps</h2>{_table(('from', 'to', 'reason', 'detail'), rows)}"
    )


def _strip(gaps: Sequence[Gap], first: int, last: int, period: int) -> str:
    """Time from left to right; a gap is never too short to be seen."""
    scale = WIDTH / (last - first + period)
    marks = "".join(
        f'<rect class="gap" x="{(gap.first - first) * scale:.2f}" y="0" height="18" '
        f'width="{max(1.0, (gap.last - gap.first + period) * scale):.2f}"/>'
        for gap in gaps
    )
    had = f'<rect class="had" width="{WIDTH}" height="18"/>'
    return f'<svg viewBox="0 0 {WIDTH} 18" role="img" aria-label="coverage">{had}{marks}</svg>'


def _movers(movers: Sequence[Mover], count: int) -> str:
    rows = [
        (
            mover.symbol,
            f"{mover.first.open_interest:,f}",
            f"{mover.last.open_interest:,f}",
            f"{mover.percent:+.2f} %",
        )
        for mover in movers
    ]
    title = f"<h2>Largest movers of {count} symbols</h2>"
    return title + _table(("symbol", "first", "last", "change"), rows, numbers=(1, 2, 3))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    kinds = [' class="n"' if i in numbers else "" for i in range(len(head))]

    def row(cells: Sequence[str], tag: str) -> str:
        inner = zip(cells, kinds, strict=True)
        return "<tr>" + "".join(f"<{tag}{k}>{escape(c)}</{tag}>" for c, k in inner) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<table>{row(head, 'th')}{body}</table>" if body else "<p>None.</p>"


def _chart(recording: Recording, symbol: str) -> str:
    times, values = thinned(*curve(recording.samples([symbol])))
    known = [value for value in values if not math.isnan(value)]
    low, high = min(known), max(known)
    left, across = times[0], (times[-1] - times[0]) or 1.0
    points = [
        f"{(time - left) / across * WIDTH:.1f} {(high - value) / ((high - low) or 1) * HEIGHT:.1f}"
        for time, value in zip(times, values, strict=True)
    ]
    unbroken = groupby(range(len(times)), key=lambda i: math.isnan(values[i]))
    lines = "".join(
        "M" + "L".join(points[i] for i in part) for broken, part in unbroken if not broken
    )
    return (
        f'<h2>{escape(symbol)}</h2><svg viewBox="0 -20 {WIDTH} {HEIGHT + 44}" role="img" '
        f'aria-label="{escape(symbol)}"><path class="line" d="{lines}"/>'
        f'<text class="axis" x="0" y="-6">{high:,.10g}</text>'
        f'<text class="axis" x="0" y="{HEIGHT + 16}">{low:,.10g}, {_time(int(left * 1000))}</text>'
        f'<text class="axis" x="{WIDTH}" y="{HEIGHT + 16}" text-anchor="end">'
        f"{_time(int(times[-1] * 1000))} UTC</text></svg>"
    )


def thinned(times: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    """At most two points for each column of a chart, the lowest and the highest; NaN stays."""
    if len(times) <= 2 * POINTS:
        return times, values
    kept: list[int] = []
    size = math.ceil(len(times) / POINTS)
    for begin in range(0, len(times), size):
        part = range(begin, min(begin + size, len(times)))
        holes = {i for i in part if math.isnan(values[i])}
        known = [i for i in part if i not in holes]
        ends = {min(known, key=values.__getitem__), max(known, key=values.__getitem__)}
        kept += sorted(ends | holes)
    return [times[i] for i in kept], [values[i] for i in kept]


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _time(unix_ms: int) -> str:
    return f"{datetime.fromtimestamp(unix_ms // 1000, UTC):%Y-%m-%d %H:%M:%S}"
