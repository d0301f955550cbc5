"""The command `simulate`: a local exchange for other programs to read.

The rule of this file: as soon as the exchange answers, the command prints its URL as the first
line.
"""

import asyncio
import os
from contextlib import AsyncExitStack

from binance_oi.cli.endings import OK, USAGE
from binance_oi.cli.render import json_line
from binance_oi.cli.streams import write_note, write_out
from binance_oi.simulator import LocalExchange


async def serve(exchange: LocalExchange, port: int, *, as_json: bool = False) -> int:
    """Serve until a signal interrupts the command."""
    async with AsyncExitStack() as running:
        try:
            await running.enter_async_context(exchange)
        except OSError as error:
            if not port:
                raise
            why = os.strerror(error.errno) if error.errno else str(error)
            write_note(f"--port {port} on 127.0.0.1 cannot be used: {why}")
            return USAGE
        write_out(json_line({"url": exchange.url}) if as_json else f"{exchange.url}\n")
        await asyncio.Event().wait()
    return OK
