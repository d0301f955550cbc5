"""Starts and ends the parts of a service, such as its hub, its values and its past.

The rule of this file: the hub, which polls for all visitors, begins with the first request that
needs it, or when the owner of the service calls `begin`. The service does not rely on a notice that
the framework starts or stops, because a mounted application gets no such notice.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Final, TypedDict

from binance_oi.arguments import StrPath, check_type
from binance_oi.client import OpenInterestClient
from binance_oi.errors import BinanceOIError
from binance_oi.recorder.address import check_recording
from binance_oi.web.allowances import Allowances
from binance_oi.web.changing import Changes
from binance_oi.web.hub import Hub, Source
from binance_oi.web.limits import Limits
from binance_oi.web.page import Page
from binance_oi.web.past import Past
from binance_oi.web.problems import AGAIN_AFTER, Kind, ProblemError
from binance_oi.web.sources import ClientSource, RecordingSource
from binance_oi.web.values import NO_DATA, Values

logger: logging.Logger = logging.getLogger("binance_oi")

AGAIN_S: Final = 30.0  # s after a failure until the hub may begin again
MINUTE: Final = 60.0
CLOSED: Final = Kind(503, "closed", "The service is about to end.")
FAILED: Final = Kind(503, "failed", "The market cannot be read now.")


class Options(TypedDict, total=False):
    """The options of `oi_app` and `oi_asgi`."""

    recording: StrPath | None
    """A recording: a file, or the URL of a database. The service looks there for the past before it
    asks the exchange. Without a client, the present values also come from this recording, which
    another process writes."""
    symbols: Iterable[str] | None
    """The symbols to poll; None follows the exchange's list."""
    every: float | None
    """Seconds from sweep to sweep; None chooses the shortest schedule that fits."""
    notional: bool
    """Whether to read mark prices too."""
    hosts: Collection[str] | None
    """The host names and addresses of this service, without ports. The service refuses requests
    for any other host. None allows all."""
    origins: Collection[str]
    """Origins whose pages may read the answers, such as ``https://example.org``."""
    proxies: Collection[str]
    """Addresses of proxies whose header `X-Forwarded-For` names the visitor."""
    limits: Limits
    """Bounds on what visitors may use."""
    page: StrPath | None
    """A directory of static files for ``/``; None for the page of this package."""


class Service:
    """All parts that the routes use. It belongs to one event loop.

    Args:
        client: Reads the exchange; the service never closes it. With None, the service sends no
            requests and reads the recording.
        options: See `Options`.

    Raises:
        TypeError: There is neither a client nor a recording; or an option is unknown, or has
            another type.
        ValueError: `every` cannot be a period, or `recording` cannot be a recording.
        InvalidSymbolError: One of `symbols` cannot be a symbol.
    """

    def __init__(self, client: OpenInterestClient | None, options: Options) -> None:
        _check_options(client, options)
        recording = options.get("recording")
        place = None if recording is None else check_recording("recording", recording)
        self.limits: Limits = options.get("limits", Limits())
        self.hosts: Collection[str] | None = _lower(options.get("hosts"))
        self.origins: Collection[str] = frozenset(options.get("origins", ()))
        self.proxies: Collection[str] = frozenset(options.get("proxies", ()))
        self.page: Page = Page.of(options.get("page"))
        self._source = _source(client, place, options)
        self.changes: Changes = Changes(place)
        self.hub: Hub = self._new_hub()
        self.values: Values = Values(client, self.limits)
        self.past: Past = Past(client, place, self.limits)
        limits = self.limits
        self.visitors: Allowances = Allowances(limits.past_requests, MINUTE, limits.addresses)
        self._running: asyncio.Task[None] | None = None
        self._failed_at = 0.0
        self.is_closed: bool = False
        self.failure: BaseException | None = None
        """The error that ended the hub; None if it runs or has ended without one."""

    @property
    def has_begun(self) -> bool:
        """Whether the hub runs, or has run."""
        return self._running is not None

    @property
    def is_ready(self) -> bool:
        """Whether the hub runs and has read the market."""
        return self.hub.latest is not None and not (self.is_closed or self.hub.is_closed)

    def begin(self) -> None:
        """Start the hub if it does not run.

        Raises:
            ProblemError: The service is closed, or the hub failed less than `AGAIN_S` seconds ago.
        """
        if self.is_closed:
            raise ProblemError(CLOSED, after=AGAIN_AFTER)
        if self._running is not None and not self._running.done():
            return
        left = self._failed_at + AGAIN_S - asyncio.get_running_loop().time()
        if self.failure is not None and left > 0.0:
            raise ProblemError(FAILED, after=left)
        if self.hub.is_closed:
            self.hub = self._new_hub()
        self.failure = None
        self._running = asyncio.create_task(self._run(self.hub), name="binance-oi hub")

    async def ended(self) -> None:
        """Wait until the hub ends; if it has failed, raise its error."""
        if self._running is not None:
            await asyncio.wait([self._running])
        if self.failure is not None:
            raise self.failure

    async def ready(self) -> None:
        """Start the hub, and wait until it has read the market.

        The wait ends early if the hub reports a gap. There is no wait if a cooldown lasts longer
        than `Limits.first_sweep`.

        Raises:
            ProblemError: The hub has not read the market in time; or see `begin`.
        """
        self.begin()
        hub, longest = self.hub, self.limits.first_sweep
        if not hub.number and hub.seconds_held() <= longest:
            with suppress(TimeoutError):
                async with asyncio.timeout(longest):
                    await hub.ready()
        if hub.latest is None:
            self.begin()  # raises if the hub has failed in the meantime
            raise ProblemError(NO_DATA, after=hub.seconds_to_next())

    def open(self) -> None:
        """Accept requests, even after `drain`."""
        self.is_closed = False

    def drain(self) -> None:
        """End every stream after its remaining events, and refuse new streams."""
        self.is_closed = True
        self.hub.close()

    async def aclose(self) -> None:
        """End the streams and the hub. A second call does nothing."""
        self.drain()
        await self.changes.aclose()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    def _new_hub(self) -> Hub:
        return Hub(self._source, limits=self.limits, on_values=self.changes.observe)

    async def _run(self, hub: Hub) -> None:
        try:
            await hub.run()
        except (BinanceOIError, ValueError) as error:
            self.failure, self._failed_at = error, asyncio.get_running_loop().time()
            if not self.is_closed:
                logger.warning("the service cannot read the market: %s", error)


def _check_options(client: OpenInterestClient | None, options: Options) -> None:
    """Check the arguments of the caller.

    Raises:
        TypeError: An option is unknown, or a value has another type.
    """
    check_type("client", client, OpenInterestClient, None)
    check_type("limits", options.get("limits", Limits()), Limits)
    if unknown := sorted(options.keys() - Options.__annotations__.keys()):
        raise TypeError(f"there is no option {', '.join(unknown)}")
    lists = ("hosts", "origins", "proxies", "symbols")
    for name, value in options.items():
        if name in lists and isinstance(value, str | bytes):
            raise TypeError(f"{name} must be a list, such as [{value!r}]")


def _source(client: OpenInterestClient | None, place: StrPath | None, options: Options) -> Source:
    if client is not None:
        every, symbols = options.get("every"), options.get("symbols")
        notional = options.get("notional", False)
        return ClientSource(client, symbols, every=every, notional=notional)
    if place is None:
        raise TypeError("a service needs a client or a recording")
    return RecordingSource(place)


def _lower(hosts: Collection[str] | None) -> Collection[str] | None:
    return None if hosts is None else frozenset(host.lower() for host in hosts)
