"""Runs an exchange in its own process; its answers for the symbol `BAD` have random, quick faults.

Rule of this file: no fault causes a cooldown or a wait, as 403, 418, 429, 451 and a false count do.
Otherwise the soak would measure pauses.

    python -m tests.fuzz.exchange SEED        # prints its URL, and serves until it is killed
"""

import asyncio
import random
import sys
import time
from collections.abc import Sequence

from binance_oi import BannedError, ForbiddenError, RateLimitedError
from faults.doors import Plain
from faults.exchange import FaultExchange, Step
from faults.rules import AT_ONCE, Fault
from faults.table import faults

COOLDOWNS = (BannedError, ForbiddenError, RateLimitedError)


def is_quick(fault: Fault) -> bool:
    holds = fault.outcome in COOLDOWNS or fault.lies
    early = fault.at_accept or not isinstance(fault.door, Plain)
    return fault.seconds <= AT_ONCE and not holds and not early


async def serve(seed: int) -> None:
    chance, rows = random.Random(seed), [fault for fault in faults() if is_quick(fault)]

    def script(_attempt: int) -> Sequence[Step]:
        exchange.wire.clear()  # no code reads it here, and it would grow without bound
        return chance.choice(rows).steps

    exchange = FaultExchange(script, now=time.time)
    exchange.broken = True
    await exchange.listen()
    print(f"http://127.0.0.1:{exchange.port}", flush=True)
    await asyncio.get_running_loop().create_future()  # for ever


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
