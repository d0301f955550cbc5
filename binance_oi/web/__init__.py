"""Serves open interest to other programs over HTTP: values, the past, and a stream of events.

limits.py       defines what visitors may use
messages.py     defines requests and answers as values
problems.py     converts errors to problem details (RFC 9457)
queries.py      reads the parameters of a query
visitors.py     finds the address of a visitor, and checks the host of a request
allowances.py   limits requests with tokens, which return at a constant rate
events.py       makes the events of the stream, and encodes them once
hub.py          passes the events of one poller to any number of listeners
sources.py      reads the values for a hub, with a client or from a recording
values.py       keeps the latest values, and reads newer ones
past.py         answers questions about the past of a symbol
changing.py     answers questions about changes of open interest
page.py         serves static files
service.py      starts and ends all parts of a service
router.py       answers requests, without a framework
signals.py      ends streams at SIGINT and SIGTERM
server.py       runs a server for the service alone
systemd.py      reports the state of a service to systemd
aiohttp_app.py  adapts the service to aiohttp
asgi_app.py     adapts the service to ASGI: uvicorn, Starlette, FastAPI
"""

from typing import TYPE_CHECKING

from binance_oi.lazy import on_first_use

if TYPE_CHECKING:
    from binance_oi.web.aiohttp_app import oi_app
    from binance_oi.web.asgi_app import OIAsgi, oi_asgi, oi_lifespan
    from binance_oi.web.events import View
    from binance_oi.web.hub import Hub, Listener, Source
    from binance_oi.web.limits import Limits
    from binance_oi.web.sources import ClientSource, RecordingSource

__all__ = [
    "ClientSource",
    "Hub",
    "Limits",
    "Listener",
    "OIAsgi",
    "RecordingSource",
    "Source",
    "View",
    "oi_app",
    "oi_asgi",
    "oi_lifespan",
]

if not TYPE_CHECKING:  # so an ASGI application does not import aiohttp's server
    __getattr__ = on_first_use(
        __name__,
        {
            "aiohttp_app": ("oi_app",),
            "asgi_app": ("OIAsgi", "oi_asgi", "oi_lifespan"),
            "events": ("View",),
            "hub": ("Hub", "Listener", "Source"),
            "limits": ("Limits",),
            "sources": ("ClientSource", "RecordingSource"),
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
