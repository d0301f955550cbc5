"""Answers a request by its route, without a framework. The answer may be a stream.

    /                       the page
    /open-interest/BTCUSDT  ?max_age=2&decimal=text            one value
    /snapshot               ?symbols=A,B&max_age=30&decimal=   the values of the latest sweep
    /history/BTCUSDT        ?period=5m&since=&until=&decimal=  the past; instants in Unix ms
    /changes                ?window=1h&symbols=&sort=&top=     changes; also decimal=, trend=true
    /events                 ?symbols=A,B&decimal=&head=true    events; also last_event_id=
    /healthz                                                   whether the values are live

The rule of this file: both adapters (`aiohttp_app` and `asgi_app`) get every answer from it. An
unexpected error goes to the log, and the visitor gets no detail of it.
"""

import logging
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Final, NamedTuple, Protocol

from binance_oi import __version__
from binance_oi.encoding import json_text
from binance_oi.errors import BinanceOIError
from binance_oi.web.changing import PARAMETERS as OF_CHANGES
from binance_oi.web.changing import changes_question
from binance_oi.web.events import Event, View
from binance_oi.web.hub import Hub, Listener
from binance_oi.web.messages import (
    EVENTS,
    JSON,
    NOSNIFF,
    Answer,
    Body,
    Headers,
    Request,
    accepts_gzip,
    matches,
)
from binance_oi.web.page import POLICY
from binance_oi.web.past import PARAMETERS, past_question
from binance_oi.web.problems import AGAIN_AFTER, UNKNOWN, Kind, ProblemError, problem
from binance_oi.web.queries import Query, symbol_of
from binance_oi.web.service import Service
from binance_oi.web.visitors import address_of, check_host, cross_origin, is_allowed

logger: logging.Logger = logging.getLogger("binance_oi")

METHODS: Final = ("GET", "HEAD", "OPTIONS")
NOT_FOUND: Final = Kind(404, "not-found", "There is no such route.")
METHOD: Final = Kind(405, "method", "This service only reads: GET and HEAD.")
TOO_MANY: Final = Kind(429, "visitor", "This address asks too often for the past or for changes.")
FULL: Final = Kind(503, "full", "The service has as many listeners as it allows.")
TIMEOUT: Final = Kind(504, "timeout", "There was no answer in time.")
STREAMING: Final = (
    ("Content-Type", EVENTS),
    ("Cache-Control", "no-store"),
    NOSNIFF,
    ("X-Accel-Buffering", "no"),  # without it, nginx buffers events
)
MOST_HOSTS: Final = 64  # accepted values of `Host` that we remember
MOST_BODIES: Final = 256  # encoded snapshots, kept until the next event; also parsed queries


class Listen(Protocol):
    """Makes the listener of a stream."""

    def __call__(
        self,
        *,
        cut: Callable[[], object] | None = None,
        is_gone: Callable[[], bool] | None = None,
    ) -> Listener:
        """See `Hub.listen`."""
        ...


class Stream(NamedTuple):
    """An answer without an end: the adapter sends the headers, then the bytes of the listener."""

    headers: Headers
    listen: Listen

    @property
    def full(self) -> Answer:
        """The answer if `listen` raises `FullError`, readable by the same origins as the stream."""
        answer = ProblemError(FULL, after=AGAIN_AFTER).answer()
        return answer._replace(headers=(*answer.headers, *self.headers[len(STREAMING) :]))


Result = Answer | Stream
Handler = Callable[[Request, str], Awaitable[Result]]


