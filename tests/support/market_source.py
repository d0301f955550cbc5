"""A source of outcomes for the hub of the service; a test feeds the source, slot by slot.

Rule of this file: it publishes only what the test feeds.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from decimal import Decimal

from binance_oi import Gap, OpenInterest, Usage
from binance_oi.web.events import Observation, Reading

PERIOD = 20_000  # ms
BEGIN = 1_795_435_200_000  # Unix ms


def reading(
    number: int,
    values: Mapping[str, str],
    *,
    errors: Mapping[str, str] | None = None,
    prices: Mapping[str, str] | None = None,
    times: Mapping[str, int] | None = None,
) -> Reading:
    """The reading of slot `number`. A value's time is its slot, unless `times` has its symbol."""
    slot, received = BEGIN + number * PERIOD, round(time.time() * 1000)
    seen = [
        Observation(
            OpenInterest(name, Decimal(value), (times or {}).get(name, slot)),
            Decimal(prices[name]) if prices and name in prices else None,
            received,
        )
        for name, value in values.items()
    ]
    return Reading(slot, slot + PERIOD, len(values) + len(errors or {}), seen, errors or {})


class FedSource:
    """A source that yields what `feed` gets; `end` ends it, with or without an error."""

    def __init__(self) -> None:
        self._outcomes: asyncio.Queue[Reading | Gap | BaseException | None] = asyncio.Queue()

    @property
    def name(self) -> str:
        return "local"

    @property
    def usage(self) -> Usage | None:
        return None

    def feed(self, *outcomes: Reading | Gap) -> None:
        for outcome in outcomes:
            self._outcomes.put_nowait(outcome)

    def end(self, error: BaseException | None = None) -> None:
        self._outcomes.put_nowait(error)

    async def outcomes(self) -> AsyncGenerator[Reading | Gap, None]:
        while True:
            outcome = await self._outcomes.get()
            if isinstance(outcome, BaseException):
                raise outcome
            if outcome is None:
                return
            yield outcome
