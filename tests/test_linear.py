"""Work grows linearly with the size of an answer or of a user's input.

Rule of this file: tests count work, not seconds. They cannot count the work of the regex engine. So
one test gives it a text that would take hours if the work were quadratic.
"""

import json
import subprocess
import sys
from collections.abc import Callable

import aiohttp
import pytest

from binance_oi import OpenInterestClient, ProcessBudget
from binance_oi.exchange.decoding import decode_exchange_info, decode_mark_prices
from support.counting import calls_counted
from support.raw_exchange import RawExchange, answer
from support.sender import Sender as RawSender

TIMES = 4  # the second size, as a multiple of the first
ROWS = 500
HUNG_S = 300.0  # s; linear work takes less even on a slow machine, quadratic work takes hours


def name(number: int) -> str:
    """Return a name of fixed length, because each letter takes work."""
    return f"S{number:06}USDT"


def listing(symbols: list[object], limits: list[object] | None = None) -> bytes:
    return json.dumps({"symbols": symbols, "rateLimits": limits or []}).encode()


def plain_rows(count: int) -> list[object]:
    return [{"symbol": name(n), "status": "TRADING"} for n in range(count)]


def odd(count: int) -> list[object]:
    return [{"symbol": name(n), "status": "TRADING", "pair": n} for n in range(count)]


def without_status(count: int) -> list[object]:
    return [
        {"symbol": "BTCUSDT", "status": "TRADING"},
        *({"symbol": name(n)} for n in range(count)),
    ]


def limits(count: int) -> list[object]:
    """Limits that are all needed: no limit implies another."""
    kind = {"rateLimitType": "REQUEST_WEIGHT", "interval": "SECOND"}
    return [kind | {"intervalNum": n, "limit": 1000 + n} for n in range(1, count + 1)]


def prices(count: int) -> bytes:
    rows = [{"symbol": name(n), "markPrice": "" if n else "1.0", "time": 1} for n in range(count)]
    return json.dumps(rows).encode()


BODIES: dict[str, Callable[[int], object]] = {
    "rows": lambda count: decode_exchange_info(listing(plain_rows(count))).trading,
    "odd rows": lambda count: decode_exchange_info(listing(odd(count))),
    "rows without a status": lambda count: decode_exchange_info(listing(without_status(count))),
    "limits": lambda count: (
        decode_exchange_info(listing(plain_rows(1), limits(count))).other_limits
    ),
    "prices": lambda count: decode_mark_prices(prices(count)),
}


@pytest.mark.parametrize("kind", BODIES)
def test_decoding_work_is_linear_in_the_number_of_rows(kind: str) -> None:
    counts = list[int]()
    for rows in (ROWS, ROWS * TIMES):
        with calls_counted() as calls:
            BODIES[kind](rows)
        counts.append(calls.count)
    assert counts[1] <= 1.1 * TIMES * counts[0]  # quadratic work would be 16 times as much


class Piece(bytes):
    """A piece of a body. The class counts the bytes that are copied when a piece is appended."""

    copied = 0

    def __radd__(self, before: bytes) -> bytes:
        Piece.copied += len(before) + len(self)
        return bytes(before) + bytes(self)


@pytest.mark.virtual_time
async def test_a_body_of_12_mb_is_copied_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces, read = list[int](), aiohttp.StreamReader.readany

    async def read_piece(content: aiohttp.StreamReader) -> bytes:
        piece = Piece(await read(content))
        pieces.append(len(piece))
        return piece

    monkeypatch.setattr(aiohttp.StreamReader, "readany", read_piece)
    monkeypatch.setattr(Piece, "copied", 0)
    body = b"x" * 12_000_000
    async with RawExchange(lambda n: answer(200, body)) as exchange, RawSender() as ours:
        found = await ours.get(exchange.url, max_bytes=16 * 1024 * 1024, timeout=600.0)
    assert found == (200, body, True)
    assert len(pieces) > 90  # the connection delivers small pieces
    assert Piece.copied <= len(body)


@pytest.mark.virtual_time
async def test_an_unlisted_symbol_does_not_scan_the_listing() -> None:
    def script(number: int) -> bytes:
        return answer(200, listing(plain_rows(ROWS)))

    async with (
        RawExchange(script) as exchange,
        OpenInterestClient(base_url=exchange.url, budget=ProcessBudget()) as client,
    ):
        await client.exchange_info()
        with calls_counted() as calls:
            for n in range(ROWS):
                client._listing.doubt(f"OLD{n}USDT")
        assert calls.count <= 4 * ROWS
        await client.exchange_info(max_age=300.0)
        assert len(exchange.requests) == 1
        client._listing.doubt(name(7))  # a doubt about a listed symbol discards the listing
        await client.exchange_info(max_age=300.0)
        assert len(exchange.requests) == 2


@pytest.mark.parametrize("text", ["'s' * 4_000_000", "'s@' + 's' * 4_000_000"])
def test_the_search_for_secrets_is_linear_in_the_text(text: str) -> None:
    program = f"from binance_oi.cli.program import without_secrets as w; print(len(w({text})))"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=HUNG_S, check=True
    )
    assert int(found.stdout) in (4_000_000, 4_000_004)
