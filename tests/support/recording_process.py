"""A recorder process for tests that kill it: `recording_process.py PLACE EVERY [--standby]`.

Rule of this file: its market answers at once, so the process spends most of its time in commits. It
prints `ready` after its imports. For each acknowledged sweep, it prints the slot and the time of a
value, both in Unix ms.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal

from binance_oi import ExchangeInfo, OpenInterest, ProcessBudget, Snapshot, SymbolInfo, Usage
from binance_oi.recorder import Recorder

NAMES = tuple(f"S{number}USDT" for number in range(300))


class Reader:
    """A market that answers at once."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._pool = ProcessBudget(limit=9_999_999).pool("")

    @property
    def usage(self) -> Usage:
        return self._pool.usage

    async def exchange_info(self, *, max_age: float = 0.0) -> ExchangeInfo:
        return ExchangeInfo(tuple(SymbolInfo(name, "TRADING") for name in NAMES))

    async def snapshot(
        self,
        symbols: Iterable[str] | None = None,
        *,
        notional: bool = False,
        deadline: float | None = None,
    ) -> Snapshot:
        now = datetime.fromtimestamp(self._clock(), UTC)
        ms = int(self._clock() * 1000)
        values = {n: OpenInterest(n, Decimal(f"{ms}.500"), ms) for n in symbols or ()}
        return Snapshot(
            values_by_symbol=values, errors={}, started=now, finished=now, weight=len(values)
        )


def acknowledge(snapshot: Snapshot) -> None:
    assert snapshot.slot is not None
    print(round(snapshot.slot.timestamp() * 1000), next(iter(snapshot.values())).time, flush=True)


if __name__ == "__main__":
    print("ready", flush=True)
    recorder = Recorder(
        Reader(),
        sys.argv[1],
        every=float(sys.argv[2]),
        on_sweep=acknowledge,
        standby="--standby" in sys.argv,
    )
    asyncio.run(recorder.run())
