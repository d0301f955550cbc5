"""Fills a recorder's own gaps with rows of the exchange's history.

The rule of this file: filling never delays a sweep. The filler reads one symbol at a time, after
the sweep that ends a gap. Its requests draw on a limit of their own, which sweeps do not use. It
stores the rows in the recorder's thread, between two writes of sweeps. An *instant* is a multiple
of 5 minutes, and the history has a row for each instant. The filler stores the row of each instant
in a gap. The gap itself stays, because its slots still have no sweep. A gap that contains no
instant cannot be filled.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from binance_oi.errors import (
    BannedError,
    BinanceOIError,
    RateLimitedError,
    ServerError,
    StorageError,
    TransportError,
)
from binance_oi.exchange.routes import KEPT_MS
from binance_oi.market.gap import Gap, gap_reason
from binance_oi.market.history import SETTLED_MS
from binance_oi.market.snapshot import Snapshot
from binance_oi.recorder.backfill import STEP_MS, Filler, Span
from binance_oi.recorder.schema import EVERY_SYMBOL
from binance_oi.recorder.sink import Sink
from binance_oi.recorder.writing_thread import WritingThread
from binance_oi.times import unix_ms

AGAIN_S = 300.0  # s from a failure to the next try; history gets a new row every 300 s too
NEVER = frozenset(("unknown", "not_trading"))  # reasons of gaps for which there is no history
# After these errors, the same request may succeed later.
PASSING = (TransportError, ServerError, RateLimitedError, BannedError, StorageError)

logger: logging.Logger = logging.getLogger("binance_oi")


class GapFiller:
    """Stores the rows of history for the instants in a recorder's gaps.

    Args:
        filler: Reads and stores the rows.
        sink: Has the gaps of earlier runs.
        thread: The thread that uses the sink.
        clock: Returns Unix seconds.
    """

    def __init__(
        self, filler: Filler, sink: Sink, thread: WritingThread, clock: Callable[[], float]
    ) -> None:
        self._filler, self._sink, self._thread, self._clock = filler, sink, thread, clock
        self._wanted: dict[str, set[int]] = {}  # instants to fill, by symbol; "" means all symbols
        self._names: Sequence[str] = ()  # the symbols of the latest sweep
        self._swept = asyncio.Event()
        self._has_failed = False

    @property
    def new(self) -> int:
        """The number of rows stored so far."""
        return self._filler.new

    def note(self, outcome: Snapshot | Gap, period: int) -> None:
        """Note the instants that the outcome of one or more slots leaves without a value.

        Args:
            outcome: A sweep, or a gap of one or more slots.
            period: From slot to slot, ms.
        """
        if isinstance(outcome, Gap):
            self._want(EVERY_SYMBOL, outcome, period)
            return
        assert outcome.slot is not None
        slot = unix_ms(outcome.slot)
        for symbol, error in outcome.errors.items():
            self._want(symbol, Gap(slot, slot, gap_reason(error)), period)
        self._names = [*outcome, *outcome.errors]
        self._swept.set()

    def _want(self, symbol: str, gap: Gap, period: int) -> None:
        # A clock that was never set may cause a gap of decades. Request only days that the history
        # has.
        now = round(self._clock() * 1000)
        first, last = max(gap.first, now - KEPT_MS), min(gap.last, now + period)
        kept = gap._replace(first=first, last=last)
        instants = [] if gap.reason in NEVER else list(instants_in(kept, period))
        if instants:
            self._wanted.setdefault(symbol, set()).update(instants)

    async def run(self) -> None:
        """Fill the gaps of earlier runs after the first sweep, then each new gap after it ends."""
        await self._want_earlier(round(self._clock() * 1000) - KEPT_MS)
        while True:
            await self._swept.wait()
            self._swept.clear()
            await asyncio.sleep(SETTLED_MS / 1000)  # until the row of the last instant has appeared
            failed = await self._fill()
            if failed:
                await asyncio.sleep(AGAIN_S)
                self._swept.set()

    async def _want_earlier(self, since: int) -> None:
        """Add the gaps of earlier runs; none of them if the sink cannot be read now."""
        try:
            found = await self._thread.run(partial(self._sink.gaps_since, since))
        except StorageError as error:
            logger.warning("gaps of earlier runs in %s stay open: %s", self._sink, error)
            return
        for symbol, gap, period in found:
            self._want(symbol, gap, period)

    async def _fill(self) -> bool:
        """Read the wanted instants whose rows have appeared.

        Returns:
            Whether to try again: a read has failed, but may succeed later. Its instants stay
            wanted.
        """
        until = round(self._clock() * 1000) - SETTLED_MS
        due = {
            symbol: {at for at in times if at <= until} for symbol, times in self._wanted.items()
        }
        for symbol, times in due.items():
            self._wanted[symbol] -= times
        of_all = due.pop(EVERY_SYMBOL, set[int]())
        failed = False
        for symbol in dict.fromkeys([*(self._names if of_all else ()), *due]):
            wanted = of_all | due.get(symbol, set[int]())
            if wanted and not await self._fill_symbol(symbol, wanted):
                self._wanted.setdefault(symbol, set()).update(wanted)
                failed = True
        self._wanted = {symbol: times for symbol, times in self._wanted.items() if times}
        return failed

    async def _fill_symbol(self, symbol: str, wanted: set[int]) -> bool:
        try:
            await self._filler.fill(symbol, Span(min(wanted), max(wanted)), wanted)
        except BinanceOIError as error:  # from the exchange or from the sink
            if not self._has_failed:
                logger.warning("gaps of %s stay open for now: %s: %s", self._sink, symbol, error)
            self._has_failed = True
            return not isinstance(error, PASSING)
        self._has_failed = False
        return True


def instants_in(gap: Gap, period: int) -> Iterator[int]:
    """Return the instants from the first slot of a gap until the slot after it (excluded)."""
    first = -(-gap.first // STEP_MS) * STEP_MS
    return iter(range(first, gap.last + max(1, period), STEP_MS))
