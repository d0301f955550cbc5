"""Under every fault, a call for history ends with the right rows or with one of our exceptions.

Rule of this file: the faults are data at the top, and one set of rules checks all of them. Each
request on the wire is charged to the limit of history, and not to the minute.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest

from binance_oi import (
    BannedError,
    BinanceOIError,
    BudgetExhaustedError,
    DecodeError,
    ForbiddenError,
    OpenInterestClient,
    ProcessBudget,
    RateLimitedError,
    ResponseError,
    ServerError,
    SymbolNotTradingError,
    TransportError,
    TransportTimeoutError,
    UnknownSymbolError,
    WrongSymbolError,
)
from binance_oi.sending import governor
from support.lanes import some
from support.virtual_clock import VirtualLoop

from .exchange import BAD, Act, FaultExchange, Repeat, Step
from .rules import SHORT, START, TIMEOUT, Clock, nothing_left_over

TIME = int(START) * 1000 - 600_000
VALUE = (Decimal("1.5"),)
SEEN = (400, 401, 403, 404, 408, 418, 429, 451, 500, 502, 503, 504)  # statuses of the exchange
ROW: dict[str, object] = {
    "symbol": BAD,
    "sumOpenInterest": "1.5",
    "sumOpenInterestValue": "3.25",
    "CMCCirculatingSupply": "7.0",
    "timestamp": TIME,
}
CODES = {
    -1121: UnknownSymbolError,
    -4108: SymbolNotTradingError,
    -1102: ResponseError,
    -1130: ResponseError,
    -1003: RateLimitedError,
    -1008: ServerError,
}
Outcome = type[BinanceOIError] | tuple[Decimal, ...]


def answer(body: bytes, *lines: bytes, status: int = 200, length: int | None = None) -> bytes:
    size = b"Content-Length: %d" % (len(body) if length is None else length)
    head = [b"HTTP/1.1 %d Text" % status, b"Date: {DATE}", size, *lines, b"", b""]
    return b"\r\n".join(head) + body


def page(*rows: object) -> bytes:
    return answer(json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode())


def error(status: int, code: int, text: str = "text") -> bytes:
    return answer(json.dumps({"code": code, "msg": text}).encode(), status=status)


GOOD = page(ROW)


@dataclass(frozen=True)
class Fault:
    """A fault of the exchange, and the required outcome of the call."""

    name: str
    steps: tuple[Step, ...]
    outcome: Outcome
    wire: int = 1
    """Requests on the wire."""


def statuses() -> Iterator[Fault]:
    kinds: dict[int, tuple[Outcome, int]] = {
        **dict.fromkeys((400, 401, 404), (ResponseError, 1)),
        **dict.fromkeys((500, 502, 503, 504), (ServerError, 3)),
        403: (ForbiddenError, 1),
        451: (ForbiddenError, 1),
        418: (BannedError, 1),
        429: (RateLimitedError, 1),
        408: (TransportError, 3),
    }
    for status in SEEN:
        outcome, wire = kinds[status]
        bodies = {
            "HTML": b"<html>",
            "nothing": b"",
            "a list": b"[]",
            "rows": GOOD.split(b"\r\n")[-1],
        }
        for name, body in bodies.items():
            expected: Outcome = ServerError if status == 408 else outcome
            yield Fault(f"{status} with {name}", (answer(body, status=status),), expected, wire)
    for code, kind in CODES.items():
        wire = 3 if kind is ServerError else 1
        yield Fault(f"400 {code}", (error(400, code),), kind, wire)
        yield Fault(f"200 {code}", (error(200, code),), kind, wire)
    for status in (201, 202, 204, 206, 301, 302, 304):
        kind = DecodeError if status < 300 else ResponseError
        yield Fault(f"status {status}", (answer(b"", status=status),), kind)
    ban = f"Way too many requests; IP(1.2.3.4) banned until {int(START + 600) * 1000}."
    for status in (400, 403, 418):
        yield Fault(f"a ban under {status}", (error(status, -1003, ban),), BannedError)


def cuts() -> Iterator[Fault]:
    chunked = answer(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    phases = {
        "before an answer": b"",
        "inside the status line": GOOD[:12],
        "inside a header": GOOD[:40],
        "after the headers": GOOD.partition(b"[")[0],
        "inside the body": GOOD[:-30],
        "one byte before its end": GOOD[:-1],
        "inside a chunk": chunked + b"99\r\n[",
    }
    for phase, text in phases.items():
        for act in (Act.CLOSE, Act.RESET, Act.HALF_CLOSE):
            steps: tuple[Step, ...] = (text, act)
            if act is Act.HALF_CLOSE:
                steps = (*steps, Act.STALL)
            yield Fault(f"{act.value} {phase}", steps, TransportError, 3)
        yield Fault(f"silence {phase}", (text, Act.STALL), TransportTimeoutError)


def bodies() -> Iterator[Fault]:
    for name, body in {
        "an object": b"{}",
        "null": b"null",
        "a number": b"5",
        "HTML": b"<html><body>",
        "nothing": b"",
        "half of a list": b"[" + json.dumps(ROW).encode(),
        "deep lists": b"[" * 5000,
        "bytes": b"\xff\xfe\x00",
        "items that are no rows": b'[1,null,"x",[]]',
        "an error without a code": b'{"msg":"x"}',
        "the first two bytes of a gzip": b"\x1f\x8b",
    }.items():
        yield Fault(f"200 with {name}", (answer(body),), DecodeError)
    huge = answer(b"", length=2**31).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    yield Fault("a body without end", (huge, Repeat(b" " * 65_536)), DecodeError)
    yield Fault("no rows", (page(),), ())
    yield Fault("a row", (GOOD,), VALUE)
    yield Fault("a row twice", (page(ROW, ROW),), VALUE)
    yield Fault("a row, and an older one", (page(ROW, ROW | {"timestamp": 5}),), VALUE)
    yield Fault("only a row that is too old", (page(ROW | {"timestamp": 5}),), (), 2)
    yield Fault("a value as a number", (page(ROW | {"sumOpenInterest": 1.5}),), VALUE)
    yield Fault("a time as a text", (page(ROW | {"timestamp": str(TIME)}),), VALUE)
    yield Fault("a new field", (page(ROW | {"new": [{}]}),), VALUE)
    yield Fault("no circulating supply", (page(ROW | {"CMCCirculatingSupply": None}),), VALUE)
    other = ROW | {"symbol": "FOOUSDT"}
    yield Fault("another symbol's page", (page(other),), WrongSymbolError)
    yield Fault("another symbol's row", (page(other, ROW),), VALUE)
    odds: tuple[object, ...] = ("NaN", "-1", "1e5", "1_0", "", "١", "9" * 40, None, True, {})
    for odd in odds:
        row = ROW | {"sumOpenInterest": odd, "timestamp": TIME + 300_000}
        yield Fault(f"a row with {odd!r}", (page(row, ROW),), VALUE)
        yield Fault(f"only a row with {odd!r}", (page(row),), DecodeError)
    for when in (0, -5, "x", 10**18, "1" * 6000, None, 1.5):
        odd_time = ROW | {"timestamp": when}
        yield Fault(f"a row at {str(when)[:20]}", (page(odd_time, ROW),), VALUE)


FAULTS = [*statuses(), *cuts(), *bodies()]


async def outcome_of(client: OpenInterestClient, symbol: str) -> Any:
    """The result, or our exception; any other exception fails the test."""
    try:
        found = await client.history(symbol, since=TIME - 300_000, until=TIME + 600_000)
    except BinanceOIError as error:
        return error
    assert {row.symbol for row in found} <= {symbol}
    return tuple(row.open_interest for row in found)


async def check_fault(fault: Fault) -> None:
    clock = Clock()
    budget = ProcessBudget(clock=clock.steady, wall=clock.wall)
    exchange = FaultExchange(lambda _: fault.steps, now=clock.wall)
    exchange.broken = True
    with mock.patch.object(governor, "datetime", clock.datetime()):
        async with nothing_left_over():
            await exchange.listen()
            async with OpenInterestClient(
                base_url=f"http://127.0.0.1:{exchange.port}",
                budget=budget,
                timeout=TIMEOUT,
                max_wait=0.0,
                retry=SHORT,
            ) as client:
                result = await outcome_of(client, BAD)
                _judge(fault, result)
                assert len(exchange.wire) == fault.wire
                assert client.history_usage.used == fault.wire
                assert client.usage.used == 0
                held = client.history_usage.held_until
                if held is None:
                    exchange._script = lambda _: (GOOD,)
                    assert await outcome_of(client, BAD) == VALUE
                else:  # during a cooldown, no call sends a request
                    refused = await outcome_of(client, BAD)
                    assert isinstance(refused, BannedError | BudgetExhaustedError)
                    assert len(exchange.wire) == fault.wire
            await exchange.end()


def _judge(fault: Fault, result: Any) -> None:
    if isinstance(fault.outcome, tuple):
        assert result == fault.outcome
        return
    assert type(result) is fault.outcome, repr(result)
    text = str(result)
    assert text.isprintable()
    assert 0 < len(text) < 400


@pytest.mark.parametrize("fault", some(FAULTS, always=30), ids=lambda fault: fault.name)
def test_every_fault_of_a_page_ends_with_the_right_rows_or_one_of_our_exceptions(
    fault: Fault,
) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(check_fault(fault))
