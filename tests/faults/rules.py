"""Runs a fault between two good calls. If its door is shut, there is no good call before the fault.

Rule of this file: no rule names a fault, so all faults are checked alike. The duration of a call is
checked only in virtual time, because on a real loop it depends on the machine.
"""

import asyncio
import contextlib
import gc
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Self
from unittest import mock

import aiohttp

from binance_oi import (
    BannedError,
    BinanceOIError,
    BudgetExhaustedError,
    OpenInterest,
    OpenInterestClient,
    ProcessBudget,
    RetryPolicy,
    TransportTimeoutError,
)
from binance_oi.sending import connections, governor
from support.virtual_clock import VirtualLoop

from .doors import Door, Plain
from .exchange import BAD, GOOD, GOOD_VALUE, FaultExchange, Step

TIMEOUT = 0.8  # s for a call; the client gives up reading an error's text sooner
# Virtual seconds that a call may take if it waits for nothing, and if it waits for an error's text.
AT_ONCE, TEXT = 0.3, 0.75
HANGS = 600.0  # s of real time after which a call is stuck, not slow
MAX_MEMORY, MAX_READ = 32 * 2**20, 16 * 2**20  # bytes
SOCKET_BUFFERS = 8 * 2**20  # bytes that the kernel accepts and the client does not read
START = 1_795_434_245.0  # Unix s: 55 s before a minute's end
SHORT = RetryPolicy(network_base=0.001, server_base=0.001, overload_base=0.001)
Outcome = type[BinanceOIError] | Decimal


@dataclass(frozen=True)
class Fault:
    """A fault, and its required outcome."""

    name: str
    steps: tuple[Step, ...]
    outcome: Outcome
    wire: int = 1
    """Requests for `BAD` on the wire."""
    charged: int | None = None
    """Charged weight; None: the weight of the requests on the wire."""
    seconds: float = AT_ONCE
    after_that: tuple[Step, ...] | None = None
    """The steps for every attempt after the first; None: `steps` again."""
    fresh: bool = False
    """Whether the fault happens on a new connection."""
    at_accept: bool = False
    lies: bool = False
    """Whether the count or the `Date` is false, so that our books may be too high for a minute."""
    idle: float = 0.0
    """Seconds between the fault and the next call."""
    retry_in: tuple[float, float] | None = None
    """Bounds of `retry_at`, in seconds from the time of the exchange."""
    timeout: float = TIMEOUT
    """The timeout of the call, in seconds."""
    door: Door = Plain()  # noqa: RUF009 - frozen

    def script(self, attempt: int) -> tuple[Step, ...]:
        return self.after_that if attempt > 1 and self.after_that is not None else self.steps


class Clock:
    """The loop's time, plus all seconds that `skip` has added."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._offset = -self._loop.time()

    def steady(self) -> float:
        return self._loop.time() + self._offset + 1000.0

    def wall(self) -> float:
        return self.steady() - 1000.0 + START

    def skip(self, seconds: float) -> None:
        self._offset += seconds

    def datetime(self) -> type[datetime]:
        """A `datetime` whose `now` reads this clock."""
        wall = self.wall

        class OfThisClock(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Self:
                return cls.fromtimestamp(wall(), tz)

        return OfThisClock


@contextlib.contextmanager
def memory_within(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= limit, f"{peak / 2**20:.1f} MiB"


def is_virtual() -> bool:
    return isinstance(asyncio.get_running_loop(), VirtualLoop)


def patience(fault: Fault) -> float:
    """The timeout of a call; on a real loop it is short only if the call may exceed `TEXT`."""
    return fault.timeout if is_virtual() or fault.seconds > TEXT else HANGS


async def good_call(client: OpenInterestClient) -> None:
    """Make a call that succeeds; on a real loop, repeat it after a timeout."""
    result = await outcome_of(client, GOOD)
    while isinstance(result, TransportTimeoutError) and not is_virtual():
        result = await outcome_of(client, GOOD)
    assert result == Decimal(GOOD_VALUE), repr(result)


async def outcome_of(client: OpenInterestClient, symbol: str) -> Decimal | BinanceOIError:
    """The value or our exception; any other exception fails the test."""
    try:
        value = await client.get_open_interest(symbol)
    except BinanceOIError as error:
        return error
    assert isinstance(value, OpenInterest)
    assert value.symbol == symbol
    return value.open_interest


@contextlib.asynccontextmanager
async def nothing_left_over() -> AsyncGenerator[None]:
    """Check that no task is left and that the loop reported no error."""
    loop, noise = asyncio.get_running_loop(), list[object]()
    loop.set_exception_handler(lambda _, context: noise.append(context))
    before = asyncio.all_tasks()
    yield
    gc.collect(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert not noise, noise


WAYS = ("ours", "aiohttp's", "the caller's")


@contextlib.asynccontextmanager
async def session_of(way: str) -> AsyncGenerator[aiohttp.ClientSession | None]:
    """Yield a caller's session, or None for ours, which sends with or without its fast path."""
    if way == "the caller's":
        async with aiohttp.ClientSession() as session:
            yield session
        return
    assert way in WAYS
    with mock.patch.object(connections, "SENDS_DIRECTLY", way == "ours"):
        yield None


