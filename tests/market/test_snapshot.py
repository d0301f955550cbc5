"""A snapshot loses no value, invents none, and keeps the order of the request."""

import asyncio
import copy
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from binance_oi import (
    BannedError,
    BinanceOIError,
    BudgetExhaustedError,
    ClientClosedError,
    ForbiddenError,
    Gap,
    InvalidSymbolError,
    OpenInterest,
    OpenInterestClient,
    ProcessBudget,
    Reason,
    Snapshot,
    SymbolNotTradingError,
    TransportError,
    TransportTimeoutError,
    UnknownSymbolError,
)
from binance_oi.exchange.models import MarkPrice
from binance_oi.market.rows import Batch
from binance_oi.simulator import LocalExchange
from support.raw_exchange import RawExchange, answer, open_interest
from support.virtual_clock import wall_time

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1000)
BTC = OpenInterest("BTCUSDT", Decimal("96012.544"), NOON_MS - 2000)
ETH = OpenInterest("ETHUSDT", Decimal("2273930.4680"), NOON_MS - 5500)
NAMES_OF_ALL_KINDS = ["BTCUSDT", "1000SHIBUSDT", "币安人生USDT", "BTCUSDT_261225", "BTCUSDC"]


def snapshot(*values: OpenInterest, **more: object) -> Snapshot:
    known: dict[str, object] = {
        "values_by_symbol": {value.symbol: value for value in values},
        "errors": {},
        "started": NOON,
        "finished": NOON,
        "weight": len(values),
    }
    return Snapshot(**(known | more))  # type: ignore[arg-type]


def local_client(exchange: LocalExchange | RawExchange, **options: object) -> OpenInterestClient:
    """A client in virtual time."""
    budget = ProcessBudget(clock=asyncio.get_running_loop().time, wall=wall_time)
    return OpenInterestClient(base_url=exchange.url, budget=budget, **options)  # type: ignore[arg-type]


def now() -> float:
    return asyncio.get_running_loop().time()


# -- the class -----------------------------------------------------------------------------------


def test_a_snapshot_is_a_mapping_of_its_values() -> None:
    market = snapshot(ETH, BTC, errors={"XUSDT": UnknownSymbolError(400, -1121, "Invalid symbol.")})
    assert dict(market) == {"ETHUSDT": ETH, "BTCUSDT": BTC}
    assert list(market) == ["ETHUSDT", "BTCUSDT"]
    assert len(market) == 2
    assert "XUSDT" not in market
    assert market.get("XUSDT") is None
    with pytest.raises(KeyError):
        market["XUSDT"]


def test_the_skew_is_between_the_oldest_and_the_newest_value() -> None:
    assert snapshot(BTC, ETH).skew_ms == 3500
    assert snapshot(BTC).skew_ms == 0
    assert snapshot().skew_ms == 0


def test_rows_and_columns_are_exact_and_in_order() -> None:
    market = snapshot(ETH, BTC)
    assert market.to_dicts() == [
        {"symbol": "ETHUSDT", "open_interest": "2273930.4680", "time": NOON_MS - 5500},
        {"symbol": "BTCUSDT", "open_interest": "96012.544", "time": NOON_MS - 2000},
    ]
    assert market.to_columns() == {
        "symbol": ["ETHUSDT", "BTCUSDT"],
        "open_interest": [Decimal("2273930.4680"), Decimal("96012.544")],
        "time": [NOON_MS - 5500, NOON_MS - 2000],
    }
    assert snapshot().to_dicts() == []
    assert snapshot().to_columns() == {"symbol": [], "open_interest": [], "time": []}


def test_notional_is_exact_for_each_symbol_with_a_price() -> None:
    long = OpenInterest("LONGUSDT", Decimal("9" * 30 + "." + "9" * 30), NOON_MS)
    prices = {
        "ETHUSDT": MarkPrice("ETHUSDT", Decimal("2900.12345678"), NOON_MS),
        "LONGUSDT": MarkPrice("LONGUSDT", Decimal("9" * 30 + "." + "9" * 30), NOON_MS),
    }
    notional = snapshot(BTC, ETH, long, mark_prices=prices).notional
    assert list(notional) == ["ETHUSDT", "LONGUSDT"]
    assert str(notional["ETHUSDT"]) == "6594679089.333523173040"
    assert str(notional["LONGUSDT"]) == "9" * 59 + "8." + "0" * 59 + "1"
    assert snapshot(BTC).notional == {}


