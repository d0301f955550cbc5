"""The notional (open interest in the quote asset) is exact, optional, and takes one request."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from binance_oi import (
    BudgetExhaustedError,
    OpenInterest,
    OpenInterestClient,
    ProcessBudget,
    Snapshot,
)
from binance_oi.cli import main
from binance_oi.exchange.models import MarkPrice
from binance_oi.simulator import LocalExchange
from support.virtual_clock import wall_time

pytestmark = pytest.mark.virtual_time


def local_client(exchange: LocalExchange) -> OpenInterestClient:
    budget = ProcessBudget(clock=asyncio.get_running_loop().time, wall=wall_time)
    return OpenInterestClient(base_url=exchange.url, budget=budget)


async def test_mark_prices_come_with_one_request_of_weight_10() -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        market = await client.snapshot(["BTCUSDT", "ETHUSDT"], notional=True)
        assert exchange.used == market.weight == 2 + 10
    assert list(market.mark_prices) == list(market) == ["BTCUSDT", "ETHUSDT"]
    for symbol, value in market.items():
        price = market.mark_prices[symbol].mark_price
        assert market.notional[symbol] == value.open_interest * price
    assert market.notional_error is None


async def test_a_snapshot_without_notional_does_not_read_mark_prices() -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        market = await client.snapshot(["BTCUSDT"])
        assert exchange.used == 1
    assert (market.notional, market.mark_prices, market.notional_error) == ({}, {}, None)


async def test_a_snapshot_keeps_its_values_when_mark_prices_fail() -> None:
    async with (
        LocalExchange(clock=wall_time, limit=8) as exchange,
        local_client(exchange) as client,
    ):
        await client.symbols()  # states the limit of 8, so weight 10 never fits
        market = await client.snapshot(["BTCUSDT"], notional=True)
    assert list(market) == ["BTCUSDT"]
    assert isinstance(market.notional_error, BudgetExhaustedError)
    assert market.notional == {}


def test_a_product_is_never_rounded() -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    text, price = "123456789012345678901234567890.123456789", "98765432109876543210.987654321"
    snapshot = Snapshot(
        values_by_symbol={"A": OpenInterest("A", Decimal(text), 1)},
        errors={},
        started=now,
        finished=now,
        weight=11,
        mark_prices={"A": MarkPrice("A", Decimal(price), 1)},
    )
    digits = int(text.replace(".", "")) * int(price.replace(".", ""))
    assert f"{snapshot.notional['A']:f}".replace(".", "") == str(digits)


def test_the_snapshot_command_shows_mark_prices_and_notional(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["snapshot", "BTCUSDT", "--notional", "--simulated", "--csv"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head == "symbol,open_interest,time,mark_price,notional"
    _, value, _, price, notional = line.split(",")
    assert Decimal(notional) == Decimal(value) * Decimal(price)
