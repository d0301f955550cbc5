"""Answers questions about the past of a symbol, from a recording or from the exchange.

The rule of this file: an answer needs at most a few requests to the exchange, and equal questions
share the answer. The number of these requests is bounded for all visitors together, and so is the
memory for answers.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from binance_oi.arguments import StrPath
from binance_oi.client import OpenInterestClient
from binance_oi.encoding import Decimals, json_text
from binance_oi.errors import (
    BudgetExhaustedError,
    RecordingError,
    SymbolNotTradingError,
    UnknownSymbolError,
)
from binance_oi.exchange.routes import KEPT_MS, MAX_ROWS, PERIODS
from binance_oi.market.gap import Gap
from binance_oi.recorder.recording import Recording
from binance_oi.sending.shared_calls import SharedCalls
from binance_oi.times import instant
from binance_oi.web.allowances import Allowance
from binance_oi.web.limits import Limits
from binance_oi.web.messages import Body
from binance_oi.web.problems import KINDS, Kind, ProblemError
from binance_oi.web.queries import MALFORMED, Query, symbol_of

HISTORY_SPAN: Final = 300.0  # s: the window of the exchange's limit on history
DEFAULT_ROWS: Final = MAX_ROWS  # rows of an answer without `since`: one request gets this many
FRESH_S: Final = 15.0  # s: we keep an answer this long, and 20 times as long once it is final
PARAMETERS: Final = ("period", "since", "until", "decimal")
NO_ROW: Final = "no_row"  # the reason of a hole at the end of a recording
NO_PAST: Final = Kind(404, "no-past", "This service knows no past values of this symbol.")

_BUDGET: Final = next(kind for type_, kind in KINDS if type_ is BudgetExhaustedError)


class PastQuestion(NamedTuple):
    """A question about the past."""

    symbol: str
    """The symbol."""
    period: str
    """The time between rows, such as ``5m``."""
    first: int
    """The first instant, Unix ms."""
    last: int
    """The last instant, Unix ms."""
    decimals: Decimals
    """Whether JSON has decimals as text or as numbers."""

    @property
    def step(self) -> int:
        """The time from row to row, ms."""
        return PERIODS[self.period]

    @property
    def rows(self) -> int:
        """The number of instants."""
        return (self.last - self.first) // self.step + 1


def past_question(symbol: str, query: Query, limits: Limits, now: int) -> PastQuestion:
    """Read the question of a visitor.

    Raises:
        ProblemError: A parameter is wrong, or the question needs too many rows.
    """
    name = symbol_of(symbol)
    period = query.one_of("period", tuple(PERIODS), "5m")
    step, until = PERIODS[period], query.instant("until")
    last = min(now if until is None else until, now) // step * step
    since = query.instant("since")
    first = last - (DEFAULT_ROWS - 1) * step if since is None else -(-since // step) * step
    question = PastQuestion(name, period, max(0, first), last, query.decimals())
    if question.rows < 1:
        raise ProblemError(MALFORMED, "The range holds no instant of this period.")
    if question.rows > limits.rows:
        raise ProblemError(MALFORMED, f"The range has more than {limits.rows} rows.")
    return question


class _Row(NamedTuple):
    time: int
    open_interest: Decimal
    notional: Decimal | None


class _Recorded(NamedTuple):
    body: Body
    is_whole: bool
    """Whether the rows begin and end where the exchange's rows would; see `_covers`."""


@dataclass(slots=True)
class _Kept:
    body: Body
    until: float
    """Loop time until which the answer is fresh."""