def test_a_snapshot_can_be_copied_and_has_a_short_repr() -> None:
    market = snapshot(BTC, ETH)
    assert dict(copy.copy(market)) == dict(market)
    assert repr(market).startswith(f"Snapshot(errors={{}}, started={NOON!r}, ")
    assert "weight=2" in repr(market)
    many = snapshot(*(OpenInterest(f"S{n}USDT", Decimal(n), NOON_MS) for n in range(800)), weight=2)
    assert repr(many) == repr(market)  # the repr shows no value


def test_without_pyarrow_the_arrow_interface_names_the_missing_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match="pyarrow"):
        snapshot(BTC).__arrow_c_stream__()


def test_arrow_columns_are_made_of_text_and_integer_milliseconds() -> None:
    small = OpenInterest("SMALLUSDT", Decimal("0.00000001"), NOON_MS)
    market = snapshot(
        BTC,
        small,
        received_ms={"BTCUSDT": NOON_MS + 7},
        mark_prices={"SMALLUSDT": MarkPrice("SMALLUSDT", Decimal("1E-7"), NOON_MS)},
    )
    batch = Batch.of(list(market.rows()))
    assert batch.symbol == ["BTCUSDT", "SMALLUSDT"]
    assert batch.time == [NOON_MS - 2000, NOON_MS]
    assert batch.open_interest == ["96012.544", "0.00000001"]
    assert batch.received == [
        NOON_MS + 7,
        NOON_MS,
    ]  # SMALLUSDT has no time of receipt, so it has the end of the sweep
    assert batch.mark_price == [None, "0.0000001"]


@pytest.mark.parametrize(
    "gap, text",
    [
        (Gap(NOON_MS, NOON_MS, "banned"), "2026-11-23 12:00:00 UTC: banned"),
        (
            Gap(NOON_MS, NOON_MS + 40_000, "late", "the sweep before took 55 s"),
            "2026-11-23 12:00:00 to 2026-11-23 12:00:40 UTC: late (the sweep before took 55 s)",
        ),
    ],
)
def test_the_text_of_a_gap_names_its_slots_and_its_reason(gap: Gap, text: str) -> None:
    assert str(gap) == text


# -- reading a snapshot --------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_snapshot_of_the_market_weighs_one_for_each_symbol_and_one_for_the_listing() -> (
    None
):
    progress: list[tuple[int, int]] = []
    async with LocalExchange(clock=wall_time, latency=0.02) as exchange:
        trading = [s.name for s in exchange.universe.symbols.values() if s.status == "TRADING"]
        async with local_client(exchange) as client:
            began = now()
            market = await client.snapshot(on_progress=lambda *seen: progress.append(seen))
            took = now() - began
            assert client.usage.used == 790
        assert exchange.used == 790
        assert set(exchange.answers) == {200}
    assert list(market) == trading
    assert len(market) == 789
    assert market.errors == {}
    assert market.weight == 790
    assert 0 < market.skew_ms < 10_000
    assert progress == [(n, 789) for n in range(1, 790)]
    assert took < 3.0
    assert market.started <= market.finished
    assert market.notional_error is None
    assert all(market[name].symbol == name for name in market)


@pytest.mark.virtual_time
async def test_the_listing_is_reused_for_five_minutes_unless_it_proves_wrong() -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        for name in exchange.universe.symbols:
            exchange.set_status(name, "SETTLING")
        for name in NAMES_OF_ALL_KINDS:
            exchange.set_status(name, "TRADING")
        assert (await client.snapshot()).weight == 6
        assert (await client.snapshot()).weight == 5
        exchange.set_status("BTCUSDC", "SETTLING")
        gone = await client.snapshot()
        assert (gone.weight, len(gone), list(gone.errors)) == (5, 4, ["BTCUSDC"])
        after = await client.snapshot()
        assert (after.weight, len(after), after.errors) == (5, 4, {})
        assert (await client.snapshot()).weight == 4
        await asyncio.sleep(301)
        assert (await client.snapshot()).weight == 5


