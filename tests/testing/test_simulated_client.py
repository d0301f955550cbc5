"""By default, a simulated client has its own exchange and budget, and leaves no file."""

import asyncio
import os
from pathlib import Path

import pytest

from binance_oi import BannedError, MachineBudget, RateLimitedError, RetryPolicy
from binance_oi.simulator import LocalExchange
from binance_oi.testing import SimulatedClient, VirtualLoop, VirtualTime, simulated_client
from support.virtual_clock import EPOCH_S, START_S, wall_time


async def test_a_simulated_client_reads_its_own_exchange() -> None:
    async with simulated_client(timeout=600.0) as client:
        assert isinstance(client, SimulatedClient)
        client.exchange.set_open_interest("BTCUSDT", "7.50")
        assert str((await client.get_open_interest("BTCUSDT")).open_interest) == "7.50"
        assert client.exchange.answers == {200: 1}
        assert client.source == "local"
    assert client.exchange.url == ""


@pytest.mark.virtual_time
async def test_two_simulated_clients_share_neither_a_budget_nor_a_ban() -> None:
    async with simulated_client() as first, simulated_client() as second:
        first.exchange.ban(600.0)
        with pytest.raises(BannedError):
            await first.get_open_interest("BTCUSDT")
        await second.get_open_interest("BTCUSDT")
        assert (first.usage.banned_until is None, second.usage.used) == (False, 1)


async def test_a_simulated_client_leaves_no_budget_on_the_machine(tmp_path: Path) -> None:
    async with simulated_client(timeout=600.0) as client:
        await client.get_open_interest("BTCUSDT")
    assert os.listdir(tmp_path) == []


@pytest.mark.virtual_time
async def test_a_simulated_client_accepts_an_exchange_and_client_arguments() -> None:
    exchange = LocalExchange(limit=5, used=5, clock=wall_time)
    async with simulated_client(exchange, max_wait=0.0, retry=RetryPolicy(attempts=1)) as client:
        assert client.exchange is exchange
        with pytest.raises(RateLimitedError):
            await client.get_open_interest("BTCUSDT")
    assert exchange.url == ""


@pytest.mark.virtual_time
async def test_an_exchange_that_already_runs_keeps_running() -> None:
    async with LocalExchange(clock=wall_time) as exchange:
        async with simulated_client(exchange) as client:
            await client.get_open_interest("BTCUSDT")
        async with simulated_client(exchange) as client:
            await client.get_open_interest("BTCUSDT")
        assert exchange.answers == {200: 2}


async def test_a_simulated_client_uses_the_given_budget(tmp_path: Path) -> None:
    budget = MachineBudget(directory=tmp_path / "budgets")
    async with simulated_client(budget=budget, timeout=600.0) as client:
        await client.get_open_interest("BTCUSDT")
    budget.close()
    assert os.listdir(tmp_path / "budgets")


def test_virtual_time_follows_its_loop_and_starts_at_a_full_minute() -> None:
    time = VirtualTime()
    assert (time.is_used, time.is_over, time.monotonic()) == (False, True, START_S)
    assert time.time() == EPOCH_S + START_S
    assert time.time() % 60.0 == 0.0
    with pytest.MonkeyPatch.context() as patch, time.installed(patch):
        with asyncio.Runner() as runner:
            assert isinstance(runner.get_loop(), VirtualLoop)
            runner.run(asyncio.sleep(90.0))
            assert time.monotonic() - START_S == pytest.approx(90.0, abs=1e-3)
            assert (time.is_used, time.is_over) == (True, False)
        assert time.is_over
        # The loop of another thread runs in real time.
        with LocalExchange().in_thread() as exchange:
            assert exchange.port
    with asyncio.Runner() as runner:
        assert not isinstance(runner.get_loop(), VirtualLoop)


def test_an_exchange_is_served_in_an_existing_loop() -> None:
    time = VirtualTime()

    async def scenario() -> int:
        exchange = LocalExchange(clock=time.time)
        time.serve(exchange)
        async with simulated_client(exchange) as client:
            await client.get_open_interest("BTCUSDT")
            await asyncio.sleep(3600.0)
        return exchange.answers[200]

    with pytest.MonkeyPatch.context() as patch, time.installed(patch):
        assert asyncio.run(scenario()) == 1
