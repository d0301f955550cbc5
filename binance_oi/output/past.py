"""Writes the history of many symbols into one file, which may take several runs.

The rule of this file: as soon as a symbol is complete, it is stored in the part file. The part file
is beside the target, and has the target's name with ``.part`` at the end. It has one line with the
request, and then one line for each symbol. `PastFile.finish` writes the target. A killed process
leaves complete lines and at most one incomplete line, which the next run removes.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, Final

try:
    import fcntl
except ImportError:  # not POSIX: two processes may write into one file
    fcntl = None  # type: ignore[assignment]

from binance_oi.errors import REPLACES_IT, RecordingError
from binance_oi.market.arrow import PastColumns, write_past
from binance_oi.market.past import History
from binance_oi.market.rows import OddRows, PastRow, past_row
from binance_oi.output.cells import quoted
from binance_oi.recorder.atomic import check_place, replace_atomically, translate_write_errors
from binance_oi.times import instant, iso_ms, unix_ms

FORMAT: Final = 1
PART: Final = ".part"
CSV_HEADER = "symbol,time,open_interest,notional,circulating_supply\n"
ENDINGS = (".parquet", ".csv", ".jsonl")


class PastFile:
    """A file that gets the history of symbols, one after the other.

    Args:
        target: The file; its name ends in ``.parquet``, ``.csv`` or ``.jsonl``.
        asked: The request as text. A run continues an earlier one only if their requests are equal.
        replace: Replace an existing file of that name, and start a new run.
        csv_safe: In CSV, put an apostrophe before a symbol that begins like a formula.

    Raises:
        RecordingError: The file exists already, cannot be written, or has another ending; or
            another run is writing it; or the earlier run had another request.
    """

    def __init__(
        self,
        target: Path,
        asked: Mapping[str, object],
        *,
        replace: bool = False,
        csv_safe: bool = False,
    ) -> None:
        if target.suffix.lower() not in ENDINGS:
            raise RecordingError(f"{target}: a file's name must end in one of {', '.join(ENDINGS)}")
        check_place(target)
        if target.exists() and not replace:
            raise RecordingError(f"{target} already exists; {REPLACES_IT}")
        self._target, self._asked, self._csv_safe = target, dict(asked), csv_safe
        self._path = target.with_name(target.name + PART)
        self.since: datetime | None = None
        """The first instant of the run, or of the earlier run that it continues; None before the
        first symbol."""
        self.until: datetime | None = None
        """The last instant of the same run; None before the first symbol."""
        self._places: list[tuple[str, int]] = []  # the offset of each symbol's line
        with translate_write_errors(self._path):
            self._file: BinaryIO = self._path.open("a+b")
        try:
            with translate_write_errors(self._path):
                self._lock()
                if replace:
                    self._file.truncate(0)
                self._read()
        except BaseException:
            self._file.close()
            raise

    @property
    def symbols(self) -> frozenset[str]:
        """The complete symbols."""
        return frozenset(symbol for symbol, _ in self._places)

    def add(self, found: History) -> None:
        """Store one complete symbol.

        Raises:
            RecordingError: The file cannot be written.
        """
        with translate_write_errors(self._path):
            if self.since is None:
                self.since, self.until = found.since, found.until
                ends = {"since": unix_ms(found.since), "until": unix_ms(found.until)}
                self._append({"format": FORMAT, "asked": self._asked} | ends)
            place = self._file.tell()
            rows = [past_row(row)[1:] for row in found]
            self._append({"symbol": found.symbol, "rows": rows})
        self._places.append((found.symbol, place))

    def finish(self) -> int:
        """Write the file, sorted by symbol and time; return the number of its rows.

        Raises:
            RecordingError: The file cannot be written.
            ModuleNotFoundError: A Parquet file needs pyarrow, which the extra `parquet` installs.
        """
        columns, count, odd = PastColumns(), 0, OddRows()
        for rows in self._blocks():
            columns, count = columns.widened(rows), count + len(rows)
        with translate_write_errors(self._target), replace_atomically(self._target) as file:
            match self._target.suffix.lower():
                case ".parquet":
                    write_past(self._blocks(), file, columns, odd)
                case ".csv":
                    file.write(CSV_HEADER.encode())
                    file.writelines(_csv(rows, self._csv_safe) for rows in self._blocks())
                case _:
                    file.writelines(_json(rows) for rows in self._blocks())
        odd.warn(self._target)
        self.close()
        with suppress(OSError):
            self._path.unlink()
        return count - odd.count

    def close(self) -> None:
        """Close the file. The complete symbols stay for the next run."""
        with suppress(OSError):
            self._file.close()
            if not self._places and self._path.stat().st_size == 0:
                self._path.unlink()

    def _blocks(self) -> Iterator[list[PastRow]]:
        """Yield the rows of each symbol that has rows, sorted by symbol."""
        for symbol, places in groupby(sorted(self._places), itemgetter(0)):
            rows: dict[int, PastRow] = {}
            for _, place in places:
                self._file.seek(place)
                found = json.loads(self._file.readline())["rows"]
                rows |= {row[0]: (symbol, *row) for row in found}
            if rows:
                yield list(rows.values())

    def _append(self, line: object) -> None:
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        self._file.write(text.encode() + b"\n")
        self._file.flush()

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordingError(f"{self._target} is written by another process") from None

    def _read(self) -> None:
        """Read the symbols of an earlier run, and remove an incomplete last line."""
        self._file.seek(0)
        end = 0
        for line in iter(self._file.readline, b""):
            found = _line(line)
            if found is None:
                break
            if end:
                self._places.append((found["symbol"], end))
            else:
                self._begin(found)
            end += len(line)
        self._file.truncate(end)
        self._file.seek(end)

    def _begin(self, found: dict[str, Any]) -> None:
        """Continue the run that wrote this first line."""
        if found.get("format") != FORMAT or found.get("asked") != self._asked:
            raise RecordingError(
                f"{self._path} belongs to a run with another request; remove it, or use --replace"
            )
        self.since, self.until = instant(found["since"]), instant(found["until"])


def _line(line: bytes) -> dict[str, Any] | None:
    """Parse a line; None if it is incomplete or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        found: Any = json.loads(line)
        return found if "format" in found or "symbol" in found else None
    except (ValueError, RecursionError, TypeError):
        return None


def _csv(rows: Iterable[PastRow], is_safe: bool) -> bytes:
    shown: Callable[[str], str] = quoted if is_safe else str
    lines = (
        f"{shown(symbol)},{iso_ms(time)},{value},{notional},{supply or ''}\n"
        for symbol, time, value, notional, supply in rows
    )
    return "".join(lines).encode()


def _json(rows: Iterable[PastRow]) -> bytes:
    lines = (
        f'{{"symbol": {json.dumps(symbol, ensure_ascii=False)}, "time": "{iso_ms(time)}", '
        f'"open_interest": "{value}", "notional": "{notional}", '
        f'"circulating_supply": {json.dumps(supply)}}}\n'
        for symbol, time, value, notional, supply in rows
    )
    return "".join(lines).encode()
