"""Makes large recordings as a recorder does, and computes digests of them with little memory.

Rule of this file: all samples of a sweep differ. Some sweeps are missing, and some lack a symbol.
"""

import hashlib
import os
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice

from binance_oi import Gap, OpenInterest, ServerError, Snapshot
from binance_oi.exchange.models import MarkPrice
from binance_oi.recorder import Recording
from binance_oi.times import instant
from support.filled import BEFORE, sink_at

ROWS = int(os.environ.get("BINANCE_OI_ROWS", "200_000"))
SYMBOLS = tuple(f"S{number:03}USDT" for number in range(789))


def sweep_of(slot: int, number: int) -> Snapshot:
    """A sweep of the whole market. Every third has mark prices; 1 in 500 lacks the last symbol."""
    lacks = {SYMBOLS[-1]} if number % 500 == 7 else set[str]()
    base = 90_000 + number % 977
    values = {
        name: OpenInterest(name, Decimal(f"{base + i * 37}.{i:03d}0"), slot - BEFORE)
        for i, name in enumerate(SYMBOLS)
        if name not in lacks
    }
    price = Decimal(f"{number}.10")
    prices = {name: MarkPrice(name, price, slot - BEFORE) for name in values}
    return Snapshot(
        values_by_symbol=values,
        errors={name: ServerError(503, None, "busy") for name in lacks},
        mark_prices=prices if number % 3 == 0 else {},
        started=instant(slot),
        finished=instant(slot + 500),
        weight=len(SYMBOLS),
        slot=instant(slot),
        received_ms=dict.fromkeys(values, slot + 250),
    )


def fill_large(place: str, slots: range, *, source: str | None = "production") -> None:
    """Record a gap in one slot of 1000, and a sweep in each of the others."""
    period = slots.step
    with sink_at(place, source) as sink:
        for number, slot in enumerate(slots):
            if number % 1000 == 900:
                sink.save(None, [Gap(slot, slot, "banned", "until then")], period)
                continue
            sink.save(sweep_of(slot, number), [], period)
            if number % 64 == 63:
                sink.tidy()


def digests(place: str) -> dict[str, str]:
    """For each table of a recording, the number of its rows and a digest of them, in order."""
    with Recording.open(place) as recording:
        tables: dict[str, Iterator[object]] = {
            "samples": iter(recording.samples().rows()),
            "sweeps": iter(recording.sweeps()),
            "gaps": iter(recording.periods()),
        }
        return {name: _digest(rows) for name, rows in tables.items()}


def _digest(rows: Iterator[object]) -> str:
    found, count = hashlib.blake2b(digest_size=16), 0
    while some := list(islice(rows, 4096)):
        found.update(repr([tuple(row) if isinstance(row, tuple) else row for row in some]).encode())
        count += len(some)
    return f"{count:,} {found.hexdigest()}"
