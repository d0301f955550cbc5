"""Recordings of several days, made quickly through a sink.

Rule of this file: a slot determines all values of its sweep, so a test knows every row.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from decimal import Decimal
from functools import cache

from binance_oi import OpenInterest, ServerError, Snapshot
from binance_oi.recorder import Sink
from binance_oi.recorder.stored import SinkOptions, make_sink
from binance_oi.times import instant

DAY = 86_400_000
HOUR = 3_600_000
START = 1_795_392_000_000  # 2026-11-23T00:00Z
BEFORE = 2500  # ms by which the time of a value is earlier than the slot of its sweep


@contextmanager
def sink_at(place: str, source: str | None = "production") -> Iterator[Sink]:
    """A claimed and open sink."""
    _, sink = make_sink(place, SinkOptions(source, None, None, time.time))
    with closing(sink):
        sink.claim(time.monotonic)
        sink.open()
        yield sink


@cache
def _value(number: int) -> Decimal:
    return Decimal(number).scaleb(-3)


def sweep_of(slot: int, symbols: int = 3, *, without: int = 0) -> Snapshot:
    """A sweep: each value is its slot in Unix s / 1000; the last `without` symbols failed."""
    names = [f"S{number:03}USDT" for number in range(symbols)]
    read, failed = names[: symbols - without], names[symbols - without :]
    at: datetime = instant(slot)
    value = _value(slot // 1000)
    return Snapshot(
        values_by_symbol={name: OpenInterest(name, value, slot - BEFORE) for name in read},
        errors={name: ServerError(503, None, "busy") for name in failed},
        started=at,
        finished=instant(slot + 500),
        weight=symbols,
        slot=at,
        received_ms=dict.fromkeys(read, slot + 250),
    )


def fill(place: str, slots: range, symbols: int = 3, *, source: str | None = "production") -> None:
    """Record a sweep in each of these slots."""
    with sink_at(place, source) as sink:
        for number, slot in enumerate(slots):
            sink.save(sweep_of(slot, symbols), [], slots.step)
            if number % 64 == 63:
                sink.tidy()
