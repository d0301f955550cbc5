"""Open interest for other programs: values, the past, and a stream of what changes, over HTTP.

limits.py       what visitors may cost
messages.py     requests and answers as values
problems.py     errors as problem details
queries.py      the parameters of a query
visitors.py     who asks, and for which host
allowances.py   tokens of visitors, which come back evenly
events.py       what happens in the market, encoded once
hub.py          one poller, any number of listeners
sources.py      where a hub reads: a client, or a recording
values.py       the latest values
past.py         the past of a symbol
changing.py     how values change
page.py         static files
service.py      all of these together, and when they begin and end
router.py       from a request to an answer, without a framework
aiohttp_app.py  the adapter for aiohttp
asgi_app.py     the adapter for ASGI: uvicorn, Starlette, FastAPI
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

if not TYPE_CHECKING:  # an ASGI application imports nothing of aiohttp's server
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
