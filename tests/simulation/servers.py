"""Drills with real servers, processes and clocks: `python -m tests.simulation.servers`.

Rule of this file: a drill passes if the exchange refused no request, and every process ended on
request. In the drill `ban`, the exchange refuses requests with a ban. No process may send once it
knows of the ban, and at most one may learn of it from the exchange itself. Each drill has its own
servers, some behind a relay.
"""

import argparse
import asyncio
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import trustme

from binance_oi import BinanceOIError, OpenInterestClient, RedisBudget
from binance_oi.budget import Pool
from binance_oi.extras import library
from binance_oi.simulator.local import LocalExchange
from support.redis_servers import Server, free_port, program, running

ROOT = Path(__file__).resolve().parents[2]
MEMBERS, WORKERS = 4, 20  # processes of a drill, and calls at a time in each
SECONDS = 75.0  # s that most drills last
LONG = {"kills": 300.0}  # s, for drills that last longer than `SECONDS`
EGRESS = "drill"
END_S = 120.0  # s in which a process must end, even on a slow machine
DELAYED_S = 8.0  # s by which the exchange delays the answers to all processes but one
OBEYED_S = 0.02  # s beyond a round trip; a request that a process sends later counts as late
PAUSE_S = 0.01  # s between two measured round trips
LATEST = 1000  # how many of its latest requests, and of its round trips, a process remembers


class Process:
    """A separate process that sends as often as it may, until the drill stops it."""

    def __init__(self, exchange: str, server: str, symbol: str = "BTCUSDT") -> None:
        use = "--use", exchange, server, symbol
        command = [sys.executable, "-m", "tests.simulation.servers", *use]
        self._popen = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        self._popen.kill()
        self._popen.communicate()

    def stop(self) -> dict[str, Any]:
        """End the process; fail if it does not end in time."""
        out, _ = self._popen.communicate("stop\n", timeout=END_S)
        assert self._popen.returncode == 0, self._popen.returncode
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found


async def use(exchange: str, server: str, symbol: str) -> None:
    """Run as a `Process`."""
    loop = asyncio.get_running_loop()
    stopped = loop.run_in_executor(None, sys.stdin.readline)
    answers = errors = 0
    seen, budget = Seen(), RedisBudget(make_client(server), egress=EGRESS)

    async def ask(client: OpenInterestClient) -> None:
        nonlocal answers, errors
        while not stopped.done():
            try:
                await client.get_open_interest(symbol, max_wait=3.0)
            except BinanceOIError:
                errors += 1
                await asyncio.sleep(0.05)
            else:
                answers += 1

    async with (
        aiohttp.ClientSession(trace_configs=[seen.requests()]) as session,
        OpenInterestClient(
            base_url=exchange, budget=budget, max_connections=WORKERS, session=session
        ) as client,
    ):
        seen.pool = client._governor.pool
        measuring = loop.create_task(seen.measure(make_client(server)))
        await asyncio.gather(*(ask(client) for _ in range(WORKERS)))
        measuring.cancel()
    await budget.aclose()
    sys.stdout.write(json.dumps({"answers": answers, "errors": errors, **seen.shown()}) + "\n")


class Seen:
    """What a process observes: when it sends, when it learns of a ban, and its round trips.

    All instants are by the monotonic clock, which the processes of a machine share.
    """

    def __init__(self) -> None:
        self.pool: Pool | None = None
        self._sent = deque[float](maxlen=LATEST)
        self._after = 0  # requests that the process sent although it knew of the ban
        self._banned: float | None = None
        self._own: float | None = None  # when an answer to this process first had the ban
        self._trips = deque[tuple[float, float]](maxlen=LATEST)  # begin and end of each

    def _look(self) -> None:
        if self._banned is None and self.pool is not None and self.pool.usage.banned_until:
            self._banned = time.monotonic()

    def requests(self) -> aiohttp.TraceConfig:
        async def begin(*_: object) -> None:
            self._look()
            self._sent.append(time.monotonic())
            self._after += self._banned is not None

        async def end(_: object, __: object, parameters: aiohttp.TraceRequestEndParams) -> None:
            if self._own is None and parameters.response.status == 418:
                self._own = time.monotonic()

        config = aiohttp.TraceConfig()
        config.on_request_start.append(begin)
        config.on_request_end.append(end)
        return config

    async def measure(self, server: Any) -> None:
        """Measure the time of a round trip to the server again and again."""
        if not isinstance(server, str):  # a drill without a URL needs no times
            return
        client = library("redis.asyncio", "redis").from_url(server)
        while True:
            began = time.monotonic()
            with suppress(library("redis", "redis").RedisError):
                await client.ping()
                self._trips.append((began, time.monotonic()))
            self._look()
            await asyncio.sleep(PAUSE_S)

    def shown(self) -> dict[str, Any]:
        seen = {"banned": self._banned, "own": self._own, "after": self._after}
        return {"sent": [*self._sent], "trips": [*self._trips], **seen}