@pytest.mark.virtual_time
async def test_symbols_that_cannot_be_read_are_errors_and_do_not_stop_the_others() -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        exchange.set_status("XRPUSDT", "SETTLING")
        asked = ["NOPEUSDT", "BTCUSDT", "XRPUSDT", "ethusdt", "ALSONOT"]
        market = await client.snapshot(asked)
        assert exchange.answers == {200: 2, 400: 3}
    assert list(market) == ["BTCUSDT", "ETHUSDT"]
    assert [(name, type(error)) for name, error in market.errors.items()] == [
        ("NOPEUSDT", UnknownSymbolError),
        ("XRPUSDT", SymbolNotTradingError),
        ("ALSONOT", UnknownSymbolError),
    ]
    assert market.weight == 5


@pytest.mark.virtual_time
async def test_symbols_keep_the_order_of_the_request_without_duplicates() -> None:
    asked = [*NAMES_OF_ALL_KINDS, "BTCUSDT", "btcusdc", "BTCUSDT"]
    async with LocalExchange(clock=wall_time, latency=0.05, jitter=0.5) as exchange:
        async with local_client(exchange) as client:
            market = await client.snapshot(iter(asked))
        assert exchange.answers == {200: 5}
    assert list(market) == NAMES_OF_ALL_KINDS
    assert market.to_columns()["symbol"] == NAMES_OF_ALL_KINDS
    assert market.weight == 5


@pytest.mark.virtual_time
async def test_an_empty_request_sends_nothing() -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        market = await client.snapshot([])
        assert (dict(market), market.errors, market.weight) == ({}, {}, 0)
        assert exchange.used == 0
    with pytest.raises(ClientClosedError):
        await client.snapshot([])


@pytest.mark.virtual_time
async def test_an_invalid_name_is_refused_before_any_request() -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        with pytest.raises(InvalidSymbolError):
            await client.snapshot(["BTCUSDT", "BTC/USDT"])
        assert exchange.used == 0


@pytest.mark.virtual_time
@pytest.mark.usefixtures("known_address")
async def test_symbols_without_an_answer_by_the_deadline_are_errors() -> None:
    async with LocalExchange(clock=wall_time, limit=200) as exchange:
        async with local_client(exchange) as client:
            await asyncio.sleep(10.0)  # far from a rollover, so the exchange's minute is certain
            await client.symbols()
            began = now()
            market = await client.snapshot(deadline=20.0)
            assert now() - began < 3.0  # waiting is useless: the minute ends after the deadline
        assert set(exchange.answers) == {200}
    assert len(market) == 198 - 1  # the limit less the reserve, and less 1 for the listing
    assert {type(error) for error in market.errors.values()} == {BudgetExhaustedError}
    assert len(market) + len(market.errors) == 789


@pytest.mark.virtual_time
async def test_a_past_deadline_sends_nothing() -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        market = await client.snapshot(["BTCUSDT", "ETHUSDT"], deadline=0.0)
        assert exchange.used == 0
        with pytest.raises(BudgetExhaustedError, match="the deadline is over") as caught:
            await client.snapshot(deadline=-1.0)
    assert caught.value.reason is Reason.DEADLINE
    assert [type(error) for error in market.errors.values()] == [BudgetExhaustedError] * 2


@pytest.mark.parametrize(
    "timeout, deadline, said",
    [(10.0, 2.0, "no answer before the deadline"), (2.0, 10.0, "no answer within 2 s")],
)
@pytest.mark.virtual_time
async def test_an_answer_after_the_deadline_or_the_timeout_is_an_error_that_names_it(
    timeout: float, deadline: float, said: str
) -> None:
    async with (
        RawExchange(lambda n: b"") as exchange,
        local_client(exchange, timeout=timeout) as client,
    ):
        began = now()
        market = await client.snapshot(["BTCUSDT"], deadline=deadline)
        assert now() - began == pytest.approx(2.0, abs=0.1)
    error = market.errors["BTCUSDT"]
    assert (type(error), str(error)) == (TransportTimeoutError, said)


@pytest.mark.virtual_time
async def test_a_ban_ends_the_rest_of_a_snapshot_at_once() -> None:
    async with LocalExchange(clock=wall_time, latency=0.05) as exchange:
        async with local_client(exchange, max_connections=10) as client:

            def ban_at_100(done: int, _: int) -> None:
                if done == 100:
                    exchange.counter.ban(exchange.now())

            began = now()
            market = await client.snapshot(on_progress=ban_at_100)
            assert now() - began < 3.0
        assert 1 <= exchange.answers[418] <= 10  # only the requests under way
    assert {type(error) for error in market.errors.values()} == {BannedError}
    assert len(market) + len(market.errors) == 789


