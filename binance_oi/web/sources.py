"""Reads the values for a hub, with a client or from a recording that another process writes.

The rule of this file: an outage does not end a source. If it cannot read the exchange or the
recording for a while, the source yields a gap, or waits.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import replace
from decimal import Decimal

from binance_oi.arguments import StrPath
from binance_oi.budget.usage import Usage
from binance_oi.client import OpenInterestClient
from binance_oi.errors import BinanceOIError, ClientClosedError, RecordingError
from binance_oi.exchange.models import MarkPrice, OpenInterest
from binance_oi.exchange.routes import MARK_PRICES
from binance_oi.exchange.symbols import check_symbols
from binance_oi.market.gap import Gap, gap_reason
from binance_oi.market.listing import LISTING_AGE
from binance_oi.market.polling import begin_plan, sweeps
from binance_oi.market.schedule import next_slot, period_ms
from binance_oi.market.snapshot import Snapshot
from binance_oi.recorder.address import check_recording
from binance_oi.recorder.recording import Recording, Sweep
from binance_oi.recorder.samples import Sample
from binance_oi.times import instant, unix_ms
from binance_oi.web.events import Observation, Reading

logger: logging.Logger = logging.getLogger("binance_oi")

LEAST_LEAD_S = 3.0  # s until the first slot; if there is less time, we wait for the slot
CHECK_EVERY_S = 1.0  # s between two checks of a recording for new sweeps
LATEST_MS = 3_600_000  # ms before the latest sweep of a recording: we show no older value
LATEST_PERIODS = 3  # the same bound in periods of the schedule; the longer of the two applies
END = 1 << 62  # Unix ms, later than any slot


class ClientSource:
    """Polls with a client. A recorder with the same client and schedule shares the requests.

    Args:
        client: Reads the exchange.
        symbols: The symbols to poll; None follows the exchange's list.
        every: Seconds from slot to slot; None chooses the shortest schedule that fits. If `every`
            does not fit into the budget, a slower schedule runs.
        notional: Whether to read mark prices too.
        clock: Returns Unix seconds.

    Raises:
        TypeError: An argument has another type.
        ValueError: `every` cannot be a period.
        InvalidSymbolError: One of `symbols` cannot be a symbol.
    """

    def __init__(
        self,
        client: OpenInterestClient,
        symbols: Iterable[str] | None = None,
        *,
        every: float | None = None,
        notional: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if every is not None:
            period_ms(every)
        self._clock = clock
        self._client, self._every, self._notional = client, every, notional
        self._symbols = None if symbols is None else check_symbols(symbols)

    @property
    def name(self) -> str:
        """See `Source`."""
        return self._client.source

    @property
    def usage(self) -> Usage | None:
        """See `Source`."""
        return self._client.usage

    async def outcomes(self) -> AsyncGenerator[Reading | Gap, None]:
        """See `Source`.

        Raises:
            ValueError: No schedule fits into the budget.
            InvalidSymbolError: The exchange lists none of the symbols.
            ClientClosedError: The client was closed.
        """
        client = self._client
        plan = await begin_plan(client, self._symbols, every=self._every, notional=self._notional)
        plan.yield_room()
        first = await self._first(plan.step)
        if first is not None:
            yield first
        async for outcome in sweeps(client, plan=plan, clock=self._clock):
            yield outcome if isinstance(outcome, Gap) else _reading(outcome)

    async def _first(self, step: int) -> Reading | None:
        """Read the market before the first slot, if there is time and budget for it."""
        following = next_slot(self._clock, step)
        left = following / 1000 - self._clock()
        if left < LEAST_LEAD_S:
            return None
        try:
            found = await self._snapshot(step / 1000, left)
        except ClientClosedError:
            raise
        except BinanceOIError as error:
            logger.debug("the market could not be read before the first slot: %s", error)
            return None
        if not found:
            return None
        return _reading(
            replace(found, slot=instant(following - step), next_slot=instant(following))
        )

    async def _snapshot(self, period: float, deadline: float) -> Snapshot | None:
        client, names = self._client, self._symbols
        if names is None:
            names = await client.symbols(max_age=LISTING_AGE)
        usage = client.usage
        sweeps_left = (usage.resets_at.timestamp() - self._clock()) // period + 1
        if (sweeps_left + 1) * (len(names) + MARK_PRICES.route.weight) > usage.remaining:
            return None
        return await client.snapshot(
            names, notional=self._notional, max_age=period, deadline=deadline
        )


def _reading(snapshot: Snapshot) -> Reading:
    assert snapshot.slot is not None
    assert snapshot.next_slot is not None
    finished, marks = unix_ms(snapshot.finished), snapshot.mark_prices
    received = snapshot.received_ms
    return Reading(
        unix_ms(snapshot.slot),
        unix_ms(snapshot.next_slot),
        len(snapshot) + len(snapshot.errors),
        [
            Observation(value, _price(marks, name), received.get(name, finished))
            for name, value in snapshot.items()
        ],
        {name: gap_reason(error) for name, error in snapshot.errors.items()},
    )


def _price(marks: Mapping[str, MarkPrice], name: str) -> Decimal | None:
    mark = marks.get(name)
    return None if mark is None else mark.mark_price


class RecordingSource:
    """Follows a recording that another process writes. It sends nothing to the exchange.

    Args:
        place: The recording: a file, or the URL of a database.

    Raises:
        TypeError: `place` is neither text nor a path.
        ValueError: `place` is empty, or the URL of something else.
    """

    def __init__(self, place: StrPath) -> None:
        self.place: StrPath = check_recording("place", place)
        self._source = ""
        self._last = -END  # the last slot that the source has yielded
        self._is_unreadable = False

    @property
    def name(self) -> str:
        """See `Source`; empty until the recording has been read."""
        return self._source

    @property
    def usage(self) -> Usage | None:
        """See `Source`; this source sends no requests."""
        return None

    async def outcomes(self) -> AsyncGenerator[Reading | Gap, None]:
        """See `Source`."""
        while True:
            for outcome in await asyncio.to_thread(self._read_news):
                yield outcome
            await asyncio.sleep(CHECK_EVERY_S)

    def _read_news(self) -> list[Reading | Gap]:
        """Return the new gaps and the latest new sweep; empty while the recording is unreadable."""
        try:
            with Recording(self.place) as recording:
                found = self._news(recording)
        except RecordingError as error:
            if not self._is_unreadable:
                logger.warning("the recording cannot be read now: %s", error)
            self._is_unreadable = True
            return []
        self._is_unreadable = False
        return found

    def _news(self, recording: Recording) -> list[Reading | Gap]:
        self._source = recording.source or ""
        is_first = self._last == -END
        latest = _latest_sweep(recording, self._last + 1)
        gaps = (
            [] if is_first else [each.gap for each in recording.counted_gaps((self._last + 1, END))]
        )
        found: list[Reading | Gap] = [*gaps]
        if latest is not None:
            found.append(_recorded(recording, latest))
        ends = [gap.last for gap in gaps] + ([] if latest is None else [latest.slot])
        self._last = max([self._last, *ends])
        return found


def _latest_sweep(recording: Recording, since: int) -> Sweep | None:
    """Return the latest sweep from slot `since` on; None if there is none."""
    span = recording.span()
    if span is None:
        return None
    for begin in (max(since, unix_ms(span[1]) - LATEST_MS), since):  # usually the first is enough
        latest = deque(recording.sweeps((begin, END)), maxlen=1)
        if latest:
            return latest[0]
    return None


def _recorded(recording: Recording, sweep: Sweep) -> Reading:
    """Return the state of the market after a sweep of a recording."""
    since = sweep.slot - max(LATEST_MS, LATEST_PERIODS * sweep.period)
    samples = [last for _, last in recording.first_and_last((since, END))]
    observations = [Observation(_value(each), each.mark_price, each.received) for each in samples]
    age = max(0.0, time.time() - sweep.finished / 1000)
    return Reading(sweep.slot, sweep.slot + sweep.period, sweep.asked, observations, {}, age)


def _value(sample: Sample) -> OpenInterest:
    return OpenInterest(sample.symbol, sample.open_interest, sample.time)
