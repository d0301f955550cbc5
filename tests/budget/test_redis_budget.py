"""Complete clients of a local exchange share a `RedisBudget` on a real server.

Rule of this file: tests use servers that this file starts, or none. A test starts processes only if
one process is not enough.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from binance_oi import BannedError, MachineBudget, OpenInterestClient, RedisBudget
from binance_oi.budget import courier, redis_server
from binance_oi.budget.redis import redis_pools
from binance_oi.cli.endings import NETWORK
from binance_oi.cli.program import main as run_program
from binance_oi.simulator import LocalExchange
from support.redis_servers import Server, needs_server, running

pytest.importorskip("redis")
pytestmark = pytest.mark.usefixtures("known_address")

HANGS = 300.0  # s after which a process or a call counts as hung
SECOND = 15.0  # s into the exchange's minute at which a test begins
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for every answer of the server, however busy the machine is."""
    for module in (courier, redis_server):
        monkeypatch.setattr(module, "CALL_TIMEOUT_S", HANGS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture
def exchange() -> Iterator[LocalExchange]:
    """An exchange that is at second 15 of its minute when a test begins.

    So it has 45 s until the rollover. Near a rollover we may not learn which minute counted a
    request, because the clock that counts requests may differ from the clock of the answer's date.
    """
    with LocalExchange(clock_offset=SECOND - time.time() % 60.0).in_thread() as made:
        yield made


def client(exchange: LocalExchange, budget: RedisBudget) -> OpenInterestClient:
    return OpenInterestClient(base_url=exchange.url, budget=budget, max_connections=5)


@needs_server
async def test_clients_with_separate_budget_objects_share_one_count(
    server: Server, exchange: LocalExchange
) -> None:
    budgets = [RedisBudget(server.url, egress="shared") for _ in range(3)]
    clients = [client(exchange, budget) for budget in budgets]
    await asyncio.gather(
        *(each.get_open_interest("BTCUSDT") for each in clients for _ in range(20))
    )
    for each in clients:
        await each.aclose()
    for budget in budgets:
        await budget.aclose()
    (found,) = (await redis_pools(server.url, "shared")).values()
    assert (found.members, found.usage.others) == (3, 0)
    assert found.usage.charged == exchange.answers[200] == 60
    assert exchange.answers.total() == 60


@needs_server
async def test_history_has_a_count_of_its_own_on_the_server(
    server: Server, exchange: LocalExchange
) -> None:
    budget = RedisBudget(server.url, egress="past")
    async with client(exchange, budget) as made:
        await made.history("BTCUSDT", period="1d")
        assert made.history_usage.used >= 1
    await budget.aclose()
    assert any("300 s" in name for name in await redis_pools(server.url, "past"))
    other = RedisBudget(server.url, egress="past")
    async with client(exchange, other) as made:
        await made.history("ETHUSDT", period="1d")
        assert made.history_usage.used >= 2
    await other.aclose()


@needs_server
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_given_redis_client_is_used_and_stays_open(
    server: Server, exchange: LocalExchange, protocol: int
) -> None:
    redis = pytest.importorskip("redis.asyncio")
    theirs = redis.Redis(host="127.0.0.1", port=server.port, protocol=protocol)
    budget = RedisBudget(theirs, egress="theirs")
    async with client(exchange, budget) as made:
        await made.get_open_interest("BTCUSDT")
    await budget.aclose()
    assert await theirs.ping()
    await theirs.aclose()


async def until_banned(client: OpenInterestClient) -> None:
    """Wait until the client knows the ban of its requests for history."""
    for _ in iter(lambda: client.history_usage.banned_until is None, False):
        await asyncio.sleep(0.01)


@needs_server
async def test_a_ban_stops_history_on_every_machine(
    server: Server, exchange: LocalExchange
) -> None:
    one, other = (RedisBudget(server.url, egress="banned") for _ in range(2))
    async with client(exchange, one) as first, client(exchange, other) as second:
        await first.get_open_interest("BTCUSDT")
        await second.history("BTCUSDT", period="1d")
        exchange.counter.ban(exchange.now())
        with pytest.raises(BannedError):
            await first.get_open_interest("BTCUSDT")
        sent = exchange.answers.total()
        await until_banned(second)
        with pytest.raises(BannedError):
            await second.history("ETHUSDT", period="1d")
        assert exchange.answers.total() == sent
    for budget in (one, other):
        await budget.aclose()


@needs_server
async def test_budgets_with_different_egress_names_are_separate(
    server: Server, exchange: LocalExchange
) -> None:
    for egress in ("one", "other"):
        budget = RedisBudget(server.url, egress=egress)
        async with client(exchange, budget) as made:
            await made.get_open_interest("BTCUSDT")
        await budget.aclose()
        (found,) = (await redis_pools(server.url, egress)).values()
        assert found.usage.charged == 1


@needs_server
async def test_a_server_that_restarts_empty_loses_no_weight(
    tmp_path: Path, exchange: LocalExchange
) -> None:
    with running(tmp_path) as server:
        budget = RedisBudget(server.url, egress="empty")
        async with client(exchange, budget) as made:
            for _ in range(10):
                await made.get_open_interest("BTCUSDT")
            server.restart()
            for _ in range(10):
                await made.get_open_interest("BTCUSDT")
        await budget.aclose()
        (found,) = (await redis_pools(server.url, "empty")).values()
        assert found.usage.charged == exchange.answers[200] == 20


@needs_server
def test_a_program_that_forgets_to_close_ends_without_a_warning(
    server: Server, exchange: LocalExchange
) -> None:
    async def use() -> None:
        budget = RedisBudget(server.url, egress="forgetful")
        async with client(exchange, budget) as made:
            await made.get_open_interest("BTCUSDT")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(use())
    (found,) = asyncio.run(redis_pools(server.url, "forgetful")).values()
    assert (found.usage.charged, found.usage.in_flight) == (1, 0)


FORK = """
import asyncio, os, sys
from binance_oi import BannedError, OpenInterestClient, RedisBudget
from binance_oi.budget import courier, redis_server
courier.CALL_TIMEOUT_S = redis_server.CALL_TIMEOUT_S = 300.0
budget = RedisBudget(sys.argv[1], egress=sys.argv[3])

async def use(calls):
    async with OpenInterestClient(base_url=sys.argv[2], budget=budget) as client:
        for _ in range(calls):
            await client.get_open_interest("BTCUSDT")
    await budget.aclose()

asyncio.run(use(3))
child = os.fork()
asyncio.run(use(4))
if child:
    sys.exit(os.waitpid(child, 0)[1])
"""


@needs_server
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_takes_part_as_another_member(
    server: Server, exchange: LocalExchange
) -> None:
    command = [sys.executable, "-W", "error", "-c", FORK, server.url, exchange.url]
    attempts = count()
    while True:
        minute, egress = exchange.now() // 60, f"forked-{next(attempts)}"
        done = subprocess.run(
            [*command, egress], capture_output=True, text=True, cwd=ROOT, timeout=HANGS
        )
        assert (done.returncode, done.stderr) == (0, "")
        (found,) = asyncio.run(redis_pools(server.url, egress)).values()
        if exchange.now() // 60 == minute:  # otherwise a minute ended before we read its count
            break
    assert (found.members, found.usage.charged) == (2, 11)


# -- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more, error",
    [
        ({}, TypeError),
        ({"egress": ""}, ValueError),
        ({"egress": None}, TypeError),
        ({"egress": "a", "without_server": "stop"}, ValueError),
        ({"egress": "a", "without_server": None}, ValueError),
        ({"egress": "a", "reserve": 2400}, ValueError),
        ({"egress": "a", "share": 0}, ValueError),
        ({"egress": "a", "interactive": 2}, ValueError),
        ({"egress": "a", "limit": 0}, ValueError),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    more: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        RedisBudget("redis://127.0.0.1:1", **more)


WITHOUT_REDIS = """
import sys
sys.modules["redis"] = None
import binance_oi
try:
    binance_oi.RedisBudget("redis://127.0.0.1", egress="a")
except ModuleNotFoundError as error:
    print(error)
"""


def test_without_the_extra_the_error_names_what_to_install() -> None:
    command = [sys.executable, "-W", "error", "-c", WITHOUT_REDIS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("this needs redis: pip install 'binance-oi[redis]'"), done.stderr


def test_importing_the_budget_does_not_import_redis() -> None:
    source = "import sys, binance_oi; binance_oi.RedisBudget; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("is_used", [True, False])
def test_a_machine_budget_in_use_beside_it_causes_a_warning(
    is_used: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if is_used:
        MachineBudget().pool("exchange").charge(1)
    RedisBudget("redis://127.0.0.1:1", egress="a").pool("exchange")
    assert ("MachineBudget" in caplog.text) is is_used


async def test_an_unused_budget_can_be_closed() -> None:
    budget = RedisBudget("redis://127.0.0.1:1", egress="a")
    await budget.aclose()
    budget.close()
    pool = budget.pool("exchange")
    assert pool.usage.used == 0
    await budget.aclose()


# -- the command line ------------------------------------------------------------------------------


@needs_server
def test_the_command_line_shares_a_budget_and_shows_it(
    server: Server,
    exchange: LocalExchange,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BINANCE_OI_BUDGET", server.url)
    monkeypatch.setenv("BINANCE_OI_EGRESS", "terminal")
    assert run_program(["get", "BTCUSDT", "--base-url", exchange.url, "--json"]) == 0
    capsys.readouterr()
    shown = ["budget", "--budget", server.url, "--egress", "terminal", "--json"]
    assert run_program(shown) == 0
    out, err = capsys.readouterr()
    (row,) = (json.loads(line) for line in out.splitlines())
    assert row["used"] == 1
    assert "1 process took part" in err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["get", "BTCUSDT", "--budget", "redis://127.0.0.1:1"], "--egress"),
        (["budget", "--budget", "redis://127.0.0.1:1"], "--egress"),
        (["budget", "--budget", "x://y", "--egress", "a"], "URL"),
        (["get", "BTCUSDT", "--budget", "x://y", "--egress", "a"], "URL"),
        (["get", "BTCUSDT", "--budget", "redis://127.0.0.1:1", "--egress", "a b"], "egress"),
        (["budget", "--budget", "redis://h", "--egress", "a", "--forget", "b"], "--forget"),
    ],
)
def test_wrong_usage_is_an_error_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert said in err


def test_a_missing_server_is_an_error_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    shown = ["budget", "--budget", "redis://127.0.0.1:1", "--egress", "a"]
    assert run_program(shown) == NETWORK
    assert "does not answer" in capsys.readouterr().err
