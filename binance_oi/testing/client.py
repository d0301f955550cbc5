"""A client on a local exchange of its own, with a budget of its own.

The rule of this file: nothing of it is left behind, neither a budget nor a port, and the clock is
the one of the running loop.
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
    """A client that knows the local exchange which it reads."""

    def __init__(self, exchange: LocalExchange, **options: Any) -> None:
        super().__init__(base_url=exchange.url, **options)
        self.exchange: LocalExchange = exchange


@asynccontextmanager
async def simulated_client(
    exchange: LocalExchange | None = None, **options: Any
) -> AsyncGenerator[SimulatedClient, None]:
    """A client on a local exchange, and a budget that nobody shares.

        async with simulated_client() as client:
            client.exchange.jump("BTCUSDT", 0.05)
            value = await client.get_open_interest("BTCUSDT")

    On a virtual loop, client and exchange go by its time.

    Args:
        exchange: For one with other options, such as ``LocalExchange(limit=100)``. It is started,
            and closed in the end, unless it runs already.
        options: The arguments of `OpenInterestClient`; `base_url` is that of the exchange.
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
