"""Writes a series as Parquet, CSV or JSON Lines.

The rule of this file: it always writes a whole file, and never adds rows, because a series can be
computed again from its recording. Numbers keep all their digits. A file gets its name when it is
complete.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from binance_oi.arguments import StrPath, check_path
from binance_oi.errors import REPLACES_IT, RecordingError
from binance_oi.market.arrow import write_past
from binance_oi.market.rows import OddRows, PointRow
from binance_oi.market.windows import Length
from binance_oi.output.cells import quoted
from binance_oi.output.selection import DATES
from binance_oi.recorder import Recording, Series
from binance_oi.recorder.atomic import replace_atomically, translate_write_errors
from binance_oi.times import iso_ms

CSV_HEADER = "symbol,time,open_interest,notional,circulating_supply,source\n"
ENDINGS = (".parquet", ".csv", ".jsonl")


def export_series(
    recording: Recording,
    target: StrPath,
    *,
    step: Length = "5m",
    symbols: Iterable[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    replace: bool = False,
    csv_safe: bool = False,
    on_rows: Callable[[int], object] | None = None,
) -> int:
    """Write a series to a file, sorted by symbol and time; see `Recording.series`.

    The file omits instants before 2020 and after 2099. A Parquet file also omits rows with more
    than 20 digits before the point, or more than 18 after it; a warning names the first of those.

    Args:
        recording: The source of the rows.
        target: The file; its name ends in ``.parquet``, ``.csv`` or ``.jsonl``.
        step: The time between two instants: 5 minutes or a multiple of them.
        symbols: The symbols to export; None for all.
        since: The earliest instant, included (aware).
        until: The end of the span, excluded (aware).
        replace: Replace an existing file; otherwise it is an error.
        csv_safe: In CSV, put an apostrophe before a cell that a spreadsheet would run as a formula.
        on_rows: Called with the number of rows written since the last call.

    Returns:
        The number of rows. If it is 0, nothing was written.

    Raises:
        InvalidSymbolError: One of `symbols` cannot be a symbol, or `symbols` is a single `str`.
        RecordingError: The recording has no row of one of the symbols. Or the target exists, cannot
            be written, belongs to the recording, or has another ending.
        ModuleNotFoundError: A Parquet file needs pyarrow, which the extra `parquet` installs.
        TypeError: `target` is not a path, `symbols` is not iterable, or `step` has another type.
        ValueError: `target` is empty, a time has no time zone, `since` is later than `until`, or
            `step` is not a multiple of 5 minutes; nothing was written.
    """
    path = check_path("target", target)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise RecordingError(f"{path}: a file's name must end in one of {', '.join(ENDINGS)}")
    recording.check_target(path)
    if path.exists() and not replace:
        raise RecordingError(
            f"{path} already exists, and no rows can be added to a series; {REPLACES_IT}"
        )
    series = recording.series(symbols, step=step, since=since, until=until).between(*DATES)
    written, odd = _Written(series, on_rows), OddRows()
    if next(iter(series.rows()), None) is None:
        return 0
    with translate_write_errors(path), replace_atomically(path) as file:
        if ending == ".parquet":
            write_past(written.blocks(), file, series.columns(), odd, is_series=True)
        elif ending == ".csv":
            file.write(CSV_HEADER.encode())
            file.writelines(_csv(rows, csv_safe) for rows in written.blocks())
        else:
            file.writelines(map(_json, written.blocks()))
    odd.warn(path)
    return written.count - odd.count


class _Written:
    """Counts the rows as they are written."""

    def __init__(self, series: Series, on_rows: Callable[[int], object] | None) -> None:
        self._series, self._on_rows = series, on_rows
        self.count: int = 0

    def blocks(self) -> Iterator[list[PointRow]]:
        for rows in self._series.blocks():
            yield rows
            self.count += len(rows)
            if self._on_rows is not None:
                self._on_rows(len(rows))


def _csv(rows: Sequence[PointRow], is_safe: bool) -> bytes:
    shown: Callable[[str], str] = quoted if is_safe else str
    lines = (
        f"{shown(symbol)},{iso_ms(time)},{shown(value)},{shown(notional or '')},"
        f"{shown(supply or '')},{source}\n"
        for symbol, time, value, notional, supply, source in rows
    )
    return "".join(lines).encode()


def _json(rows: Sequence[PointRow]) -> bytes:
    names = CSV_HEADER.strip().split(",")
    found = (zip(names, (row[0], iso_ms(row[1]), *row[2:]), strict=True) for row in rows)
    return "".join(f"{json.dumps(dict(each), ensure_ascii=False)}\n" for each in found).encode()
