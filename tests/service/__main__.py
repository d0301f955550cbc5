"""`python -m tests.service [fanout|snapshot|visitors|market] ...`; without arguments, all of them.

BINANCE_OI_LISTENERS (5000) is the number of listeners that follow ten symbols each. A tenth of that
number follow the whole market. BINANCE_OI_SWEEPS (15) is the number of sweeps of `market`.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from . import fanout, market, snapshots, visitors

LISTENERS = int(os.environ.get("BINANCE_OI_LISTENERS", "5000"))
SWEEPS = int(os.environ.get("BINANCE_OI_SWEEPS", "15"))


def main() -> int:
    """Run the load tests; return 1 if one exceeds its bounds."""
    drills: dict[str, Callable[[], Coroutine[Any, Any, bool]]] = {
        "fanout": lambda: fanout.measure(LISTENERS, LISTENERS // 10),
        "snapshot": snapshots.measure,
        "visitors": visitors.measure,
        "market": lambda: market.measure(LISTENERS, LISTENERS // 10, SWEEPS),
    }
    parser = argparse.ArgumentParser(prog="python -m tests.service")
    parser.add_argument("drills", nargs="*", choices=[[], *drills], metavar=", ".join(drills))
    chosen = parser.parse_args().drills or list(drills)
    failed = [name for name in chosen if not asyncio.run(drills[name]())]
    if failed:
        print(f"out of bounds: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
