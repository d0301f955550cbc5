"""Makes a recording of three days that has gaps, without an exchange.

Rule of this file: the recorder's own store writes the recording, so a report reads what a recorder
would write. The values are the same in every run.
"""

import random
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from binance_oi import Gap, OpenInterest, Snapshot
from binance_oi.exchange.models import MarkPrice
from binance_oi.recorder.store import Store

BEGIN = datetime(2026, 11, 23, tzinfo=UTC)
PERIOD = 300_000  # ms
SLOTS = 3 * 288
NAMES = (
    *("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "1000PEPEUSDT", "币安人生USDT", "BTCUSDC"),
    *(f"{letters}USDT" for letters in ("ADA", "AVAX", "BCH", "BNB", "DOGE", "DOT", "FIL", "LINK")),
    *("1000000BABYDOGEUSDT", "BTCUSDT_261225", *(f"COIN{n}USDT" for n in range(120))),
)
GAPS = (  # numbers of the first and the last slot, the reason, and the detail
    (
        70,
        75,
        "banned",
        "HTTP 418; the exchange names 06:20:00 UTC as the end of the ban",
    ),
    (150, 150, "network", "ConnectionResetError: [Errno 104] Connection reset by peer"),
    (300, 347, "stopped", "no recorder ran"),
    (500, 501, "budget", "the minute had no room for 137 symbols"),
    (611, 611, "network", "ConnectionResetError: [Errno 104] Connection reset by peer"),
)


class _Walk:
    """A random walk of the open interest and the price of one symbol."""

    def __init__(self, place: int) -> None:
        self._random = random.Random(place)
        self._coins = 92_000 * 1.17**place % 5e9 + 1000
        self._price = 64_000 / 1.3 ** min(place, 60)

    def step(self) -> tuple[Decimal, Decimal]:
        self._coins *= 1 + self._random.gauss(0, 0.002)
        self._price *= 1 + self._random.gauss(0, 0.0015)
        return Decimal(f"{self._coins:.3f}"), Decimal(f"{self._price:.8f}")


def record(file: Path, names: Sequence[str] = NAMES, slots: int = SLOTS) -> None:
    """Write all of `GAPS`, and a sweep for each of the `slots` slots that is in none of them."""
    walks = [_Walk(place) for place in range(len(names))]
    missing = {slot for first, last, *_ in GAPS for slot in range(first, last + 1)}
    begin = round(BEGIN.timestamp() * 1000)
    with closing(Store(file)) as store:
        for number in range(slots):
            values = dict(zip(names, [walk.step() for walk in walks], strict=True))
            if number not in missing:
                store.save(_sweep(number, begin + number * PERIOD, values), [], PERIOD)
        for first, last, *why in GAPS:
            gap = Gap(begin + first * PERIOD, begin + last * PERIOD, *why)
            store.save(None, [gap], PERIOD)


def _sweep(number: int, ms: int, values: dict[str, tuple[Decimal, Decimal]]) -> Snapshot:
    slot = BEGIN + timedelta(milliseconds=number * PERIOD)
    return Snapshot(
        values_by_symbol={
            name: OpenInterest(name, coins, ms) for name, (coins, _) in values.items()
        },
        errors={},
        started=slot,
        finished=slot,
        weight=len(values),
        slot=slot,
        mark_prices={name: MarkPrice(name, price, ms) for name, (_, price) in values.items()},
    )