class SlowMachineError(Exception):
    """On a real loop, a call reached its timeout although the fault does not cause that."""


async def check_fault(fault: Fault, way: str = "ours") -> None:
    """Check every rule for one fault. If the machine is too slow for a real loop, try 4 times."""
    for is_last in (False, False, False, True):
        clock = Clock()
        with mock.patch.object(governor, "datetime", clock.datetime()):
            try:
                await _check(fault, way, clock)
            except SlowMachineError:
                assert not is_last
            else:
                break


async def _check(fault: Fault, way: str, clock: Clock) -> None:
    budget = ProcessBudget(clock=clock.steady, wall=clock.wall)
    exchange = FaultExchange(
        fault.script,
        now=clock.wall,
        at_accept=fault.at_accept,
        bad_tls=fault.door.bad_tls(),
        good_tls=fault.door.good_tls(),
    )
    async with nothing_left_over(), exchange, fault.door.opened(exchange) as url:
        async with session_of(way) as session:
            client = OpenInterestClient(
                base_url=url,
                budget=budget,
                session=session,
                timeout=patience(fault),
                max_wait=2.0,
                retry=SHORT,
                ssl=fault.door.client_tls(),
            )
            async with client:
                with memory_within(MAX_MEMORY):
                    await _meet(fault, client, exchange, clock)
                await _good_call(fault, client, exchange, clock)
                async with asyncio.timeout(1.0 if is_virtual() else HANGS):
                    await client.aclose()
        await _until(lambda: exchange.open == 0)


async def _meet(
    fault: Fault, client: OpenInterestClient, exchange: FaultExchange, clock: Clock
) -> None:
    exchange.one_each = fault.fresh or fault.at_accept
    if not fault.door.shut:
        await good_call(client)
    exchange.one_each = False
    before = client.usage.charged
    exchange.broken, began = True, asyncio.get_running_loop().time()
    result = await outcome_of(client, BAD)
    took = asyncio.get_running_loop().time() - began
    is_timeout = isinstance(result, TransportTimeoutError)
    if is_timeout and fault.outcome is not TransportTimeoutError and not is_virtual():
        raise SlowMachineError
    _check_outcome(fault, result, clock)
    assert exchange.wire.count(BAD) == fault.wire, (exchange.wire, result)
    assert took <= fault.seconds or not is_virtual(), took
    charged = fault.wire if fault.charged is None else fault.charged
    usage = client.usage
    assert usage.charged - before == charged or fault.lies, (usage.charged - before, charged)
    assert usage.used >= before + charged, (usage.used, before, charged)
    assert exchange.sent <= MAX_READ + SOCKET_BUFFERS
    assert client._governor.waiting == client._governor.in_flight == 0


def _check_outcome(fault: Fault, result: Decimal | BinanceOIError, clock: Clock) -> None:
    if isinstance(fault.outcome, Decimal):
        assert result == fault.outcome
        return
    assert type(result) is fault.outcome, repr(result)
    text = str(result)
    assert text
    assert text.isprintable()
    assert len(text) < 400
    if fault.retry_in is not None:
        retry_at = getattr(result, "retry_at", None)
        assert isinstance(retry_at, datetime)
        assert retry_at.tzinfo is UTC
        low, high = fault.retry_in
        seconds = retry_at.timestamp() - clock.wall()
        assert low <= seconds <= high, seconds


async def _good_call(
    fault: Fault, client: OpenInterestClient, exchange: FaultExchange, clock: Clock
) -> None:
    await asyncio.sleep(fault.idle)
    exchange.broken = False
    await fault.door.repair(exchange)
    held, wire = client.usage.held_until, len(exchange.wire)
    if held is not None:
        refused = await outcome_of(client, GOOD)
        assert isinstance(refused, BannedError | BudgetExhaustedError)
        assert len(exchange.wire) == wire
        clock.skip(held.timestamp() - clock.wall() + 70.0)
    elif fault.lies:
        clock.skip(130.0)
    await good_call(client)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(2.0 if is_virtual() else HANGS):
        while not condition():  # noqa: ASYNC110 - another task changes it
            await asyncio.sleep(0.001)
