"""What `simulate` does: a local exchange for others to read from.

The rule of this file: the first line says where it is, as soon as it answers.
"""

import asyncio
import os
from contextlib import AsyncExitStack

from binance_oi.cli.endings import OK, USAGE
from binance_oi.cli.render import json_line
from binance_oi.cli.streams import complain, put
from binance_oi.simulator import LocalExchange


async def serve(exchange: LocalExchange, port: int, *, as_json: bool = False) -> int:
    """Serve until somebody interrupts it."""
    async with AsyncExitStack() as running:
        try:
            await running.enter_async_context(exchange)
        except OSError as error:
            if not port:
                raise
            why = os.strerror(error.errno) if error.errno else str(error)
            complain(f"--port {port} on 127.0.0.1 cannot be used: {why}")
            return USAGE
        put(json_line({"url": exchange.url}) if as_json else f"{exchange.url}\n")
        await asyncio.Event().wait()
    return OK
