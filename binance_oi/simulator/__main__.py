"""`python -m binance_oi.simulator`: the local exchange in a process of its own.

The rule of this file: the first line on stdout is the URL of the exchange. SIGINT, SIGTERM and
SIGHUP end the process without a traceback. Under `nohup`, which ignores SIGHUP, the process
continues.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
from typing import cast

from binance_oi.simulator.counter import Bans, Steady
from binance_oi.simulator.local import LocalExchange
from binance_oi.simulator.responses import Headers


def main() -> None:
    exchange = _exchange(_parser().parse_args())
    try:
        asyncio.run(_serve(exchange))
    except KeyboardInterrupt:
        pass
    except OSError as error:  # the port is in use, or we may not use it
        sys.exit(f"the local exchange did not start: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m binance_oi.simulator",
        description="A local exchange that counts weight as Binance USDⓈ-M Futures does.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="port on 127.0.0.1; 0 chooses a free one")
    add("--limit", type=int, default=2400, help="weight allowed in a minute")
    add("--used", type=int, default=0, help="weight already used in the first minute")
    add("--others", type=float, default=0.0, help="weight that other clients use each second")
    add("--seed", type=int, default=0, help="seed of everything random")
    add("--latency", type=float, default=0.0, help="seconds from request to answer")
    add("--jitter", type=float, default=0.0, help="largest additional delay of an answer, s")
    add("--clock-offset", type=float, default=0.0, help="seconds its clock is ahead of ours")
    add("--ban-after", type=int, default=40, help="429 answers before a ban; -1 for never")
    add("--retry-after", choices=("absent", "0", "seconds"), default="absent")
    return parser


def _exchange(options: argparse.Namespace) -> LocalExchange:
    ban_after = cast(int, options.ban_after)
    return LocalExchange(
        port=options.port,
        limit=options.limit,
        used=options.used,
        others=Steady(options.others) if options.others else None,
        seed=options.seed,
        latency=options.latency,
        jitter=options.jitter,
        clock_offset=options.clock_offset,
        bans=Bans(after=None if ban_after < 0 else ban_after),
        headers=Headers(retry_after=options.retry_after),
    )


async def _serve(exchange: LocalExchange) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        with contextlib.suppress(NotImplementedError):  # on Windows, main() handles the interrupt
            loop.add_signal_handler(number, stop.set)
    async with exchange:
        print(exchange.url, flush=True)
        await stop.wait()


if __name__ == "__main__":
    main()
