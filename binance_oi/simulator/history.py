"""Makes open interest of the past: which rows exist, and which of them a page contains.

The rule of this file: a row depends only on seed, symbol, time and the commands of a test. A
row has the latest value at or before its instant. A live answer shows the same value, but some
seconds after the instant. Time is an argument, in Unix ms by the exchange's
clock.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import NamedTuple
from urllib.parse import parse_qsl

from binance_oi.simulator.market import Market
from binance_oi.simulator.universe import DAY_MS, Symbol

OPEN_INTEREST_HISTORY = "/futures/data/openInterestHist"
PREFIX = "/futures/data/"  # all paths below it share a limit of 1000 requests in 5 minutes
PERIODS_MS = {  # documented 2026-11
    "5m": 300_000,
    "15m": 900_000,
    "30m": 1_800_000,
    "1h": 3_600_000,
    "2h": 7_200_000,
    "4h": 14_400_000,
    "6h": 21_600_000,
    "12h": 43_200_000,
    "1d": DAY_MS,
}
MOST, DEFAULT = 500, 30  # rows of a page, documented 2026-11
KEPT_MS = 30 * DAY_MS  # 30 days back are served, 35 are not (seen 2026-07 to 09)
LATE_MS = 6_200  # ms from a row's instant to its appearance (seen 2026-09-12)
WEEK_MS, MONDAY_MS = 7 * DAY_MS, 4 * DAY_MS  # ms; the second is the first Monday of 1970
QUIET_ONE_IN = 400  # one of this many half hours has no trade, and so no row
STRETCH_MS = 1_800_000
_DIGITS = re.compile("[0-9]{1,15}", re.ASCII)


class BadParameterError(Exception):
    """The exchange refuses a parameter; `code` and `message` are those of its answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Row(NamedTuple):
    """One row, as the exchange writes it."""

    time: int
    """Unix ms."""
    open_interest: str
    value: str
    """The value in the quote asset."""


@dataclass(frozen=True, slots=True)
class Pages:
    """The faults of pages.

    Source: a page may have rows outside the requested span (observed). Numbers are texts, and times
    are numbers (observed) or texts (documented).
    """

    stray_share: float = 0.05
    """Share of pages with a row too many, just before or after the others."""
    repeated_share: float = 0.0
    """Share of pages in which a row occurs twice."""
    newest_first: bool = False
    """Whether the rows are in descending order."""
    times_as_text: bool = False
    """Whether a time is written as a text."""


class Question(NamedTuple):
    """The parameters of a request; times in Unix ms, None for a missing bound."""

    symbol: str
    period: str
    limit: int
    start: int | None
    end: int | None

    @classmethod
    def of(cls, query: str, now: int) -> "Question":
        """Read the question from a query string.

        Raises:
            BadParameterError: a parameter is missing or not valid, or `startTime` is earlier than
                the rows that the exchange keeps.
        """
        try:
            sent = dict(parse_qsl(query, keep_blank_values=True, errors="strict"))
        except UnicodeDecodeError:
            raise BadParameterError(-1100, "Illegal characters found in a parameter.") from None
        for name in ("symbol", "period"):
            if not sent.get(name):
                raise BadParameterError(
                    -1102,
                    f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.",
                )
        if sent["period"] not in PERIODS_MS:
            raise _invalid("period")
        limit = _number(sent, "limit")
        if limit is not None and not 1 <= limit <= MOST:
            raise _invalid("limit")
        start, end = _number(sent, "startTime"), _number(sent, "endTime")
        if start is not None and start < now - KEPT_MS:
            raise _invalid("startTime")
        if start is not None and end is not None and end < start:
            raise _invalid("endTime")
        return cls(sent["symbol"], sent["period"], DEFAULT if limit is None else limit, start, end)


def _number(sent: Mapping[str, str], name: str) -> int | None:
    text = sent.get(name)
    if text is None:
        return None
    if not _DIGITS.fullmatch(text):
        raise _invalid(name)
    return int(text)


