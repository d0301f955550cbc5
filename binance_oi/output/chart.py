"""Draws charts of recorded open interest, as SVG or PNG.

The rule of this file: a line breaks where several samples in a row are missing; otherwise it would
show a calm market there. The module imports matplotlib (the extra `plot`) on first use, and needs
no display.
"""

import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any
from warnings import catch_warnings, filterwarnings

from binance_oi.arguments import StrPath, check_path
from binance_oi.errors import RecordingError
from binance_oi.exchange.symbols import check_symbols
from binance_oi.extras import library
from binance_oi.output.completeness import Mark, Part, completeness_of
from binance_oi.output.curve import Curve, curve, thinned
from binance_oi.output.selection import dated
from binance_oi.recorder import Recording
from binance_oi.recorder.atomic import replace_atomically, translate_write_errors
from binance_oi.recorder.tables import ALWAYS
from binance_oi.times import unix_ms

SUFFIXES = (".svg", ".png")
SIZE = (11.0, 4.5)  # inches of one chart
# Columns of a chart. With over two points per column, we draw only the extremes of each column.
COLUMNS = 1100
CHINESE = (  # fonts of common systems, for symbols such as 币安人生USDT
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC"),
    *("WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS"),
    *("Microsoft YaHei", "SimHei"),
)

FAILED, HELD = "#cf222e", "#bf8700"  # colours of gaps, as in page/page.css
SHADES = {
    **dict.fromkeys(("overrun", "late", "limited", "budget", "clock"), HELD),
    "stopped": "#6e7781",
    "storage": "#8250df",
}
_GROUND, _TEXT = "#0d1117", "#e6edf3"
DARK = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), _GROUND),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), _TEXT),
    **dict.fromkeys(("xtick.color", "ytick.color", "axes.edgecolor", "grid.color"), "#9ea7b3"),
}

_library = partial(library, extra="plot")


def plot(
    recording: Recording,
    target: StrPath,
    symbols: Iterable[str],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    usd: bool = False,
    dark: bool = False,
) -> None:
    """Draw the open interest of each symbol over time, one chart below the other.

    The charts shade gaps, and a legend names their reasons.

    Args:
        recording: The source of the samples.
        target: A file whose name ends in ``.svg`` or ``.png``.
        symbols: The symbols; each gets a chart of its own.
        since: The earliest transaction time, included (aware).
        until: The end of the span, excluded (aware).
        usd: Draw open interest times mark price, instead of units of the base asset.
        dark: Draw light lines on a dark background.

    Raises:
        InvalidSymbolError: One of `symbols` cannot be a symbol, or `symbols` is a single `str`.
        RecordingError: The recording cannot be read. Or a symbol has no sample in the span, or
            with `usd` no mark price. Or the target cannot be written, belongs to the recording, or
            has another suffix.
        ModuleNotFoundError: matplotlib is not installed; the extra `plot` installs it.
        TypeError: `target` is not a path, or `symbols` is not iterable.
        ValueError: `target` or `symbols` is empty, a time has no time zone, or `since` is later
            than `until`.
    """
    path, names = check_path("target", target), check_symbols(symbols)
    if not names:
        raise ValueError("symbols must name at least one symbol")
    recording.check_target(path)
    if path.suffix.lower() not in SUFFIXES:
        raise RecordingError(f"{path}: a chart's name must end in {' or '.join(SUFFIXES)}")
    chosen = [recording.samples([name], since=since, until=until) for name in names]
    lines = [curve(dated(samples, recording)) for samples in chosen]
    for name, line in zip(names, lines, strict=True):
        if not line.times:
            raise RecordingError(f"{recording} has no sample of {name} in that range")
        if usd and all(map(math.isnan, line.prices)):
            raise RecordingError(f"{recording} has no mark price of {name} in that range")
    shown = [thinned(line.in_usd() if usd else line, COLUMNS) for line in lines]
    first, last = (end(end(line.times) for line in shown) for end in (min, max))
    span = ALWAYS[0] if since is None else unix_ms(since), round(last * 1000) + 1
    found = completeness_of(recording, Part(None, span))
    gaps = [] if found is None else [gap for gap in found.marks() if gap.last > first * 1000]
    with translate_write_errors(path), replace_atomically(path) as file, _style(dark):
        figure = _draw(names, shown, gaps, "USD" if usd else "coins of the base asset")
        figure.savefig(file, format=path.suffix[1:].lower())


def _draw(names: Sequence[str], lines: Sequence[Curve], gaps: Sequence[Mark], unit: str) -> Any:
    figure_module, dates = _library("matplotlib.figure"), _library("matplotlib.dates")
    figure = figure_module.Figure(figsize=(SIZE[0], SIZE[1] * len(names)), layout="constrained")
    for number, (name, (times, values, _)) in enumerate(zip(names, lines, strict=True), 1):
        axes = figure.add_subplot(len(names), 1, number)
        axes.plot([datetime.fromtimestamp(time, UTC) for time in times], values, linewidth=1.2)
        _shade(axes, [gap for gap in gaps if times[0] * 1000 < gap.last])
        axes.set_title(f"{name}: open interest, UTC", loc="left")
        axes.set_ylabel(unit)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(dates.AutoDateLocator(), tz=UTC))
        axes.yaxis.set_major_formatter("{x:,.10g}")
        axes.grid(alpha=0.3)
    return figure


def _shade(axes: Any, gaps: Sequence[Mark]) -> None:
    """Draw the gaps behind the line; the legend names each reason once."""
    named: set[str] = set()
    for gap in gaps:
        ends = (datetime.fromtimestamp(end / 1000, UTC) for end in gap[:2])
        label = None if gap.reason in named else f"gap: {gap.reason}"
        axes.axvspan(
            *ends, color=SHADES.get(gap.reason, FAILED), alpha=0.25, linewidth=0, label=label
        )
        named.add(gap.reason)
    if named:
        axes.legend(loc="best", frameon=False)


@contextmanager
def _style(dark: bool) -> Generator[None]:
    # Labels of an SVG stay text, so the viewer's fonts draw them. Ours may lack 币安人生USDT.
    style = {"svg.fonttype": "none", "font.family": _families(), **(DARK if dark else {})}
    with _library("matplotlib").rc_context(style), catch_warnings():
        filterwarnings("ignore", "Glyph .* missing from font")
        yield


def _families() -> list[str]:
    """Return matplotlib's default font, and one with Chinese characters if the machine has one."""
    known = set(_library("matplotlib.font_manager").get_font_names())
    return ["sans-serif", *[name for name in CHINESE if name in known][:1]]
