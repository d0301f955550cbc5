"""The command that serves."""

import sys
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from binance_oi.cli.app import command
from binance_oi.cli.options import Flag, Schedule, Source, Store, Symbols

Names = Annotated[list[str] | None, Parameter(negative=())]


@command
def serve(
    symbols: Symbols = None,
    *,
    record_to: Store | None = None,
    recording: Store | None = None,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 8787,
    every: Schedule = None,
    notional: Flag = False,
    allow_host: Names = None,
    allow_origin: Names = None,
    trust_proxy: Names = None,
    print_unit: Flag = False,
    json: Flag = False,
    source: Source = Source(),
) -> int:
    """Serve open interest to other programs until a signal stops it; the first line is the URL.

    The service has no login. Let it listen on loopback only, or put a proxy with a login in front.

    Args:
        symbols: Only these symbols; by default, every symbol that is trading.
        record_to: Record into this file or database too. The service then answers requests for the
            past from it first.
        recording: Send the exchange no requests; serve this file or database, into which another
            process records.
        host: The address to listen on.
        port: The port; 0 for any free port.
        every: The time between sweeps, such as 20s, 5m or 1h; or auto, the shortest time from 5s to
            10m that fits into the budget.
        notional: Read mark prices too.
        allow_host: Another host name of this service. Requests for unknown names are refused.
        allow_origin: An origin whose pages may read the answers, such as https://example.org.
        trust_proxy: The address of a proxy whose header X-Forwarded-For names the visitor.
        print_unit: Print a systemd unit for this command, and end.
        json: Print the URL as a JSON object.
    """
    from binance_oi.cli import serving

    if print_unit:
        return serving.print_unit(sys.argv[1:])
    arguments = serving.Arguments(
        symbols=symbols,
        every=every,
        notional=notional,
        record_to=record_to,
        recording=recording,
        host=host,
        port=port,
        hosts=allow_host or (),
        origins=allow_origin or (),
        proxies=trust_proxy or (),
        as_json=json,
    )
    return serving.serve(arguments, source)