class Past:
    """Answers questions about the past.

    Args:
        client: Reads the exchange; None to read only the recording.
        recording: The recording to read first; None if there is none.
        limits: Bounds on what visitors may use.
        clock: Returns Unix seconds.
    """

    def __init__(
        self,
        client: OpenInterestClient | None,
        recording: StrPath | None,
        limits: Limits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._recording, self._limits = client, recording, limits
        self._clock = clock
        self._kept: OrderedDict[PastQuestion, _Kept] = OrderedDict()
        self._bytes = 0
        self._running: SharedCalls[Body] = SharedCalls()
        self._requests = Allowance(limits.history_requests, HISTORY_SPAN)
        self._reading = asyncio.Semaphore(1)  # one reader of the recording at a time

    async def read(self, question: PastQuestion) -> Body:
        """Answer a question. Equal questions at the same time share the answer.

        Raises:
            ProblemError: There is no past of this symbol, or visitors have used up their requests.
            BinanceOIError: The past cannot be read.
        """
        now = asyncio.get_running_loop().time()
        kept = self._kept.get(question)
        if kept is not None and now < kept.until:
            self._kept.move_to_end(question)
            return kept.body
        return await self._running.join(question, partial(self._read, question))

    async def _read(self, question: PastQuestion) -> Body:
        found = await self._from_recording(question) if self._recording is not None else None
        body = None if found is None else found.body
        if self._client is not None and (found is None or not found.is_whole):
            try:
                body = await self._from_exchange(self._client, question)
            except (UnknownSymbolError, SymbolNotTradingError):  # for example a delisted symbol
                if body is None:
                    raise
        if body is None:
            raise ProblemError(NO_PAST)
        self._keep(question, body)
        return body

    async def _from_recording(self, question: PastQuestion) -> _Recorded | None:
        """Answer from the recording; None if it has no row of the symbol.

        With a client, also None if the recording cannot be read.
        """
        async with self._reading:
            try:
                return await asyncio.to_thread(self._read_recording, question, self.now())
            except RecordingError:  # for example, the recorder has not created the file yet
                if self._client is None:
                    raise
                return None

    def _read_recording(self, question: PastQuestion, now: int) -> _Recorded | None:
        assert self._recording is not None
        since, until = instant(question.first), instant(question.last + 1)
        with Recording(self._recording) as recording:
            try:
                series = recording.series(
                    [question.symbol], step=question.step, since=since, until=until
                )
            except RecordingError:  # the recording has no row of this symbol
                return None
            rows = [_Row(point.time, point.open_interest, point.notional) for point in series]
            gaps = recording.counted_gaps((question.first, question.last + 1))
            holes = [each.gap for each in islice(gaps, MAX_ROWS - 1)]
        holes.extend(_unrecorded(rows, holes, question, now))
        return _Recorded(_body(question, "recording", rows, holes), _covers(rows, question, now))

    async def _from_exchange(self, client: OpenInterestClient, question: PastQuestion) -> Body:
        """Answer from the exchange, if visitors have requests left."""
        now = asyncio.get_running_loop().time()
        if wait := self._requests.take(-(-question.rows // MAX_ROWS), now):
            raise ProblemError(_BUDGET, "Visitors have used up their requests.", after=wait)
        found = await client.history(
            question.symbol,
            period=question.period,
            since=question.first,
            until=question.last,
            max_wait=self._limits.max_wait,
        )
        rows = [_Row(row.time, row.open_interest, row.notional) for row in found]
        return _body(question, "exchange", rows, found.holes)

    def _keep(self, question: PastQuestion, body: Body) -> None:
        loop, wall = asyncio.get_running_loop(), self._clock()
        # The exchange may still add its newest row. An answer whose range ends earlier is final.
        is_done = question.last + 2 * question.step < wall * 1000
        self._drop(question)
        self._kept[question] = _Kept(body, loop.time() + (20 * FRESH_S if is_done else FRESH_S))
        self._bytes += len(body.data)
        while self._bytes > self._limits.cached_bytes:
            self._drop(next(iter(self._kept)))

    def now(self) -> int:
        """Return the present time, Unix ms."""
        return round(self._clock() * 1000)

    def _drop(self, question: PastQuestion) -> None:
        kept = self._kept.pop(question, None)
        if kept is not None:
            self._bytes -= len(kept.body.data)


def _covers(rows: Sequence[_Row], question: PastQuestion, now: int) -> bool:
    """Whether the rows of a recording begin and end where the exchange's rows would."""
    kept = now - KEPT_MS
    if not rows or rows[0].time > max(question.first, kept) + question.step:
        return False
    return question.last < kept or _reaches_end(rows, question, now)


def _reaches_end(rows: Sequence[_Row], question: PastQuestion, now: int) -> bool:
    """Whether the rows reach the end. The last row may be missing, because it may still appear."""
    return bool(rows) and rows[-1].time + question.step >= _end(question, now)


def _end(question: PastQuestion, now: int) -> int:
    return min(question.last, now // question.step * question.step)


def _unrecorded(
    rows: Sequence[_Row], holes: Sequence[Gap], question: PastQuestion, now: int
) -> Iterator[Gap]:
    """Yield the gap from the last row or hole of a recording to the end of the range, if any."""
    if _reaches_end(rows, question, now):
        return
    known = [*(row.time for row in rows[-1:]), *(hole.last for hole in holes)]
    first = (max(known) // question.step + 1) * question.step if known else question.first
    if first <= _end(question, now):
        yield Gap(first, _end(question, now), NO_ROW)


def _body(question: PastQuestion, source: str, rows: Sequence[_Row], holes: Sequence[Gap]) -> Body:
    shown = [
        {name: value for name, value in row._asdict().items() if value is not None} for row in rows
    ]
    missing = [{"first": h.first, "last": h.last, "reason": h.reason} for h in holes[:MAX_ROWS]]
    found = {"symbol": question.symbol, "period": question.period, "from": source}
    answer = {**found, "rows": shown, "holes": missing}
    return Body(json_text(answer, decimals=question.decimals).encode())
