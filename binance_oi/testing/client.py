"""Opens a client with a local exchange and a budget of its own.

The rule of this file: it leaves neither a budget nor an open port behind. On a virtual loop, it
gives the loop's clock to each budget and each exchange that it creates.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from binance_oi.budget import ProcessBudget
from binance_oi.client import OpenInterestClient
from binance_oi.simulator import LocalExchange
from binance_oi.testing.virtual_clock import VirtualLoop, wall_time


class SimulatedClient(OpenInterestClient):
    """A client of a local exchange. Its attribute `exchange` is that exchange."""

    def __init__(self, exchange: LocalExchange, **options: Any) -> None:
        super().__init__(base_url=exchange.url, **options)
        self.exchange: LocalExchange = exchange


@asynccontextmanager
async def simulated_client(
    exchange: LocalExchange | None = None, **options: Any
) -> AsyncGenerator[SimulatedClient, None]:
    """Open a client of a local exchange. By default, no other client shares its budget.

        async with simulated_client() as client:
            client.exchange.jump("BTCUSDT", 0.05)
            value = await client.get_open_interest("BTCUSDT")

    Args:
        exchange: An exchange with other options, such as ``LocalExchange(limit=100)``. If it does
            not run yet, this function starts it, and closes it at the end.
        options: Arguments of `OpenInterestClient` except `base_url`, which is that of the exchange.
    """
    loop = asyncio.get_running_loop()
    is_virtual = isinstance(loop, VirtualLoop)
    if "budget" not in options:
        virtual = ProcessBudget(clock=loop.time, wall=wall_time) if is_virtual else None
        options["budget"] = virtual or ProcessBudget()
    if exchange is None:
        exchange = LocalExchange(clock=wall_time) if is_virtual else LocalExchange()
    async with AsyncExitStack() as stack:
        if not exchange.url:
            await stack.enter_async_context(exchange)
        yield await stack.enter_async_context(SimulatedClient(exchange, **options))
