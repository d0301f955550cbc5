"""An exchange in a process of its own, whose answers for `BAD` go wrong in every way that is quick.

Rule of this file: nothing that holds requests back (418, 429, 403, a count that lies), or the soak
would measure pauses.

    python -m fuzz.exchange SEED        # prints its URL, and serves until it is killed
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

HOLDS = (BannedError, ForbiddenError, RateLimitedError)


def is_quick(fault: Fault) -> bool:
    holds = fault.outcome in HOLDS or fault.lies
    early = fault.at_accept or not isinstance(fault.door, Plain)
    return fault.seconds <= AT_ONCE and not holds and not early


async def serve(seed: int) -> None:
    chance, rows = random.Random(seed), [fault for fault in faults() if is_quick(fault)]

    def script(_attempt: int) -> Sequence[Step]:
        exchange.wire.clear()  # nobody asks, and it would grow for ever
        return chance.choice(rows).steps

    exchange = FaultExchange(script, now=time.time)
    exchange.broken = True
    await exchange.listen()
    print(f"http://127.0.0.1:{exchange.port}", flush=True)
    await asyncio.get_running_loop().create_future()  # never


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
