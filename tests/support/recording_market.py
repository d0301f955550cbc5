"""A market for a recorder in virtual time, and what the recorder has stored.

Rule of this file: sweeps take no time, and the test decides which of them fail. A separate
connection reads the recording.
"""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from binance_oi import BannedError, OpenInterest, ServerError, Snapshot
from binance_oi.recorder import Recording
from binance_oi.recorder.address import is_database
from support.recording_process import NAMES, Reader
from support.virtual_clock import wall_time


class Market(Reader):
    """A market whose sweeps take no time; a test chooses those that fail."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: dict[int, str] = {}  # number of the sweep -> the symbol that fails, or "*"
        self.number = 0

    async def snapshot(self, symbols: object = None, **_: object) -> Snapshot:
        failing, self.number = self.failing.get(self.number, ""), self.number + 1
        now = datetime.fromtimestamp(wall_time(), UTC)
        error = (
            BannedError(418, -1003, "banned", now) if failing == "*" else ServerError(503, 0, "")
        )
        names = [n for n in NAMES[:3] if failing not in ("*", n)]
        ms = round(wall_time() * 1000)
        return Snapshot(
            values_by_symbol={n: OpenInterest(n, Decimal("0.00000010"), ms) for n in names},
            errors={n: error for n in NAMES[:3] if n not in names},
            started=now,
            finished=now,
            weight=3,
        )


def tables(place: Path | str) -> tuple[list[int], list[tuple[str, int, int, str]], int]:
    """Slots with a sweep, gaps as (symbol, first, last, reason), and the number of samples."""
    if is_database(place):
        return _database_tables(place)
    path = Path(place)
    with closing(sqlite3.connect(path)) as connection:
        slots = [s for (s,) in connection.execute("SELECT slot FROM sweeps ORDER BY slot")]
        gaps = connection.execute("SELECT symbol, first, last, reason FROM gaps").fetchall()
        return slots, gaps, connection.execute("SELECT count(*) FROM samples").fetchone()[0]


def _database_tables(url: str) -> tuple[list[int], list[tuple[str, int, int, str]], int]:
    with Recording(url) as recording:
        gaps = [
            (name, gap.first, gap.last, gap.reason)
            for name in ("", *NAMES[:3])
            for gap in recording.gaps(name)
        ]
        slots = [sweep.slot for sweep in recording.sweeps()]
        return slots, sorted(gaps), recording.samples().count()
