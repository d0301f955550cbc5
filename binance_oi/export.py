"""Recordings as Parquet, CSV and JSON Lines.

The rule of this file: a number leaves as the exchange wrote it, in text digit by digit and in
Parquet as a decimal of the same value; and a file appears under its name when it is whole, so an
export that was interrupted leaves what was there before.
"""

import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from binance_oi import arrow
from binance_oi.errors import RecordingError
from binance_oi.recorder import Recording, Samples

DAY_MS = 86_400_000
CSV_HEADER = "symbol,time,open_interest,received,mark_price\n"

Progress = Callable[[int], object]
Writer = Callable[[Iterator[arrow.Batch], Path, Progress], int]


def export(
    recording: Recording,
    target: str | Path,
    *,
    symbols: Iterable[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    on_rows: Progress | None = None,
) -> int:
    """Write recorded samples, sorted by symbol and time.

    Args:
        recording: Where they are.
        target: A file whose name ends in ``.parquet``, ``.csv`` or ``.jsonl``; or a directory,
            which gets Parquet by day: ``date=2026-11-23/open_interest.parquet``. It is made, unless
            its name has another ending: that is taken for a mistake. A file's directory is not.
        symbols: None takes all.
        since: The earliest transaction time (aware).
        until: Before this one (aware).
        on_rows: Called with the number of rows written since the last call.

    Returns:
        How many rows were written; 0 writes nothing.

    Raises:
        RecordingError: One of the symbols was never recorded, or the target cannot be written or
            is the recording.
        ModuleNotFoundError: Parquet without pyarrow; it comes with the extra `parquet`.
        ValueError: A moment without a time zone, or a number that Parquet's decimal cannot hold.
    """
    path = Path(target)
    recording.check_target(path)
    samples = recording.samples(symbols, since=since, until=until)
    tell = on_rows or _tell_nobody
    write = None if path.is_dir() else WRITERS.get(path.suffix.lower())
    with writing(path):
        if write is not None:
            return _write_if_any(write, samples, path, tell)
        if not path.is_dir() and (path.suffix or path.exists()):
            raise RecordingError(f"{path}: a file's name ends in {', '.join(WRITERS)}")
        return sum(_write_day(*day, tell) for day in _days(samples, path))


@contextmanager
def writing(target: Path) -> Generator[None]:
    """What the disk refuses is told as an error of ours, by the name of what was asked for."""
    try:
        yield
    except OSError as error:
        raise RecordingError(f"{target} cannot be written: {error.strerror or error}") from error


def _write_if_any(write: Writer, samples: Samples, path: Path, tell: Progress) -> int:
    batches = samples.batches()
    first = next(batches, None)
    if first is None:
        return 0

    def all_of_them() -> Iterator[arrow.Batch]:
        yield first
        yield from batches

    with whole(path) as unfinished:
        return write(all_of_them(), unfinished, tell)


def _write_day(samples: Samples, path: Path, tell: Progress) -> int:
    if samples.span() is None:
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    return _write_if_any(arrow.write_parquet, samples, path, tell)


@contextmanager
def whole(path: Path) -> Generator[Path]:
    """A name to write under; the file gets its own when the block is through, and not before."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()


def _days(samples: Samples, directory: Path) -> Iterator[tuple[Samples, Path]]:
    """The samples of each day (UTC), and the file for them."""
    span = samples.span()
    if span is None:
        return
    first, last = (at // DAY_MS for at in span)
    for day in range(first, last + 1):
        date = datetime.fromtimestamp(day * DAY_MS / 1000, UTC).date()
        part = samples.between(day * DAY_MS, (day + 1) * DAY_MS)
        yield part, directory / f"date={date}" / "open_interest.parquet"


def _csv(batches: Iterator[arrow.Batch], path: Path, tell: Progress) -> int:
    def line(symbol: str, time: int, value: str, received: int, mark: str | None) -> str:
        return f"{symbol},{iso(time)},{value},{iso(received)},{mark or ''}\n"

    return _text(batches, path, tell, line, CSV_HEADER)


def _json_lines(batches: Iterator[arrow.Batch], path: Path, tell: Progress) -> int:
    def line(symbol: str, time: int, value: str, received: int, mark: str | None) -> str:
        price = "null" if mark is None else f'"{mark}"'
        return (
            f'{{"symbol": {json.dumps(symbol, ensure_ascii=False)}, "time": "{iso(time)}", '
            f'"open_interest": "{value}", "received": "{iso(received)}", "mark_price": {price}}}\n'
        )

    return _text(batches, path, tell, line, "")


def _text(
    batches: Iterator[arrow.Batch],
    path: Path,
    tell: Progress,
    line: Callable[[str, int, str, int, str | None], str],
    header: str,
) -> int:
    rows = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(header)
        for batch in batches:
            file.writelines(map(line, *batch))
            rows += len(batch.symbol)
            tell(len(batch.symbol))
    return rows


def iso(unix_ms: int) -> str:
    """A time in Unix ms as ISO 8601 with a Z."""
    moment = datetime.fromtimestamp(unix_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{unix_ms % 1000:03d}Z"


WRITERS: dict[str, Writer] = {
    ".parquet": arrow.write_parquet,
    ".csv": _csv,
    ".jsonl": _json_lines,
}


def _tell_nobody(_: int) -> None:
    pass
