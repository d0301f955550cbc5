"""Measures speed and memory for `tests/benchmarks/README.md`: `nox -s benchmarks`.

    python -m tests.benchmarks [--rounds N] [NAME ...]

The rule of this file: where there is something to compare with, a figure is a ratio of two things,
and one run measures both in turn. Nothing here passes or fails, because machines are shared and
noisy.
"""

import argparse
import asyncio
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from functools import partial
from importlib.metadata import version
from pathlib import Path
from timeit import repeat

from binance_oi import MachineBudget, OpenInterestClient, ProcessBudget
from binance_oi.exchange.decoding import decode_open_interest
from binance_oi.sending.governor import Governor
from binance_oi.simulator import LocalExchange

from . import (
    archive,
    chart,
    contenders,
    growth,
    machines,
    past,
    recording,
    reporting,
    series,
    tls,
    waiters,
)
from .loopback import SYMBOLS, loopback
from .sampling import sampled

REQUESTS = 4000  # requests of one measurement
FIRST_MINUTE = 61.0  # s; after twice that, a client no longer sends carefully (`CAREFUL`)
LATEST = 42.0  # s: the latest moment of a minute at which a measurement begins
WARM_UP = 1000  # requests before a measurement; they read each symbol at least once
LARGE = 2**24  # bytes of the block that `_contenders` frees
BURST = 1000  # requests that the pacer of a new governor lets go at once
BODY = b'{"symbol":"BTCUSDT","openInterest":"96012.544","time":1790287793703}'
Samples = dict[str, list[float]]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def main() -> None:
    """Run the named figures, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "names", nargs="*", choices=[[], *FIGURES], metavar=f"{{{','.join(FIGURES)}}}"
    )
    parser.add_argument("--read", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        asyncio.run(_read_market(arguments.read))
        return
    print(_versions())
    for name in arguments.names or FIGURES:
        print(f"\n## {name}\n", flush=True)
        FIGURES[name](arguments.rounds)


def cpu(rounds: int) -> None:
    """CPU time (user and system) of this process for one request, while 50 run at a time."""
    ratios = _table(_steady_samples(rounds, asyncio.new_event_loop), "µs", 1e6)
    title = "CPU for one request, tuned aiohttp = 1"
    chart.write(Path(__file__).with_name("cpu.svg"), title, ratios)


def first_minute(rounds: int) -> None:
    """As `cpu`, but in the first minute of a client, while the client sends carefully."""
    _table(_cpu_samples(rounds, asyncio.new_event_loop), "µs", 1e6)


def uvloop(rounds: int) -> None:
    """As `cpu`, with every contender on uvloop."""
    from uvloop import new_event_loop

    _table(_steady_samples(rounds, new_event_loop), "µs", 1e6)


def in_postgres(rounds: int) -> None:
    """See `postgres.measure`; only this figure needs psycopg."""
    from . import postgres

    postgres.measure(rounds)


def over_tls(rounds: int) -> None:
    """As `cpu`, over TLS, on connections that are already open."""
    _table(_steady_samples(rounds, asyncio.new_event_loop, is_tls=True), "µs", 1e6)


def _contenders(directory: str) -> dict[str, contenders.Contender]:
    # asyncio receives into buffers of 256 KiB. Until a large block has been freed once, glibc asks
    # the kernel for each of these buffers. In some runs, that would cost every client but ours 10
    # µs for each answer.
    bytearray(LARGE)
    return {
        "tuned aiohttp, nothing else": contenders.tuned,
        "aiohttp and response.json()": contenders.plain,
        "ours, ProcessBudget": contenders.process_budget,
        "ours, MachineBudget": contenders.machine_budget(Path(directory)),
    }


def _cpu_samples(rounds: int, loop_factory: LoopFactory) -> Samples:
    """Measure each round with clients that have just started."""
    samples: Samples = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as directory:
            for name, client in _contenders(directory).items():
                with loopback() as url, asyncio.Runner(loop_factory=loop_factory) as runner:
                    _avoid_the_rollover()
                    samples.setdefault(name, []).append(runner.run(_cpu_per_request(client, url)))
    return samples


def _steady_samples(rounds: int, loop_factory: LoopFactory, *, is_tls: bool = False) -> Samples:
    """Measure all rounds with the same clients, after their first two minutes."""
    with (
        tempfile.TemporaryDirectory() as directory,
        ExitStack() as servers,
        asyncio.Runner(loop_factory=loop_factory) as runner,
    ):
        serve = tls.served if is_tls else _served
        # Each contender has its own server, because a server's count includes all its clients.
        urls = {
            name: (partial(client, ssl=trust), url)
            for name, client in _contenders(directory).items()
            for url, trust in [servers.enter_context(serve())]
        }
        return runner.run(_steady(urls, rounds))


@contextmanager
def _served() -> Iterator[tuple[str, None]]:
    with loopback() as url:
        yield url, None


async def _profile(
    client: contenders.Contender, url: str, rounds: int
) -> tuple[float, Counter[str]]:
    """Return the CPU of a request, s, and the samples of each part; see `sampling`.

    The measurement begins after the first two minutes of the client.
    """
    seconds, seen = list[float](), Counter[str]()
    async with client(url) as read:
        await _pass_first_minutes([read])
        for _ in range(rounds):
            _avoid_the_rollover()
            await contenders.read_all(read, WARM_UP, workers=50)
            with sampled() as found:
                seconds.append(await _cpu_of(read, REQUESTS))
            seen += found
    return statistics.median(seconds), seen


async def _pass_first_minutes(readers: Iterable[contenders.Read]) -> None:
    """Let clients that have just started send, until they no longer have to send carefully."""
    for _ in range(2):
        for read in readers:
            await contenders.read_all(read, WARM_UP, workers=50)
        await asyncio.sleep(FIRST_MINUTE)


async def _steady(urls: Mapping[str, tuple[contenders.Contender, str]], rounds: int) -> Samples:
    samples: Samples = {name: [] for name in urls}
    async with AsyncExitStack() as stack:
        readers = {
            name: await stack.enter_async_context(client(url))
            for name, (client, url) in urls.items()
        }
        await _pass_first_minutes(readers.values())
        for _ in range(rounds):
            for name, read in readers.items():
                _avoid_the_rollover()
                await contenders.read_all(read, WARM_UP, workers=50)
                samples[name].append(await _cpu_of(read, REQUESTS))
    return samples


def _avoid_the_rollover() -> None:
    """Sleep until a whole measurement fits into one minute."""
    second = time.time() % 60.0
    if not 1.0 <= second < LATEST:
        time.sleep(61.0 - second if second >= LATEST else 1.0 - second)


async def _cpu_per_request(
    client: contenders.Contender, url: str, requests: int = REQUESTS
) -> float:
    async with client(url) as read:
        await contenders.read_all(read, WARM_UP, workers=50)
        return await _cpu_of(read, requests)


async def _cpu_of(read: contenders.Read, requests: int) -> float:
    began = time.process_time()
    await contenders.read_all(read, requests, workers=50)
    return (time.process_time() - began) / requests


def profile(rounds: int) -> None:
    """Measure the CPU time of a request by part of the package."""
    with tempfile.TemporaryDirectory() as directory, loopback() as url:
        client = contenders.machine_budget(Path(directory))
        seconds, seen = asyncio.run(_profile(client, url, rounds))
    print("| | µs | share |\n|---|---|---|")
    for part, count in seen.most_common():
        share = count / seen.total()
        print(f"| {part} | {seconds * share * 1e6:.1f} | {share:.0%} |")


def snapshots(rounds: int) -> None:
    """Wall time of a first and a second sweep of the market, over 100 connections."""
    for count in (600, 789):
        for latency_ms, handshake_ms in ((0, 0), (5, 0), (50, 0), (50, 100)):
            samples: Samples = {}
            for _ in range(rounds):
                for name, sweep in (("tuned", _tuned_sweep), ("ours", _our_sweep)):
                    with loopback(latency_ms / 1000, handshake_ms / 1000) as url:
                        cold, warm = asyncio.run(_cold_and_warm(sweep, url, SYMBOLS[:count]))
                    samples.setdefault(f"{name}, cold", []).append(cold)
                    samples.setdefault(f"{name}, warm", []).append(warm)
            print(f"{count} symbols, {latency_ms} ms, handshakes of {handshake_ms} ms:")
            _table(
                samples, "ms", 1e3, pairs={"ours, cold": "tuned, cold", "ours, warm": "tuned, warm"}
            )


def limit(_: int) -> None:
    """Make 3,600 calls at once in real time, 15 s before a rollover of the exchange."""
    exchange = LocalExchange(clock_offset=45.0 - time.time() % 60.0)
    with exchange.in_thread():
        seconds = sorted(asyncio.run(_all_at_once(exchange.url, 3600)))
    print(f"call 2,370 after {seconds[2369]:.1f} s, call 3,600 after {seconds[-1]:.1f} s")
    print(f"answers by status: {dict(exchange.answers)}, by minute: {exchange.weights}")


async def _all_at_once(url: str, count: int) -> list[float]:
    seconds: list[float] = []
    async with OpenInterestClient(base_url=url, budget=ProcessBudget()) as client:
        symbols = await client.symbols()
        began = time.perf_counter()

        async def call(number: int) -> None:
            await client.get_open_interest(symbols[number % len(symbols)])
            seconds.append(time.perf_counter() - began)

        await asyncio.gather(*map(call, range(count)))
    return seconds


Sweep = Callable[[list[str]], Coroutine[object, object, object]]


@asynccontextmanager
async def _tuned_sweep(url: str) -> AsyncIterator[Sweep]:
    async with contenders.tuned(url) as read:

        async def sweep(symbols: list[str]) -> object:
            return await asyncio.gather(*map(read, symbols))

        yield sweep


@asynccontextmanager
async def _our_sweep(url: str) -> AsyncIterator[Sweep]:
    budget = ProcessBudget(limit=contenders.HUGE)
    async with OpenInterestClient(base_url=url, budget=budget) as client:
        yield client.snapshot


async def _cold_and_warm(
    sweeps: Callable[[str], AbstractAsyncContextManager[Sweep]], url: str, symbols: list[str]
) -> tuple[float, float]:
    async with sweeps(url) as sweep:
        times: list[float] = []
        for _ in range(2):
            began = time.perf_counter()
            await sweep(symbols)
            times.append(time.perf_counter() - began)
            await asyncio.sleep(1.0)  # so that the pacer recovers, as between two polls
        return times[0], times[1]


def governor(rounds: int) -> None:
    """Measure the governor alone: first with no waiting call, then with many."""
    samples: Samples = {}
    with tempfile.TemporaryDirectory() as directory:
        budgets = {
            "at once": ProcessBudget(limit=contenders.HUGE),
            "at once, MachineBudget": MachineBudget(
                limit=contenders.HUGE, directory=Path(directory)
            ),
        }
        for _ in range(rounds):
            for name, budget in budgets.items():
                for calls in (1, 50):
                    seconds = asyncio.run(_at_once(budget, calls))
                    samples.setdefault(f"{name}, {calls} at a time", []).append(seconds)
            for waiting in (10, 100, 1000, 10_000):
                cost, _ = asyncio.run(_from_queue(waiting))
                samples.setdefault(f"{waiting} waiting", []).append(cost)
        budgets["at once, MachineBudget"].close()
    _table(samples, "µs CPU", 1e6, base="10 waiting")
    _, memory = asyncio.run(_from_queue(10_000))
    print(f"\nmemory for each of 10,000 waiters, its task included: {memory:.0f} bytes")


async def _at_once(budget: ProcessBudget, calls: int, count: int = 20) -> float:
    """CPU, s, to admit, settle and release one request of a burst that the pacer allows."""
    pool = budget.pool("benchmark")
    headers = {"X-MBX-USED-WEIGHT-1M": "1"}
    (await Governor(pool).admit()).settle(200, headers)
    began = time.process_time()
    for _ in range(count):
        queue = Governor(pool)
        for _ in range(BURST // calls):
            permits = [await queue.admit() for _ in range(calls)]
            for permit in permits:
                permit.settle(200, headers)
                permit.release()
    return (time.process_time() - began) / count / BURST


async def _from_queue(waiting: int, count: int = 10_000) -> tuple[float, float]:
    """CPU, s, for each admission while `waiting` calls wait, and bytes for each waiting call."""
    pool = ProcessBudget(limit=contenders.HUGE).pool("benchmark")
    queue = Governor(pool, pace=1e9, max_in_flight=1)
    first = await queue.admit()
    first.settle(200, {"X-MBX-USED-WEIGHT-1M": "1"})
    admitted = 0

    async def call() -> None:
        nonlocal admitted
        while admitted < count:
            permit = await queue.admit()
            admitted += 1
            permit.refund()
            permit.release()

    tracemalloc.start()
    tasks = [asyncio.create_task(call()) for _ in range(waiting)]
    await asyncio.sleep(0)
    memory = tracemalloc.get_traced_memory()[0] / waiting
    tracemalloc.stop()
    began = time.process_time()
    first.release()
    await asyncio.gather(*tasks)
    return (time.process_time() - began) / admitted, memory


def decoding(rounds: int) -> None:
    """Decode one body into an exact value."""
    import json
    from decimal import Decimal

    def plain() -> object:
        answer = json.loads(BODY)
        return Decimal(answer["openInterest"])

    samples: Samples = {
        "json and Decimal": _timeit(plain, rounds),
        "ours": _timeit(lambda: decode_open_interest(BODY, "BTCUSDT"), rounds),
    }
    _table(samples, "µs", 1e6)


def history(rounds: int) -> None:
    """CPU (user and system) of this process for one page of 500 rows, one page after the other."""
    for packed in (False, True):
        print("gzip, in chunks:" if packed else "not compressed:")
        _table(past.samples(rounds, packed=packed), "µs", 1e6)


def imports(rounds: int) -> None:
    """CPU of a process that imports this package, and of one that imports its dependencies."""
    statements = {
        "import aiohttp, msgspec, aiolimiter": "import aiohttp, msgspec, aiolimiter",
        "import binance_oi": "import binance_oi",
    }
    samples: Samples = {name: [] for name in statements}
    _process_seconds("import binance_oi")
    for _ in range(rounds * 3):
        for name, statement in statements.items():
            samples[name].append(_process_seconds(statement))
    _table(samples, "ms", 1e3)


def memory(_: int) -> None:
    """Resident memory of a client that has read the market once, above that of the import."""
    with loopback() as url:
        command = [sys.executable, "-m", "tests.benchmarks", "--read", url]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    print(output.strip())


async def _read_market(url: str) -> None:
    budget = ProcessBudget(limit=contenders.HUGE)
    before = _resident_bytes()
    async with OpenInterestClient(base_url=url, budget=budget) as client:
        assert len(await client.snapshot()) == len(SYMBOLS)
    print(f"{(_resident_bytes() - before) / 2**20:.1f} MiB")


def _timeit(function: Callable[[], object], rounds: int, count: int = 20_000) -> list[float]:
    return [seconds / count for seconds in repeat(function, number=count, repeat=rounds)]


def _process_seconds(statement: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Let the first import of our package write its bytecode, as an installation does.
    compiled = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", statement], check=True, env=compiled)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _table(
    samples: Samples,
    unit: str,
    factor: float,
    *,
    base: str | None = None,
    pairs: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Print the median of each row, and the median of its ratios; return these ratios."""
    base = base or next(iter(samples))
    print(f"| | {unit} | ratio |\n|---|---|---|")
    ratios: dict[str, float] = {}
    for name, values in samples.items():
        against = samples[(pairs or {}).get(name, name if pairs else base)]
        ratio = statistics.median(a / b for a, b in zip(values, against, strict=True))
        ratios[name] = ratio
        print(f"| {name} | {statistics.median(values) * factor:.2f} | {ratio:.2f} |")
    return ratios


def _versions() -> str:
    packages = ", ".join(f"{p} {version(p)}" for p in ("aiohttp", "msgspec", "aiolimiter"))
    return f"Python {platform.python_version()}, {packages}, {os.cpu_count()} cores"


FIGURES: Mapping[str, Callable[[int], None]] = {
    "cpu": cpu,
    "first_minute": first_minute,
    "uvloop": uvloop,
    "tls": over_tls,
    "profile": profile,
    "snapshots": snapshots,
    "connections": tls.main,
    "market": tls.market,
    "limit": limit,
    "governor": governor,
    "waiters": waiters.main,
    "objects": waiters.objects,
    "decoding": decoding,
    "history": history,
    "imports": imports,
    "memory": memory,
    "growth": growth.main,
    "recorder": recording.measure,
    "series": series.measure,
    "archive": archive.measure,
    "report": reporting.measure,
    "machines": machines.measure,
    "postgres": in_postgres,
}

if __name__ == "__main__":
    main()