def make_client(server: str) -> Any:
    """Return the URL itself, or a client for `sentinel://` and `cluster://`."""
    kind, _, place = server.partition("://")
    host, _, port = place.partition(":")
    if kind == "sentinel":
        return (
            library("redis.asyncio.sentinel", "redis")
            .Sentinel([(host, int(port))])
            .master_for("drill")
        )
    if kind == "cluster":
        return library("redis.asyncio.cluster", "redis").RedisCluster(host=host, port=int(port))
    return server


class Relay:
    """Passes bytes on to a server after a delay; `hold` delays all of them for a while."""

    def __init__(self, port: int, delay: float = 0.0) -> None:
        self.delay, self.held_until = delay, 0.0
        self._target = port
        self._loop = asyncio.new_event_loop()
        self.port = free_port()
        self._is_ready = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()
        self._is_ready.wait()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        start = asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self._loop.run_until_complete(start)
        self._is_ready.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(self._pass(reader, far[1]), self._pass(far[0], writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await reader.read(65536):
                moment = max(loop.time() + self.delay, self.held_until)
                loop.call_at(moment, writer.write, data)
        loop.call_at(max(loop.time() + self.delay, self.held_until), writer.close)

    def hold(self, seconds: float) -> None:
        """Hold all bytes for this many seconds, and then pass them on together."""
        self.held_until = self._loop.time() + seconds


Play = Callable[["Stage"], None]


class Stage:
    """The exchange, the server, and the processes of a drill."""

    def __init__(self, directory: Path, stack: ExitStack, seconds: float) -> None:
        self.directory, self.seconds, self.random = directory, seconds, Random(0)
        self.stack = stack
        offset = 50.0 - time.time() % 60.0  # a rollover comes soon
        self.exchange = LocalExchange(latency=0.02, jitter=0.02, clock_offset=offset)
        stack.enter_context(self.exchange.in_thread())
        self.processes: list[Process] = []

    def server(self, name: str = "server", **options: Any) -> Server:
        return self.stack.enter_context(running(self.directory / name, **options))

    def begin(self, *urls: str, symbols: tuple[str, ...] = ("BTCUSDT",)) -> None:
        """Start the processes, and wait until the exchange has answered one of them."""
        self.processes = [
            Process(self.exchange.url, urls[n % len(urls)], symbols[n % len(symbols)])
            for n in range(MEMBERS)
        ]
        while not self.exchange.answers.total():
            time.sleep(0.05)

    def restart(self, number: int, url: str) -> None:
        self.processes[number].kill()
        self.processes[number] = Process(self.exchange.url, url)

    def wait(self, seconds: float | None = None) -> None:
        time.sleep(self.seconds if seconds is None else seconds)


def kills(stage: Stage) -> None:
    """Processes are killed and suspended."""
    server = stage.server()
    stage.begin(server.url)
    ends = time.monotonic() + stage.seconds
    while time.monotonic() < ends:
        time.sleep(stage.random.uniform(1.0, 4.0))
        if stage.random.random() < 0.5:
            stage.restart(stage.random.randrange(MEMBERS), server.url)
        else:
            stopped = stage.processes[stage.random.randrange(MEMBERS)]
            stopped.signal(signal.SIGSTOP)
            time.sleep(stage.random.uniform(0.5, 20.0))
            stopped.signal(signal.SIGCONT)


def valkey(stage: Stage) -> None:
    """As `empty`, with Valkey even if Redis is installed."""
    empty(stage, kinds=("valkey",))


def empty(stage: Stage, **options: Any) -> None:
    """The server is killed, and starts empty."""
    server = stage.server(**options)
    stage.begin(server.url)
    ends = time.monotonic() + stage.seconds
    while time.monotonic() < ends:
        time.sleep(stage.random.uniform(5.0, 15.0))
        server.kill()
        time.sleep(stage.random.uniform(0.0, 5.0))
        server.start()


def torn(stage: Stage) -> None:
    """The server is killed, and starts from a file that lost its last bytes."""
    server = stage.server(appendonly="yes", appendfsync="everysec")
    stage.begin(server.url)
    ends = time.monotonic() + stage.seconds
    while time.monotonic() < ends:
        time.sleep(stage.random.uniform(8.0, 15.0))
        server.kill()
        (file,) = (server.directory / "appendonlydir").glob("*.incr.aof")
        data = file.read_bytes()
        file.write_bytes(data[: max(0, len(data) - stage.random.randrange(20_000))])
        server.start()


def promoted(stage: Stage) -> None:
    """A replica that lacks the last writes takes over, at the same port."""
    first = stage.server()
    relay = Relay(first.port)
    second = stage.server("replica", replicaof=f"127.0.0.1 {first.port}")
    stage.begin(relay.url)
    stage.wait(stage.seconds / 2)
    second.signal(signal.SIGSTOP)
    time.sleep(1.0)
    first.kill()
    second.signal(signal.SIGCONT)
    second.call("REPLICAOF", "NO", "ONE")
    relay._target = second.port
    stage.wait(stage.seconds / 2)


def sentinel(stage: Stage) -> None:
    """Sentinel promotes a replica to primary."""
    first = stage.server()
    second = stage.server("replica", replicaof=f"127.0.0.1 {first.port}")
    port = free_port()
    config = stage.directory / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {stage.directory}\n"
        f"sentinel monitor drill 127.0.0.1 {first.port} 1\n"
        "sentinel down-after-milliseconds drill 1000\nsentinel failover-timeout drill 5000\n"
    )
    found = program("server")
    assert found is not None
    with (stage.directory / "sentinel.log").open("ab") as log:
        watching = subprocess.Popen([found, str(config), "--sentinel"], stdout=log, stderr=log)
    stage.stack.callback(watching.wait)
    stage.stack.callback(watching.kill)
    while f"{second.port}" not in _sentinel_says(port):
        time.sleep(0.2)
    stage.begin(f"sentinel://127.0.0.1:{port}")
    stage.wait(stage.seconds / 3)
    first.kill()
    stage.wait(2 * stage.seconds / 3)


def _sentinel_says(port: int) -> str:
    redis = library("redis", "redis")
    with suppress(redis.RedisError):
        return str(redis.Redis(port=port).execute_command("SENTINEL", "REPLICAS", "drill"))
    return ""


def shards(stage: Stage) -> None:
    """The server is a cluster of three nodes."""
    servers = [stage.server(f"shard{n}", cluster_enabled="yes") for n in range(3)]
    for number, server in enumerate(servers):
        first, last = 5461 * number, 16383 if number == 2 else 5461 * (number + 1) - 1
        server.call("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
        server.call("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        if number:
            server.call("CLUSTER", "MEET", "127.0.0.1", str(servers[0].port))
    for server in servers:
        while "cluster_state:ok" not in server.call("CLUSTER", "INFO"):
            time.sleep(0.2)
    stage.begin(f"cluster://127.0.0.1:{servers[0].port}")
    stage.wait()


def far(stage: Stage) -> None:
    """A round trip to the server takes 10 ms more than otherwise."""
    relay = Relay(stage.server().port, 0.005)
    stage.begin(relay.url)
    stage.wait()


def cut(stage: Stage) -> None:
    """One process loses the server for 45 s; then all delayed bytes arrive."""
    server = stage.server()
    relay = Relay(server.port)
    stage.begin(relay.url, server.url, server.url, server.url)
    stage.wait(10.0)
    relay.hold(45.0)
    stage.wait(max(60.0, stage.seconds))


def cut_all(stage: Stage) -> None:
    """All processes lose the server for 90 s."""
    relay = Relay(stage.server().port)
    stage.begin(relay.url)
    stage.wait(10.0)
    relay.hold(90.0)
    stage.wait(max(110.0, stage.seconds))


def flushed(stage: Stage) -> None:
    """Every 2 s, the server loses its scripts, and now and then its data too."""
    server = stage.server()
    stage.begin(server.url)
    ends = time.monotonic() + stage.seconds
    while time.monotonic() < ends:
        time.sleep(2.0)
        server.call("SCRIPT", "FLUSH")
        if stage.random.random() < 0.1:
            server.call("FLUSHALL")


def full(stage: Stage) -> None:
    """The memory of the server is full for a while."""
    server = stage.server()
    stage.begin(server.url)
    stage.wait(10.0)
    server.call("CONFIG", "SET", "maxmemory", "1")
    stage.wait(30.0)
    server.call("CONFIG", "SET", "maxmemory", "0")
    stage.wait()


def rights(stage: Stage) -> None:
    """The user of the server has a password, and only the documented rights."""
    page = (ROOT / ".docs" / "machines.md").read_text()
    (found,) = re.findall(r"`(~\{binance-oi:\*[^`]*)`", page)
    server = stage.server()
    server.call("ACL", "SETUSER", "bot", "on", ">word", *found.split())
    server.call("ACL", "SETUSER", "default", "off")
    stage.begin(server.url.replace("://", "://bot:word@"))
    stage.wait()


def tls(stage: Stage) -> None:
    """The connections are encrypted."""
    authority, port = trustme.CA(), free_port()
    issued = authority.issue_cert("127.0.0.1")
    ca, key = stage.directory / "ca.pem", str(stage.directory / "key.pem")
    authority.cert_pem.write_to_path(str(ca))
    issued.private_key_and_cert_chain_pem.write_to_path(key)
    options = {"tls_port": str(port), "tls_cert_file": key, "tls_key_file": key}
    stage.server(port=port, **options, tls_ca_cert_file=str(ca), tls_auth_clients="no")
    stage.begin(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={ca}")
    stage.wait()


def ban(stage: Stage) -> None:
    """The exchange bans the address while all processes send, and answers only one of them soon."""
    symbols = "BTCUSDT", "ETHUSDT"
    server = stage.server()
    stage.begin(server.url, symbols=(*symbols[:1], *symbols[1:] * (MEMBERS - 1)))
    stage.wait(stage.random.uniform(12.0, 14.0))  # soon after a rollover
    stage.exchange.delay(DELAYED_S, 100_000, symbol=symbols[1])
    stage.exchange.ban(600.0)
    stage.wait(15.0)


def obeyed(found: list[dict[str, Any]]) -> str:
    """Check that the processes obeyed a ban; return what they did, as a text.

    No process sends once it knows of the ban. All processes except at most one learn of it before
    the exchange refuses a request of theirs. How soon they learn of it depends on this machine, so
    only the text has these figures: the longest round trip in the second after the first process
    learned of the ban, and how long after that instant the last request was sent.
    """
    learned = [each["banned"] for each in found]
    assert all(learned)
    first = min(learned)
    assert not any(each["after"] for each in found)
    informed = [each for each in found if each["own"] is None or each["own"] > each["banned"]]
    assert len(informed) >= MEMBERS - 1
    trips = [(begin, end) for each in found for begin, end in each["trips"]]
    trip = max(end - begin for begin, end in trips if end >= first and begin <= first + 1.0)
    after = [sent - first for each in found for sent in each["sent"] if sent > first]
    late = [seconds for seconds in after if seconds > trip + OBEYED_S]
    last = 1000 * max(after, default=0.0)
    return f"round trip {1000 * trip:.1f} ms, last request after {last:.1f} ms, {len(late)} late"


DRILLS: dict[str, Play] = {
    play.__name__: play
    for play in (
        *(kills, empty, torn, promoted, sentinel, shards, far, cut, cut_all, flushed, full),
        *(rights, tls, valkey, ban),
    )
}


@contextmanager
def _stage(seconds: float) -> Generator[Stage]:
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        stage = Stage(Path(place), stack, seconds)
        try:
            yield stage
        finally:
            for process in stage.processes:
                with suppress(ProcessLookupError):
                    process.signal(signal.SIGCONT)
                process.kill()


def drill(name: str, seconds: float) -> None:
    """Play one drill, and check its result."""
    with _stage(seconds) as stage:
        DRILLS[name](stage)
        found = [process.stop() for process in stage.processes]
        refused, banned = stage.exchange.answers[429], stage.exchange.answers[418]
        weights = list(stage.exchange.weights.values())
        answers = [each["answers"] for each in found]
    text = f"| {name} | {refused} refused | most {max(weights)} | minutes {weights} |"
    if name == ban.__name__:
        text += f" {obeyed(found)} |"
    sys.stdout.write(f"{text} answers {answers} |\n")
    sys.stdout.flush()
    assert not refused
    assert bool(banned) == (name == ban.__name__)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.servers")
    parser.add_argument("--use", nargs=3, metavar=("EXCHANGE", "SERVER", "SYMBOL"))
    parser.add_argument("--seconds", type=float, help="of every drill")
    parser.add_argument("names", nargs="*", default=list(DRILLS))
    options = parser.parse_args()
    if options.use:
        asyncio.run(use(*options.use))
        return
    for name in options.names:
        drill(name, options.seconds or LONG.get(name, SECONDS))


if __name__ == "__main__":
    main()
