"""Writes a small recording with three symbols, two days, one gap, and numbers of every shape.

Rule of this file: the store itself writes the recording, from values that this file has as text.
"""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from binance_oi import Gap, OpenInterest, ServerError, Snapshot
from binance_oi.exchange.models import MarkPrice
from binance_oi.recorder.store import Store

BEGIN = datetime(2026, 11, 23, 23, 58, tzinfo=UTC)
EVERY = timedelta(seconds=60)
VALUES = {
    "BTCUSDT": "96012.544",
    "1000SHIBUSDT": "51857726234713",
    "币安人生USDT": "0.00000010",
}
PRICE = "66012.54400000"


def sweep(number: int) -> Snapshot:
    """The sweep of minute `number`. BTCUSDT grows by 10 a minute; its request fails in minute 1."""
    slot = BEGIN + number * EVERY
    ms = round(slot.timestamp() * 1000)
    values = {n: Decimal(v) + (10 * number if n == "BTCUSDT" else 0) for n, v in VALUES.items()}
    error = ServerError(503, None, "Service Unavailable.")
    names = [name for name in VALUES if (name, number) != ("BTCUSDT", 1)]
    return Snapshot(
        values_by_symbol={n: OpenInterest(n, values[n], ms - 2500) for n in names},
        errors={} if number != 1 else {"BTCUSDT": error},
        started=slot,
        finished=slot + timedelta(seconds=1),
        weight=13,
        slot=slot,
        mark_prices={"BTCUSDT": MarkPrice("BTCUSDT", Decimal(PRICE), ms)},
        received_ms=dict.fromkeys(names, ms + 125),
    )


def write_recording(path: Path) -> Path:
    """Record minutes 0, 1 and 4, and a gap of minutes 2 and 3."""
    minute = round(EVERY.total_seconds() * 1000)
    begin = round(BEGIN.timestamp() * 1000)
    with closing(Store(path)) as store:
        store.save(sweep(0), [], minute)
        store.save(sweep(1), [], minute)
        gap = Gap(begin + 2 * minute, begin + 3 * minute, "banned", "until 00:02")
        store.save(sweep(4), [gap], minute)
    return path