def _invalid(name: str) -> BadParameterError:
    return BadParameterError(-1130, f"parameter '{name}' is invalid.")


class History:
    """The past of one contract.

    Args:
        seed: the seed of everything random.
        symbol: the contract.
        market: the live values of the contract.
        pages: how reliable a page is.
    """

    def __init__(self, seed: int, symbol: Symbol, market: Market, pages: Pages) -> None:
        self._seed = f"{seed}/{symbol.name}/history"
        self._name = symbol.name
        self._onboard_ms = symbol.onboard_ms
        self._has_sessions = symbol.contract_type == "TRADIFI_PERPETUAL"
        self._market = market
        self._pages = pages
        self._salt = Random(self._seed).getrandbits(32)
        self._tail = f'","CMCCirculatingSupply":"{1_000_000 + self._salt % 9_000_000}.50000000",'

    def __repr__(self) -> str:
        return f"<History {self._name}>"

    def rows(self, period: str, first: int, last: int, now: int) -> list[Row]:
        """Every row from `first` to `last`, both included, that the exchange serves at `now`."""
        return self.rows_between(max(first, now - KEPT_MS), min(last, now - LATE_MS), period)

    def rows_between(self, first: int, last: int, period: str = "5m") -> list[Row]:
        """Every row from `first` to `last`, both included, however long ago."""
        step = PERIODS_MS[period]
        return [
            self._row(time)
            for time in range(-(-first // step) * step, last + 1, step)
            if self._has_row(time)
        ]

    def page(self, asked: Question, now: int) -> bytes:
        """The body of an answer: the newest rows up to the end, or with only a start, the first."""
        start = 0 if asked.start is None else asked.start
        end = now if asked.end is None else asked.end
        rows = self.rows(asked.period, start, end, now)
        is_from_start = asked.start is not None and asked.end is None
        rows = rows[: asked.limit] if is_from_start else rows[-asked.limit :]
        return b"[" + b",".join(map(self._written, self._disturbed(rows, asked, now))) + b"]"

    def _disturbed(self, rows: list[Row], asked: Question, now: int) -> list[Row]:
        """The rows as an unreliable page has them: in another order, or with additional ones."""
        pages = self._pages
        draw = Random(f"{self._seed}/{asked.start}/{asked.end}")
        if rows and draw.random() < pages.stray_share:
            step = PERIODS_MS[asked.period]
            before, after = rows[0].time - step, rows[-1].time + step
            outside = before if draw.random() < 0.5 else after
            rows = sorted([*rows, *self.rows(asked.period, outside, outside, now)])
        if rows and draw.random() < pages.repeated_share:
            rows = sorted([*rows, draw.choice(rows)])
        return rows[::-1] if pages.newest_first else rows

    def _written(self, row: Row) -> bytes:
        time = f'"{row.time}"' if self._pages.times_as_text else row.time
        return (
            f'{{"symbol":"{self._name}","sumOpenInterest":"{row.open_interest}",'
            f'"sumOpenInterestValue":"{row.value}{self._tail}"timestamp":{time}}}'
        ).encode()

    def _row(self, time: int) -> Row:
        moment = time / 1000
        value = Decimal(self._market.open_interest_at(moment))
        notional = value * Decimal(self._market.mark_price_text(moment))
        return Row(time, f"{value:.8f}", f"{notional:.8f}")

    def _has_row(self, time: int) -> bool:
        """Whether there was a trade: after the listing, in a session, outside quiet half hours."""
        if time < self._onboard_ms:
            return False
        if self._has_sessions and (time - MONDAY_MS) % WEEK_MS >= 5 * DAY_MS:
            return False
        stretch = time // STRETCH_MS
        mixed = (stretch * 2_654_435_761 ^ self._salt) * 2_246_822_519 & 0xFFFF_FFFF
        return (mixed >> 8) % QUIET_ONE_IN != 0
