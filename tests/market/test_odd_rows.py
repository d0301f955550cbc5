"""An odd row of an answer is omitted, or read without its odd field, and affects no other row.

Rule of this file: a real server sends the odd row, and public calls read it.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from binance_oi import (
    BinanceOIError,
    DecodeError,
    Gap,
    InvalidSymbolError,
    OpenInterestClient,
    ProcessBudget,
    RetryPolicy,
    Snapshot,
    SymbolNotTradingError,
    UnknownSymbolError,
)
from binance_oi.market import polling
from binance_oi.market.polling import poll
from binance_oi.recorder import Recorder, Recording
from support.lanes import some
from support.raw_exchange import RawExchange, answer
from support.virtual_clock import wall_time

pytestmark = pytest.mark.virtual_time

Row = dict[str, object]
GOOD: Row = {"symbol": "BTCUSDT", "status": "TRADING", "pair": "BTCUSDT", "pricePrecision": 2}
ODD: Row = GOOD | {"symbol": "ODDUSDT"}
LEFT_OUT = "(no such field)"
LONGEST = 120.0  # virtual seconds in which a poll or a recorder must finish


def without(field: str) -> Row:
    return {name: value for name, value in ODD.items() if name != field}


class Exchange(RawExchange):
    """An exchange that lists `symbols`, and has a value of each symbol that is not `unknown`."""

    def __init__(self) -> None:
        super().__init__(lambda _: self._answer())
        self.symbols: object = [GOOD]
        self.limits: object = []
        self.prices: list[object] = []
        self.listing_status = 200
        self.unknown = set[str]()
        self.asked = list[str]()

    def _answer(self) -> bytes:
        url = urlsplit(self.requests[-1].split()[1].decode())
        if "exchangeInfo" in url.path:
            listing = {"symbols": self.symbols, "rateLimits": self.limits}
            return answer(self.listing_status, json.dumps(listing))
        if "premiumIndex" in url.path:
            return answer(200, json.dumps(self.prices))
        symbol = parse_qs(url.query)["symbol"][0]
        self.asked.append(symbol)
        if symbol in self.unknown:
            return answer(400, '{"code":-1121,"msg":"Invalid symbol."}')
        time = int(wall_time() * 1000) - 2000
        return answer(200, json.dumps({"symbol": symbol, "openInterest": "1.5", "time": time}))


@asynccontextmanager
async def odd_market() -> AsyncIterator[tuple[Exchange, OpenInterestClient]]:
    budget = ProcessBudget(clock=asyncio.get_running_loop().time, wall=wall_time)
    async with Exchange() as exchange:
        client = OpenInterestClient(
            base_url=exchange.url, budget=budget, retry=RetryPolicy(attempts=1)
        )
        async with client:
            yield exchange, client


async def polled(
    client: OpenInterestClient, count: int, symbols: list[str] | None = None
) -> list[Snapshot]:
    found: list[Snapshot] = []
    running = poll(client, symbols, every=1.0, clock=wall_time)
    async with asyncio.timeout(LONGEST), aclosing(running) as snapshots:
        async for snapshot in snapshots:
            found.append(snapshot)
            if len(found) == count:
                break
    return found


async def recorded(
    client: OpenInterestClient, path: Path, symbols: list[str] | None = None, **options: bool
) -> list[str]:
    """Record two sweeps; return the symbol of each recorded sample."""
    swept: list[Snapshot] = []

    def on_sweep(snapshot: Snapshot) -> None:
        swept.append(snapshot)
        if len(swept) == 2:
            recorder.stop()

    recorder = Recorder(
        client,
        path,
        every=1.0,
        symbols=symbols,
        notional=options.get("notional", False),
        on_sweep=on_sweep,
        clock=wall_time,
    )
    async with asyncio.timeout(LONGEST):
        await recorder.run()
    with Recording(path) as recording:
        return [sample.symbol for sample in recording.samples()]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


# The row, and whether its symbol can still be read.
ODD_ROWS: dict[str, tuple[object, bool]] = {
    "a name of 60 letters": (ODD | {"symbol": "A" * 60}, False),
    "an empty name": (ODD | {"symbol": ""}, False),
    "a name of two lines": (ODD | {"symbol": "ODD\nUSDT"}, False),
    "a name that a line of CSV cannot hold": (ODD | {"symbol": "ODD,USDT"}, False),
    "a number for a name": (ODD | {"symbol": 5}, False),
    "no name": (without("symbol"), False),
    "no status": (without("status"), False),
    "status null": (ODD | {"status": None}, False),
    "status empty": (ODD | {"status": ""}, False),
    "status a number": (ODD | {"status": 1}, False),
    "null": (None, False),
    "a text": ("ODDUSDT", False),
    "a list": ([], False),
    "pair null": (ODD | {"pair": None}, True),
    "contractType null": (ODD | {"contractType": None}, True),
    "quoteAsset null": (ODD | {"quoteAsset": None}, True),
    "baseAsset a number": (ODD | {"baseAsset": 1000}, True),
    "marginAsset a list": (ODD | {"marginAsset": ["USDT"]}, True),
    "underlyingType a list": (ODD | {"underlyingType": ["COIN"]}, True),
    "onboardDate null": (ODD | {"onboardDate": None}, True),
    "onboardDate a text": (ODD | {"onboardDate": "1569398400000"}, True),
    "deliveryDate with a fraction": (ODD | {"deliveryDate": 4133404800000.5}, True),
    "pricePrecision 8.5": (ODD | {"pricePrecision": 8.5}, True),
    "pricePrecision a text": (ODD | {"pricePrecision": "2"}, True),
    "quantityPrecision null": (ODD | {"quantityPrecision": None}, True),
}


@pytest.mark.parametrize("row, is_read", ODD_ROWS.values(), ids=ODD_ROWS.keys())
async def test_an_invalid_row_of_the_listing_is_omitted_with_one_warning(
    row: object, is_read: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with odd_market() as (exchange, client):
        exchange.symbols = [GOOD, row, GOOD | {"symbol": "ETHUSDT"}]
        market = await client.snapshot()
        snapshots = await polled(client, 2)
        await client.exchange_info()
    expected = ["BTCUSDT", *(["ODDUSDT"] if is_read else []), "ETHUSDT"]
    assert [list(found) for found in (market, *snapshots)] == [expected] * 3
    assert not market.errors
    (warning,) = warnings(caplog)
    assert warning.startswith("odd rows in the exchange's list of symbols: ")
    shown = row.get("symbol", "{") if isinstance(row, dict) else json.dumps(row)
    assert str(shown)[:3] in warning


@pytest.mark.parametrize(
    "limits",
    [
        None,
        {},
        "none",
        [None],
        [{"rateLimitType": "CONNECTIONS", "limit": 300}],
        [{"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": None}],
        [{"rateLimitType": "RAW_REQUESTS", "interval": None, "intervalNum": 1, "limit": 5}],
        [{"rateLimitType": "ORDERS"}],
    ],
    ids=str,
)
async def test_an_invalid_limit_does_not_hide_symbols(
    limits: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with odd_market() as (exchange, client):
        exchange.limits = limits
        snapshots = [await client.snapshot(), *await polled(client, 2)]
    assert [list(found) for found in snapshots] == [["BTCUSDT"]] * 3
    assert len(warnings(caplog)) <= 1


@pytest.mark.parametrize(
    "name", some(["BTC-USDT", "ODD USDT", "odd.usdt", "lowUSDT", "😀USDT", "A&b=c", "%41/?#"], 3)
)
async def test_a_symbol_of_a_new_form_can_be_read_polled_and_recorded(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "oi.db"
    async with odd_market() as (exchange, client):
        exchange.symbols = [GOOD, GOOD | {"symbol": name}]
        assert list(await client.snapshot()) == ["BTCUSDT", name]
        assert list(await client.snapshot([name])) == [name]
        exchange.listing_status = 500  # the list of the client expires, and no new one can be read
        client._listing._known = None
        assert list(await client.snapshot([name])) == [name]
        exchange.listing_status = 200
        assert [list(found) for found in await polled(client, 2)] == [["BTCUSDT", name]] * 2
        first = await recorded(client, path)
        again = await recorded(client, path)
    assert set(first) == {"BTCUSDT", name}
    assert len(again) > len(first)
    assert warnings(caplog) == []


async def test_a_poll_omits_a_row_that_becomes_invalid_and_warns_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "LISTING_AGE", 2.0)
    names: list[list[str]] = []
    async with odd_market() as (exchange, client):
        exchange.symbols = [GOOD, ODD]
        async with aclosing(poll(client, every=1.0, clock=wall_time)) as snapshots:
            async for snapshot in snapshots:
                names.append(list(snapshot))
                if len(names) == 2:
                    exchange.symbols = [GOOD, ODD | {"status": None}]
                if len(names) == 8:
                    exchange.symbols = None  # an unreadable list, so the old one is used
                if len(names) == 16:
                    break
    assert names[:2] == [["BTCUSDT", "ODDUSDT"]] * 2
    assert names[6:] == [["BTCUSDT"]] * 10
    assert [text for text in warnings(caplog) if "ODDUSDT" in text] == [
        "odd rows in the exchange's list of symbols: ODDUSDT (left out: status)"
    ]


async def test_new_invalid_rows_cause_a_new_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with odd_market() as (exchange, client):
        for names in (["A"], ["A"], [], ["A"], ["A", "B"], ["B"], ["C"]):
            exchange.symbols = [GOOD, *(ODD | {"symbol": name, "status": 1} for name in names)]
            await client.exchange_info()
    assert [text.count("left out") for text in warnings(caplog)] == [1, 2, 1]


# -- mark prices -------------------------------------------------------------------------------


def price(symbol: object, **fields: object) -> Row:
    known = {"symbol": symbol, "markPrice": "10.5", "time": 1790000000000} | fields
    return {name: value for name, value in known.items() if value is not LEFT_OUT}


@pytest.mark.parametrize(
    "odd",
    [
        *(price("ODDUSDT", markPrice=text) for text in ("", None, "-1.5", "1E-8", 1.5, LEFT_OUT)),
        price(None),
        None,
        [],
    ],
    ids=str,
)
async def test_an_invalid_mark_price_is_omitted_with_one_warning(
    odd: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with odd_market() as (exchange, client):
        exchange.symbols = [GOOD, ODD]
        exchange.prices = [odd, price("BTCUSDT")]
        market = await client.snapshot(notional=True)
        await recorded(client, tmp_path / "oi.db", notional=True)
    assert list(market) == ["BTCUSDT", "ODDUSDT"]
    assert (market.notional, market.notional_error) == ({"BTCUSDT": Decimal("15.75")}, None)
    with Recording(tmp_path / "oi.db") as recording:
        marks = {(s.symbol, s.mark_price) for s in recording.samples()}
    assert marks == {("BTCUSDT", Decimal("10.5")), ("ODDUSDT", None)}
    (warning,) = warnings(caplog)
    assert warning.startswith("odd rows in the exchange's mark prices: ")


async def test_a_recorder_warns_once_each_time_mark_prices_begin_to_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with odd_market() as (exchange, client):
        for prices in ([price("BTCUSDT", markPrice="")], [price("BTCUSDT")]):
            exchange.prices = list(prices)
            await recorded(client, tmp_path / "oi.db", notional=True)
        market = await client.snapshot(notional=True)
        exchange.prices = [price("BTCUSDT", markPrice="")]
        broken = await client.snapshot(notional=True)
    assert market.notional_error is None
    assert isinstance(broken.notional_error, DecodeError)
    (warning,) = warnings(caplog)
    assert warning.startswith("the mark prices could not be read: not the documented answer")


# -- symbols that the caller names ---------------------------------------------------------------


@pytest.mark.parametrize("status, symbols", [(500, []), (451, []), (200, None), (200, "none")])
async def test_named_symbols_need_no_listing(status: int, symbols: object, tmp_path: Path) -> None:
    async with odd_market() as (exchange, client):
        exchange.listing_status, exchange.symbols = status, symbols
        snapshots = await polled(client, 3, ["BTCUSDT", "ETHUSDT"])
        assert set(await recorded(client, tmp_path / "oi.db", ["BTCUSDT"])) == {"BTCUSDT"}
    assert [list(found) for found in snapshots] == [["BTCUSDT", "ETHUSDT"]] * 3
    assert [found.missed for found in snapshots] == [()] * 3


async def test_a_named_symbol_with_an_invalid_listing_row_is_still_read() -> None:
    async with odd_market() as (exchange, client):
        exchange.symbols = [GOOD, ODD | {"status": None}]
        snapshots = await polled(client, 2, ["ODDUSDT"])
    assert [list(found) for found in snapshots] == [["ODDUSDT"]] * 2


@pytest.mark.parametrize(
    "row, kind",
    [(None, UnknownSymbolError), (ODD | {"status": "SETTLING"}, SymbolNotTradingError)],
)
async def test_a_delisted_named_symbol_is_an_error_of_each_snapshot_with_one_warning(
    row: Row | None,
    kind: type[BinanceOIError],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    symbols, path = ["BTCUSDT", "ODDUSDT", "ETHUSDT"], tmp_path / "oi.db"
    async with odd_market() as (exchange, client):
        exchange.symbols = [GOOD, ODD, GOOD | {"symbol": "ETHUSDT"}]
        assert set(await recorded(client, path, symbols)) == set(symbols)
        exchange.unknown = {"ODDUSDT"}
        exchange.symbols = [GOOD, *([row] if row else []), GOOD | {"symbol": "ETHUSDT"}]
        await client.exchange_info()
        exchange.asked.clear()
        snapshots = await polled(client, 3, symbols)
        assert exchange.asked == ["BTCUSDT", "ETHUSDT"] * 3  # the exchange would refuse ODDUSDT
        caplog.clear()
        await recorded(client, path, symbols)
    assert [list(found) for found in snapshots] == [["BTCUSDT", "ETHUSDT"]] * 3
    assert [list(found.errors) for found in snapshots] == [["ODDUSDT"]] * 3
    assert {type(error) for found in snapshots for error in found.errors.values()} == {kind}
    with Recording(path) as recording:
        word = "unknown" if row is None else "not_trading"
        assert list(recording.failures()) == [("ODDUSDT", word, 2)]
    (warning,) = [text for text in warnings(caplog) if "ODDUSDT" in text]
    assert warning.startswith("symbols are left out: ODDUSDT (the exchange ")


async def test_without_a_listing_a_refused_symbol_is_an_error_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with odd_market() as (exchange, client):
        exchange.listing_status, exchange.unknown = 500, {"ODDUSDT"}
        snapshots = await polled(client, 3, ["ODDUSDT", "BTCUSDT"])
    assert [list(found.errors) for found in snapshots] == [["ODDUSDT"]] * 3
    assert len(warnings(caplog)) == 1


async def test_a_symbol_that_is_listed_again_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(polling, "LISTING_AGE", 2.0)
    found: list[tuple[list[str], list[str]]] = []
    async with odd_market() as (exchange, client):
        symbols = ["ODDUSDT", "BTCUSDT"]
        async with aclosing(poll(client, symbols, every=1.0, clock=wall_time)) as snapshots:
            async for snapshot in snapshots:
                found.append((list(snapshot), list(snapshot.errors)))
                exchange.symbols = [GOOD, ODD]
                if len(found) == 6:
                    break
    assert found[0] == (["BTCUSDT"], ["ODDUSDT"])
    assert found[-1] == (["ODDUSDT", "BTCUSDT"], [])


@pytest.mark.parametrize("symbols", [["ODDUSDT"], ["ODDUSDT", "OTHERUSDT"]])
async def test_a_poll_raises_only_when_no_named_symbol_is_listed(
    symbols: list[str], tmp_path: Path
) -> None:
    async with odd_market() as (exchange, client):
        with pytest.raises(InvalidSymbolError, match=r"ODDUSDT.*the exchange does not list it"):
            await polled(client, 1, symbols)
        with pytest.raises(InvalidSymbolError, match="the exchange does not list it"):
            await recorded(client, tmp_path / "oi.db", symbols)
        assert not exchange.asked
        assert not (tmp_path / "oi.db").exists()
        exchange.symbols = [GOOD, 7]  # the row that cannot be read may be the named symbol
        await client.exchange_info()
        assert len(await polled(client, 1, symbols)) == 1


async def test_slots_are_gaps_while_no_named_symbol_trades() -> None:
    async with odd_market() as (exchange, client):
        exchange.symbols = [GOOD, ODD | {"status": "PENDING_TRADING"}]
        running = polling.sweeps(client, ["ODDUSDT"], every=1.0, clock=wall_time)
        async with aclosing(running) as outcomes:
            gap = await anext(outcomes)
        assert exchange.asked == []
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.detail) == ("not_trading", "the exchange lists it as PENDING_TRADING")


async def test_a_schedule_that_cannot_fit_is_refused_without_a_listing() -> None:
    async with odd_market() as (exchange, client):
        exchange.listing_status = 500
        with pytest.raises(ValueError, match="100 symbols every 1 s take 6000 weight a minute"):
            await polled(client, 1, [f"S{number}USDT" for number in range(100)])
