"""The exchange's public archive of past open interest: paths of its files, and their decoding.

The rule of this file: it does no I/O, and it does not trust the bytes of a file. A row is *odd* if
it has an error, or contradicts an earlier row. An odd row never spoils the others. A number keeps
the digits that the archive has. Marks: [D] documented by the exchange, [O] observed live, with the
month.

A file has the rows of one symbol and one day, one row for every 5 minutes [O 2026-11]. Files have
these irregularities [O 2026-11]:

    the file of 2020-09-01 has each row twice
    the rows of 2024-08-08 are not in the order of time
    some days begin at 00:00 and end at 23:55; others begin at 00:05 and end at the next midnight
    ratios may be blank
    during outages of the exchange, open interest is 0, negative or blank
    some rows are missing, and so are the files of some days
    the exchange replaces files with others of the same name and different content
"""

import io
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from urllib.parse import quote

from binance_oi.errors import DecodeError, printable
from binance_oi.exchange.hosts import source_name

PUBLIC_ARCHIVE = "https://data.binance.vision"  # [O] 2026-11; no key, no limit known
STEP_MS = 300_000  # ms from one row to the next
DAY_MS = 86_400_000  # ms
MAX_CHECKSUM = 4096  # bytes; a real one has about 100
MAX_ZIP = 1024 * 1024  # bytes; a real one has about 10,000
MAX_TEXT = 4 * 1024 * 1024  # bytes, unpacked; a real one has about 45,000
MAX_NAMED = 8  # odd rows of one file that we quote; we only count the others

TIME, SYMBOL = "create_time", "symbol"
VALUE, NOTIONAL = "sum_open_interest", "sum_open_interest_value"
COLUMNS = (TIME, SYMBOL, VALUE, NOTIONAL)  # the first columns of each file, in this order

# Only for these two methods does `zipfile` limit the memory that unpacking takes.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CHECKSUM = re.compile(rb"\s*([0-9a-fA-F]{64})(?:\s|\Z)")
_NUMBER = re.compile(r"[0-9]{1,30}(?:\.[0-9]{1,30})?", re.ASCII)
_SIGNED = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?", re.ASCII)
_TIME_OF_DAY = {
    f"{minute // 60:02d}:{minute % 60:02d}:00": minute * 60_000 for minute in range(0, 1440, 5)
}
_MIDNIGHT = "00:00:00"
_AROUND_CELLS = ('"', ", ", " ,", "\t")


@dataclass(slots=True)
class MetricsFile:
    """The content of one file."""

    rows: dict[int, tuple[str, str | None]] = field(
        default_factory=dict[int, tuple[str, str | None]]
    )
    """Open interest and notional by instant (Unix ms), in the order of time.

    Both keep the digits of the file. The notional is None unless the row has one above 0. The last
    instant may be the next midnight."""
    blank: set[int] = field(default_factory=set[int])
    """Instants (Unix ms) whose only rows have no open interest above 0."""
    repeated: int = 0
    """The number of rows left out because the previous row of their instant has the same values."""
    odd_rows: list[str] = field(default_factory=list[str])
    """The first `MAX_NAMED` odd rows, each with the reason why it is odd."""
    odd: int = 0
    """The number of all odd rows."""


def metrics_path(symbol: str, day: date) -> str:
    """The path of a file below the archive's URL. For its checksum, append ``.CHECKSUM``."""
    name = quote(symbol)
    return f"/data/futures/um/daily/metrics/{name}/{name}-metrics-{day.isoformat()}.zip"


def archive_of(base_url: str) -> str:
    """The archive's URL for an exchange at `base_url`. A local exchange is its own archive."""
    return base_url if source_name(base_url) == "local" else PUBLIC_ARCHIVE


def midnight_ms(day: date) -> int:
    """The first instant of a day, Unix ms."""
    return round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def decode_checksum(body: bytes) -> str:
    """The SHA-256 in a checksum file, in lower-case hexadecimal digits.

    Raises:
        DecodeError: The file has no SHA-256 at its beginning.
    """
    match = _CHECKSUM.match(body)
    if match is None:
        raise DecodeError(
            f"the file has no SHA-256: {printable(body[:80].decode('ascii', 'replace'))}"
        )
    return match[1].decode().lower()


