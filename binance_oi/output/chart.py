"""Charts of recorded open interest, as SVG or PNG.

The rule of this file: a line is broken where nothing was recorded, or a gap would look like a calm
market. matplotlib (the extra `plot`) is imported on first use, and needs no display.
"""

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
from binance_oi.output.curve import curve, thinned
from binance_oi.output.selection import dated
from binance_oi.recorder import Recording
from binance_oi.recorder.atomic import replace_atomically, translate_write_errors

SUFFIXES = (".svg", ".png")
SIZE = (11.0, 4.5)  # inches of one chart
COLUMNS = 1100  # of a chart; each keeps its lowest and highest value
CHINESE = (  # fonts of common systems, for symbols such as 币安人生USDT
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC"),
    *("WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS"),
    *("Microsoft YaHei", "SimHei"),
)

_library = partial(library, extra="plot")


def plot(
    recording: Recording,
    target: StrPath,
    symbols: Iterable[str],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> None:
    """Draw the open interest of each symbol over time, one chart below the other.

    Args:
        recording: The source of the samples.
        target: A file whose name ends in ``.svg`` or ``.png``.
        symbols: One chart for each.
        since: The earliest transaction time (aware).
        until: The end of the span, excluded (aware).

    Raises:
        InvalidSymbolError: One of `symbols` cannot be a symbol, or `symbols` is a single `str`.
        RecordingError: There is nothing to draw, or the target cannot be written, is the recording
            or a side file of it, or has another suffix.
        ModuleNotFoundError: matplotlib is missing; it comes with the extra `plot`.
        ValueError: A time has no time zone, or `since` is later than `until`.
    """
    path, names = check_path("target", target), check_symbols(symbols)
    recording.check_target(path)
    if path.suffix.lower() not in SUFFIXES:
        raise RecordingError(f"{path}: a chart's name ends in {' or '.join(SUFFIXES)}")
    chosen = [recording.samples([name], since=since, until=until) for name in names]
    lines = [curve(dated(samples, recording.path)) for samples in chosen]
    for name, (times, _) in zip(names, lines, strict=True):
        if not times:
            raise RecordingError(f"{recording.path} has nothing of {name} in that range")
    thin = [thinned(*line, COLUMNS) for line in lines]
    with translate_write_errors(path), replace_atomically(path) as file, _style():
        _draw(names, thin).savefig(file, format=path.suffix[1:].lower())


def _draw(names: Sequence[str], lines: list[tuple[list[float], list[float]]]) -> Any:
    figure_module, dates = _library("matplotlib.figure"), _library("matplotlib.dates")
    figure = figure_module.Figure(figsize=(SIZE[0], SIZE[1] * len(names)), layout="constrained")
    for number, (name, (times, values)) in enumerate(zip(names, lines, strict=True), 1):
        axes = figure.add_subplot(len(names), 1, number)
        axes.plot([datetime.fromtimestamp(time, UTC) for time in times], values, linewidth=1.2)
        axes.set_title(f"{name}: open interest (base asset), UTC", loc="left")
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(dates.AutoDateLocator(), tz=UTC))
        axes.yaxis.set_major_formatter("{x:,.10g}")
        axes.grid(alpha=0.3)
    return figure


@contextmanager
def _style() -> Generator[None]:
    # Text stays text in an SVG: the viewer's fonts draw 币安人生USDT, which ours may lack.
    style = {"svg.fonttype": "none", "font.family": _families()}
    with _library("matplotlib").rc_context(style), catch_warnings():
        filterwarnings("ignore", "Glyph .* missing from font")
        yield


def _families() -> list[str]:
    """matplotlib's default font, and one with Chinese characters if the machine has it."""
    known = set(_library("matplotlib.font_manager").get_font_names())
    return ["sans-serif", *[name for name in CHINESE if name in known][:1]]
