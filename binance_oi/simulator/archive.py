"""Makes the public archive of a local exchange: files with the faults that real files have.

The rule of this file: a file depends only on the symbol's history, the seed, the shares of faults,
the day and the edition. The edition grows by 1 each time the day is published again. Each value is
that of the history at its instant, unless a fault replaces the value. So the archive, the history
and the live values agree.
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from random import Random
from typing import NamedTuple
from urllib.parse import unquote

from aiohttp import web

from binance_oi.simulator.history import LATE_MS, History, Row
from binance_oi.simulator.universe import DAY_MS

ARCHIVE = "/data/futures/um/daily/metrics/"  # the archive's path below the URL of an exchange
CHECKSUM = ".CHECKSUM"
STEP_MS = 300_000
KEPT_FILES = 16  # files of a symbol in memory, because a client requests the checksum separately
# The archive has BTCUSDT from 2020-09-01, most others from 2021-12-01 (seen 2026-11).
_BEGINS = {"BTCUSDT": date(2020, 9, 1)}
_OTHERS_BEGIN = date(2021, 12, 1)
_HEADER = (
    "create_time,symbol,sum_open_interest,sum_open_interest_value,"
    "count_toptrader_long_short_ratio,sum_toptrader_long_short_ratio,"
    "count_long_short_ratio,sum_taker_long_short_vol_ratio"
)
_NAME = re.compile(r"(?P<symbol>[^/]+)/(?P=symbol)-metrics-(?P<day>\d{4}-\d{2}-\d{2})\.zip")
_EPOCH_OF_ZIP = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Files:
    """The faults of files: the share of days, or of rows, that have each fault.

    Source: every fault was seen in real files (2026-11); the shares are made up.
    """

    late_begin: float = 0.3
    """Days that begin at 00:05, and end at 00:00 of the next day."""
    doubled: float = 0.03
    """Days that have every row twice."""
    shuffled: float = 0.05
    """Days whose rows come out of order."""
    missing_day: float = 0.02
    """Days without a file."""
    missing_row: float = 0.003
    """Rows that are missing."""
    no_value: float = 0.003
    """Rows whose open interest is blank, 0 or negative."""
    blank_ratios: float = 0.01
    """Rows with blank ratios."""


class Published(NamedTuple):
    """A file, and the rows that it contains."""

    data: bytes
    rows: list[Row]
    """Rows with open interest, each once, in the order of time."""


class _Asked(NamedTuple):
    symbol: str
    day: date
    is_checksum: bool


class PublicArchive:
    """The files of one symbol.

    Args:
        seed: the seed of all random choices.
        name: the symbol.
        history: the past of the symbol.
        files: how reliable a file is.
    """

    def __init__(self, seed: int, name: str, history: History, files: Files) -> None:
        self._seed = f"{seed}/{name}/archive"
        self._name = name
        self._history = history
        self._files = files
        self._editions: dict[date, int] = {}
        self._made: dict[tuple[date, int], Published | None] = {}  # the latest few

    def __repr__(self) -> str:
        return f"<PublicArchive {self._name}>"

    def republish(self, day: date) -> None:
        """Publish a day again, with other faults; if its file was missing, it now has one."""
        self._editions[day] = self._editions.get(day, 0) + 1

    def file(self, day: date, now: int) -> Published | None:
        """The file of a day as it is at `now` (Unix ms); None if there is none."""
        midnight = _midnight_ms(day)
        begins = _BEGINS.get(self._name, _OTHERS_BEGIN)
        edition = self._editions.get(day, 0)
        if day < begins or now < midnight + DAY_MS + LATE_MS:
            return None
        key = day, edition
        if key not in self._made:
            if len(self._made) == KEPT_FILES:
                del self._made[next(iter(self._made))]
            self._made[key] = self._publish(day, midnight, edition)
        return self._made[key]

    def _publish(self, day: date, midnight: int, edition: int) -> Published | None:
        draw = Random(f"{self._seed}/{day}/{edition}")
        is_missing = draw.random() < self._files.missing_day and not edition
        late = STEP_MS if draw.random() < self._files.late_begin else 0
        rows = self._history.rows_between(midnight + late, midnight + late + DAY_MS - STEP_MS)
        if is_missing or not rows:  # no rows: the symbol was not listed, or had no session
            return None
        return self._written(day, rows, draw, edition)

    def _written(self, day: date, rows: Sequence[Row], draw: Random, edition: int) -> Published:
        shares, lines, good = self._files, list[str](), list[Row]()
        for row in rows:
            if draw.random() >= shares.missing_row:
                has_value = draw.random() >= shares.no_value
                good += [row] * has_value
                lines.append(self._line(row, draw, edition, has_value=has_value))
        if draw.random() < shares.doubled:
            lines = [line for line in lines for _ in range(2)]
        if draw.random() < shares.shuffled:
            draw.shuffle(lines)
        return Published(_packed(f"{self._name}-metrics-{day}.csv", lines), good)

    def _line(self, row: Row, draw: Random, edition: int, *, has_value: bool) -> str:
        value = f"{row.open_interest}00000000"  # 16 digits after the point, as in real files
        if not has_value:
            value = draw.choice(["", "0.0000000000000000", "-1.0000000000000000"])
        ratios = f"{1.5 + edition / 8:.8f},1.40000000,1.67633929,0.95000000"
        if draw.random() < self._files.blank_ratios:
            ratios = ",,,"
        at = datetime.fromtimestamp(row.time / 1000, UTC)
        return f"{at:%Y-%m-%d %H:%M:%S},{self._name},{value},{row.value},{ratios}"


class Archives:
    """The files of every symbol.

    Args:
        seed: the seed of all random choices.
        history: returns the past of a symbol; raises `KeyError` if the symbol is not listed.
        files: how reliable a file is.
    """

    def __init__(self, seed: int, history: Callable[[str], History], files: Files) -> None:
        self._seed, self._history, self._files = seed, history, files
        self._made: dict[str, PublicArchive] = {}

    def of(self, name: str) -> PublicArchive:
        """The files of a symbol.

        Raises:
            KeyError: the symbol is not listed.
        """
        if name not in self._made:
            history = self._history(name)
            self._made[name] = PublicArchive(self._seed, name, history, self._files)
        return self._made[name]

    def republish(self, symbol: str, day: str) -> None:
        """Publish a day again.

        Raises:
            ValueError: the symbol is not listed, or there is no such day.
        """
        try:
            self.of(symbol).republish(date.fromisoformat(day))
        except KeyError:
            raise ValueError(f"{symbol!r} is not listed") from None

    def answer(self, target: str, now: float) -> web.Response:
        """The content at a path: a file or its checksum; status 404 if there is none."""
        asked = _asked_for(target)
        try:
            found = asked and self.of(asked.symbol).file(asked.day, int(now * 1000))
        except KeyError:
            found = None
        if not asked or not found:
            text = "<Error><Code>NoSuchKey</Code></Error>"
            return web.Response(status=404, text=text, content_type="application/xml")
        body = found.data
        if asked.is_checksum:
            digest = hashlib.sha256(body).hexdigest()
            body = f"{digest}  {asked.symbol}-metrics-{asked.day}.zip\n".encode()
        return web.Response(body=body, content_type="application/octet-stream")


def _midnight_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def _packed(name: str, lines: Sequence[str]) -> bytes:
    """A zip file that is the same for the same lines."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        text = "\n".join([_HEADER, *lines, ""])
        packed.writestr(zipfile.ZipInfo(name, _EPOCH_OF_ZIP), text, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _asked_for(target: str) -> _Asked | None:
    """The file that a path names."""
    path = target.removeprefix(ARCHIVE).partition("?")[0]
    match = _NAME.fullmatch(unquote(path).removesuffix(CHECKSUM))
    if match is None:
        return None
    try:
        day = date.fromisoformat(match["day"])
    except ValueError:
        return None
    return _Asked(match["symbol"], day, path.endswith(CHECKSUM))