class Router:
    """Answers requests from the parts of a service.

    Args:
        service: The service.
    """

    def __init__(self, service: Service) -> None:
        self.service: Service = service
        self._routes: dict[str, Handler] = {
            "/snapshot": self._snapshot,
            "/changes": self._changes,
            "/events": self._events,
            "/healthz": self._healthz,
        }
        self._of_symbols: dict[str, Handler] = {
            "/open-interest": self._open_interest,
            "/history": self._history,
        }
        self._hosts: set[str] = set()  # accepted values of the header `Host`
        self._views: dict[str, tuple[View, float | None]] = {}  # parsed queries, by their text
        self._bodies: dict[View, Body] = {}
        self._bodies_of: Event | None = None  # the state that `_bodies` encode

    @property
    def plain_paths(self) -> Collection[str]:
        """The routes without a symbol."""
        return self._routes

    async def answer(self, request: Request) -> Result:
        """Answer a request; an error becomes an answer too."""
        service = self.service
        try:
            host = request.headers.get("host", "")
            if host not in self._hosts:
                self._check_host(host)
            result = await self._route(request)
        except ProblemError as error:
            result = error.answer()
        except BinanceOIError as error:
            usage = service.hub.source.usage
            result = problem(error, None if usage is None else usage.held_until).answer()
        except TimeoutError:
            result = ProblemError(TIMEOUT, after=AGAIN_AFTER).answer()
        except Exception:
            logger.exception("the request %.200r cannot be answered", request.path)
            result = ProblemError(UNKNOWN).answer()
        if not service.origins:
            return result
        more = cross_origin(request.headers.get("origin", ""), service.origins)
        return result._replace(headers=(*result.headers, *more))

    def _check_host(self, host: str) -> None:
        check_host(host, self.service.hosts)
        if len(self._hosts) < MOST_HOSTS:
            self._hosts.add(host)

    async def _route(self, request: Request) -> Result:
        if request.method not in METHODS:
            raise ProblemError(METHOD, headers=(("Allow", ", ".join(METHODS)),))
        path, symbol = request.path, ""
        handler = self._routes.get(path)
        if handler is None:
            first, slash, rest = path[1:].partition("/")
            handler, symbol = self._of_symbols.get(f"/{first}" if slash else ""), rest
        if handler is None:
            return self._file(request)
        if request.method == "OPTIONS":
            return Answer(204, (("Allow", ", ".join(METHODS)), *self._preflight(request)))
        return await handler(request, symbol)

    def _file(self, request: Request) -> Answer:
        body = self.service.page.file(request.path)
        if body is None and request.path == "/":
            routes = sorted([*self._routes, *self._of_symbols])
            body = Body.of({"binance-oi": __version__, "routes": routes})
        if body is None:
            raise ProblemError(NOT_FOUND)
        policy = (("Content-Security-Policy", POLICY), ("Referrer-Policy", "no-referrer"))
        return _answer(request, body, policy)

    def _preflight(self, request: Request) -> Headers:
        if not is_allowed(request.headers.get("origin", ""), self.service.origins):
            return ()
        return (("Access-Control-Allow-Methods", "GET, HEAD"), ("Access-Control-Max-Age", "600"))

    # -- values --------------------------------------------------------------------------------

    async def _open_interest(self, request: Request, symbol: str) -> Answer:
        service = self.service
        query = self._query(request, ("max_age", "decimal"))
        name, max_age, decimals = symbol_of(symbol), query.seconds("max_age"), query.decimals()
        if service.values.is_of_recording and not service.is_ready:
            await service.ready()
        cell = await service.values.one(service.hub, name, max_age)
        age = service.hub.age_of(cell.at)
        return _answer(request, Body(cell.encoded(decimals)), (("Age", str(age)),))

    async def _snapshot(self, request: Request, _: str) -> Answer:
        view, max_age = self._view(request)
        if not self.service.is_ready:
            await self.service.ready()
        hub, body = self.service.hub, None
        state = hub.state
        assert state is not None
        if max_age is not None:
            body = await self._renewed(hub, state, view, max_age)
        age = (("Age", str(hub.age_of(hub.read_at or hub.now))),)
        return _answer(request, body or self._body(state, view), age)

    def _view(self, request: Request) -> tuple[View, float | None]:
        """Parse the query of a snapshot; remember the result for equal texts."""
        known = self._views.get(request.query)
        if known is None:
            query = self._query(request, ("symbols", "max_age", "decimal"))
            names = query.symbols(self.service.limits.symbols)
            known = View(names, query.decimals()), query.seconds("max_age")
            if len(self._views) >= MOST_BODIES:
                self._views.clear()
            self._views[request.query] = known
        return known

    async def _renewed(self, hub: Hub, state: Event, view: View, max_age: float) -> Body | None:
        """Read outdated values again, and return the body; None if no value was too old."""
        values = self.service.values
        names = tuple(hub.cells) if view.names is None else view.names
        stale = values.stale(hub, [name for name in names if name in hub.cells], max_age)
        if not stale:
            return None
        await values.renew(hub, stale, max_age)
        latest = {name: cell for name in names if (cell := values.latest(hub, name)) is not None}
        return Body(state.with_cells(latest).data(view))

    def _body(self, state: Event, view: View) -> Body:
        """Return the state as a body. Until the next event, equal views get the same body."""
        if self._bodies_of is not state:
            self._bodies_of, self._bodies = state, {}
        body = self._bodies.get(view)
        if body is None:
            if len(self._bodies) >= MOST_BODIES:
                self._bodies.clear()
            body = self._bodies[view] = Body(state.data(view))
        return body

    async def _history(self, request: Request, symbol: str) -> Answer:
        service = self.service
        query = self._query(request, PARAMETERS)
        question = past_question(symbol, query, service.limits, service.past.now())
        self._count(request)
        return _answer(request, await service.past.read(question))

    async def _changes(self, request: Request, _: str) -> Answer:
        service = self.service
        question = changes_question(self._query(request, OF_CHANGES), service.limits)
        self._count(request)
        await service.ready()
        return _answer(request, await service.changes.read(service.hub, question))

    def _count(self, request: Request) -> None:
        """Take a token of the visitor's address, for a question about the past or about changes.

        Raises:
            ProblemError: This address has asked too many such questions.
        """
        service = self.service
        address = address_of(request.address(), request.headers, service.proxies)
        if wait := service.visitors.take(address, service.hub.now):
            raise ProblemError(TOO_MANY, after=wait)

    # -- the stream ----------------------------------------------------------------------------

    async def _events(self, request: Request, _: str) -> Result:
        service = self.service
        names = ("symbols", "decimal", "head", "last_event_id")
        query = self._query(request, names)
        symbols = query.symbols(service.limits.symbols)
        view = View(symbols, query.decimals(), query.flag("head"))
        last = request.headers.get("last-event-id") or query.text("last_event_id") or ""
        if request.method == "HEAD":
            return Answer(200, STREAMING)
        service.begin()
        hub = service.hub
        if hub.listeners >= service.limits.listeners:
            raise ProblemError(FULL, after=AGAIN_AFTER)
        return Stream(STREAMING, partial(hub.listen, view, last_event_id=last))

    async def _healthz(self, request: Request, _: str) -> Answer:
        self._query(request, ())
        service, hub = self.service, self.service.hub
        if not service.has_begun:
            status = "idle"
        elif service.failure is not None or hub.is_closed:
            status = "failed"
        elif hub.latest is None:
            status = "starting"
        else:
            status = "stale" if hub.is_stale else "live"
        gap, latest = hub.gaps[-1] if hub.gaps else None, hub.latest
        is_missing = gap is not None and (latest is None or gap.last > latest.slot)
        found: dict[str, object] = {
            "status": status,
            "slot": None if latest is None else latest.slot,
            "age": None if hub.read_at is None else hub.age_of(hub.read_at),
            "symbols": len(hub.cells),
            "listeners": hub.listeners,
            "missing": gap.reason if gap is not None and is_missing else None,
            "version": __version__,
        }
        headers = (("Content-Type", JSON), ("Cache-Control", "no-store"), NOSNIFF)
        code = 200 if status in ("idle", "live") else 503
        return Answer(code, headers, json_text(found).encode())

    def _query(self, request: Request, names: tuple[str, ...]) -> Query:
        return Query(request.query, names, self.service.limits.query)


def _answer(request: Request, body: Body, more: Headers = ()) -> Answer:
    """Return the answer with this body, or a 304 if the visitor has it already."""
    received, headers = request.headers, (*body.headers, *more)
    tags = received.get("if-none-match")
    if tags is not None and matches(tags, body.tag):
        return Answer(304, headers)
    if body.pays_to_pack and accepts_gzip(received.get("accept-encoding", "")):
        return Answer(200, (*headers, ("Content-Encoding", "gzip")), body.packed)
    return Answer(200, headers, body.data)