@pytest.mark.virtual_time
async def test_a_snapshot_raises_the_error_of_the_listing() -> None:
    async with (
        RawExchange(lambda n: answer(403, "<html>")) as exchange,
        local_client(exchange) as client,
    ):
        with pytest.raises(ForbiddenError):
            await client.snapshot()
    assert len(exchange.requests) == 1


@pytest.mark.virtual_time
async def test_closing_the_client_ends_a_snapshot() -> None:
    async with RawExchange(lambda n: b"") as exchange:
        client = local_client(exchange)
        reading = asyncio.create_task(client.snapshot(["BTCUSDT", "ETHUSDT"], notional=True))
        await exchange.received(1)
        await client.aclose()
        with pytest.raises(ClientClosedError):
            await reading


@pytest.mark.virtual_time
async def test_a_failing_callback_ends_the_snapshot_and_its_tasks() -> None:
    def fails(done: int, _: int) -> None:
        if done == 5:
            raise ZeroDivisionError

    async with (
        LocalExchange(clock=wall_time, latency=0.05) as exchange,
        local_client(exchange, max_connections=10) as client,
    ):
        with pytest.raises(ZeroDivisionError):
            await client.snapshot(on_progress=fails)
        assert client._governor.in_flight == client._governor.waiting == 0
        await asyncio.sleep(10)
        assert exchange.used < 50


@pytest.mark.virtual_time
async def test_cancelling_a_snapshot_ends_its_tasks() -> None:
    async with (
        LocalExchange(clock=wall_time, latency=0.05) as exchange,
        local_client(exchange, max_connections=10) as client,
    ):
        reading = asyncio.create_task(client.snapshot())
        await asyncio.sleep(0.5)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert client._governor.in_flight == client._governor.waiting == 0
        used = exchange.used
        await asyncio.sleep(10)
        assert 10 < exchange.used <= used + 10  # at most the 10 requests under way


@pytest.mark.virtual_time
@pytest.mark.parametrize("names", [[f"S{number}USDT" for number in range(20)], None])
async def test_connections_are_opened_while_the_first_request_is_under_way(
    names: list[str] | None,
) -> None:
    async with (
        RawExchange(lambda n: b"") as exchange,
        local_client(exchange, max_connections=8) as client,
    ):
        sweep = asyncio.create_task(client.snapshot(names))
        await exchange.received(1)
        await asyncio.sleep(0.1)
        assert (len(exchange.requests), exchange.connections) == (1, 8)
        sweep.cancel()
        await asyncio.wait([sweep])


# -- mark prices ---------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_with_mark_prices_every_value_has_a_notional() -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        market = await client.snapshot(["BTCUSDT", "币安人生USDT", "NOPEUSDT"], notional=True)
        assert exchange.used == 13
    assert market.weight == 13
    assert set(market.mark_prices) == set(market.notional) == {"BTCUSDT", "币安人生USDT"}
    price = market.mark_prices["BTCUSDT"].mark_price
    assert market.notional["BTCUSDT"] == market["BTCUSDT"].open_interest * price


@pytest.mark.virtual_time
async def test_a_snapshot_keeps_its_values_without_mark_prices() -> None:
    def script(n: int) -> bytes:
        last = exchange.requests[-1]
        return answer(400, "{}") if b"premiumIndex" in last else open_interest()

    async with RawExchange(script) as exchange, local_client(exchange) as client:
        market = await client.snapshot(["BTCUSDT"], notional=True)
    assert list(market) == ["BTCUSDT"]
    assert isinstance(market.notional_error, BinanceOIError)
    assert market.notional == {}


@pytest.mark.virtual_time
@pytest.mark.parametrize("name", ["BTCUSDT", b"BTCUSDT"])
async def test_one_string_is_not_accepted_as_a_list_of_symbols(name: str) -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        with pytest.raises(InvalidSymbolError, match=r"such as \['BTCUSDT'\]"):
            await client.snapshot(name)
        assert not exchange.answers


@pytest.mark.virtual_time
async def test_the_weight_excludes_requests_that_were_never_sent() -> None:
    async with LocalExchange(clock=wall_time) as exchange:
        client = local_client(exchange)
    async with client:
        market = await client.snapshot(["BTCUSDT", "ETHUSDT"])
    assert [type(e) for e in market.errors.values()] == [TransportError] * 2
    assert (market.weight, client.usage.used) == (0, 0)