def unzip(data: bytes, name: str) -> bytes:
    """Unpack the CSV text in a zip file; never hold more than `MAX_TEXT` + 1 bytes of the text.

    Args:
        data: The content of the zip file.
        name: The name of the zip file, which ends in ``.zip``. If the zip file has several texts,
            we unpack the text of the same name with ``.csv`` in place of ``.zip``.

    Raises:
        DecodeError: `data` cannot be unpacked, or has no CSV text, or has several texts and not
            exactly one of them has that name. Or the text exceeds `MAX_TEXT` bytes.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            texts = [each for each in packed.infolist() if each.filename.endswith(".csv")]
            named = [each for each in texts if each.filename == name.removesuffix(".zip") + ".csv"]
            if len(named or texts) != 1:
                raise DecodeError(f"{name} has {len(texts)} CSV texts instead of one")
            (text,) = named or texts
            if text.compress_type not in _METHODS:
                raise DecodeError(f"{name} is packed by an unknown method ({text.compress_type})")
            with packed.open(text) as file:
                body = file.read(MAX_TEXT + 1)
    except DecodeError:
        raise
    # A hostile file can make `zipfile` raise nearly any error, such as `struct.error`.
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        raise DecodeError(f"{name} cannot be unpacked: {printable(str(error))}") from error
    except Exception as error:
        raise DecodeError(f"{name} cannot be unpacked: {type(error).__name__}") from error
    if len(body) > MAX_TEXT:
        raise DecodeError(f"{name} unpacks to more than {MAX_TEXT:,} bytes")
    return body


def decode_metrics(body: bytes, symbol: str, day: date) -> MetricsFile:
    """Decode the text of one day.

    The rows may be in any order, and may repeat. If several rows with open interest above 0 have
    the same instant, the result has the last of them. A row counts as odd if the previous row of
    its instant has other values.

    Args:
        body: CSV, with or without a header. It may have more columns than `COLUMNS`.
        symbol: The symbol of the file. A row of another symbol is odd.
        day: The day of the file. The time of a row must be a multiple of 5 minutes on this day, or
            the next midnight; any other row is odd.

    Raises:
        DecodeError: The text has a header that lacks the column for time or for open interest.
    """
    text = body.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")
    columns, lines = _columns(text.split("\n"))
    reader = _Reader(symbol, day, columns)
    is_plain = not any(mark in text for mark in _AROUND_CELLS)
    for line in lines:
        if line and not line.isspace():
            cells = line.split(",")
            reader.add(line, cells if is_plain else [*map(_unquoted, cells)])
    return reader.finish()


def _columns(lines: Sequence[str]) -> tuple[Mapping[str, int], Sequence[str]]:
    """The index of each known column, and the lines without the header."""
    usual = {name: place for place, name in enumerate(COLUMNS)}
    if not lines:
        return usual, lines
    names = [_unquoted(name).lower() for name in lines[0].split(",")]
    if not {*names} & {*COLUMNS}:  # no header, as in some other archives of the exchange
        return usual, lines
    found = {name: names.index(name) for name in COLUMNS if name in names}
    missing = [name for name in (TIME, VALUE) if name not in found]
    if missing:
        raise DecodeError(f"the header lacks {' and '.join(missing)}: {printable(lines[0])}")
    return found, lines[1:]


def _unquoted(text: str) -> str:
    return text.strip().strip('"').strip()


class _Reader:
    """Decodes the lines of one file into a `MetricsFile`."""

    def __init__(self, symbol: str, day: date, columns: Mapping[str, int]) -> None:
        self._symbol, self._date = symbol, f"{day.isoformat()} "
        self._midnight = midnight_ms(day)
        self._next = datetime.fromtimestamp((self._midnight + DAY_MS) / 1000, UTC)
        self._last = f"{self._next:%Y-%m-%d} {_MIDNIGHT}"
        self._time, self._value = columns[TIME], columns[VALUE]
        self._name, self._notional = columns.get(SYMBOL), columns.get(NOTIONAL)
        self._found = MetricsFile()

    def finish(self) -> MetricsFile:
        """Return the decoded file, with its rows sorted by time."""
        found = self._found
        found.rows = {time: found.rows[time] for time in sorted(found.rows)}
        found.blank -= found.rows.keys()
        return found

    def add(self, line: str, cells: Sequence[str]) -> None:
        """Decode one line, which has these cells."""
        if len(cells) <= max(self._time, self._value):
            self._note_odd(line, "it is cut off")
            return
        time = self._instant(cells[self._time])
        if time is None:
            self._note_odd(line, "its time is not a 5-minute step of this day")
        elif self._name is not None and not self._is_ours(cells):
            self._note_odd(line, "it is of another symbol")
        else:
            self._take(line, time, cells)

    def _instant(self, text: str) -> int | None:
        if text.startswith(self._date):
            time = _TIME_OF_DAY.get(text[len(self._date) :])
            return None if time is None else self._midnight + time
        return self._midnight + DAY_MS if text == self._last else None

    def _is_ours(self, cells: Sequence[str]) -> bool:
        assert self._name is not None
        return self._name < len(cells) and cells[self._name] == self._symbol

    def _take(self, line: str, time: int, cells: Sequence[str]) -> None:
        value, found = cells[self._value], self._found
        if _is_above_0(value):
            row = value, self._notional_of(cells)
            before = found.rows.get(time)
            if before == row:
                found.repeated += 1
            elif before is not None:
                self._note_odd(line, f"another row of this instant has {before[0]}")
            found.rows[time] = row
            return
        if value and _SIGNED.fullmatch(value) is None:
            self._note_odd(line, "its open interest is not a number")
        found.blank.add(time)

    def _notional_of(self, cells: Sequence[str]) -> str | None:
        if self._notional is None or self._notional >= len(cells):
            return None
        text = cells[self._notional]
        return text if _is_above_0(text) else None

    def _note_odd(self, line: str, why: str) -> None:
        found = self._found
        found.odd += 1
        if len(found.odd_rows) < MAX_NAMED:
            found.odd_rows.append(f"{printable(line, 60)} ({why})")


def _is_above_0(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and text.strip("0.") != ""
