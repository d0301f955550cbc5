"""Drills with real processes, real sockets and a real clock: `python -m tests.simulation.machine`.

Rule of this file: the exchange's counts and the reports of the processes decide whether a drill
passes. A process reports its answers, errors and waits in one line when a drill stops it, so a
killed process reports nothing.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random

from binance_oi import BannedError, BinanceOIError, OpenInterestClient
from binance_oi.simulator.counter import Bans
from binance_oi.simulator.local import LocalExchange

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 20  # calls at a time in each process
LATELY = 180.0  # s before its end; a process reports how many answers it got in that time
MOMENTS = 20_000  # times of answers that a process keeps: more than it gets in `LATELY`


class Process:
    """A separate process that sends until it is stopped: as often as it may, or once a second."""

    def __init__(self, url: str, directory: Path, kind: str = "calls") -> None:
        command = [sys.executable, "-m", "tests.simulation.machine", "--use", url, "--kind", kind]
        self._popen = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"BINANCE_OI_BUDGET_DIR": str(directory)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._popen.stdout is not None
        self._lines = self._popen.stdout
        self.pid = self._popen.pid

    def started(self) -> None:
        """Wait for the first answer or the first error of the process."""
        assert self._lines.readline() == "started\n"

    def banned(self) -> None:
        """Wait until a ban has ended all calls. The process sends nothing until the ban ends."""
        assert self._lines.readline() == "banned\n"

    def kill(self) -> None:
        """`kill -9`."""
        self._popen.kill()
        self._popen.communicate()

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def stop(self) -> dict[str, float]:
        """Let the process end, and read its report."""
        out, _ = self._popen.communicate("stop\n")
        found: dict[str, float] = json.loads(out.splitlines()[-1])
        return found


def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` returns true. If it never does, pytest ends a test that waits."""
    while not condition():
        time.sleep(0.01)


@contextmanager
def running(url: str, count: int, directory: Path, kind: str = "calls") -> Iterator[list[Process]]:
    processes = [Process(url, directory, kind) for _ in range(count)]
    try:
        for process in processes:
            process.started()
        yield processes
    finally:
        for process in processes:
            process.kill()


async def use(url: str, kind: str) -> None:
    """Run as a `Process`: make single calls, `bulk` work, or one call a second (`bot`)."""
    loop = asyncio.get_running_loop()
    stop_requested = loop.run_in_executor(None, sys.stdin.readline)
    last, gap, answers, errors = loop.time(), 0.0, 0, 0
    banned = set[int]()
    moments, waits = deque[float](maxlen=MOMENTS), list[float]()
    workers = 1 if kind == "bot" else WORKERS

    def note(started: list[str] = ["started"]) -> None:  # noqa: B006 - printed once
        if started:
            print(started.pop(), flush=True)

    def note_ban(worker: int) -> None:
        if len(banned) < WORKERS:
            banned.add(worker)
            if len(banned) == WORKERS:
                print("banned", flush=True)

    async def ask(client: OpenInterestClient, worker: int) -> None:
        nonlocal last, gap, answers, errors
        while not stop_requested.done():
            began = loop.time()
            try:
                if kind == "bulk":
                    answers += len(await client.snapshot(["BTCUSDT", "ETHUSDT"]))
                else:
                    await client.get_open_interest("BTCUSDT", max_wait=5.0)
            except BinanceOIError as error:
                errors += 1
                note()
                if isinstance(error, BannedError):
                    note_ban(worker)
                await asyncio.sleep(0.05)
            else:
                if answers:
                    gap = max(gap, loop.time() - last)
                answers, last = answers + 1, loop.time()
                moments.append(last)
                note()
            if kind == "bot":
                waits.append(loop.time() - began)
                await asyncio.sleep(1.0)

    async with OpenInterestClient(base_url=url, max_connections=WORKERS) as client:
        with suppress(BinanceOIError):
            await client.exchange_info()  # so that the budget knows the limit
        await asyncio.gather(*(ask(client, worker) for worker in range(workers)))
    lately = sum(moment > loop.time() - LATELY for moment in moments)
    found = {"answers": answers, "errors": errors, "gap": gap, "lately": lately}
    found["waited"] = sorted(waits)[len(waits) * 99 // 100] if waits else 0.0
    print(json.dumps(found), flush=True)


def share(count: int, minutes: int) -> None:
    """Measure how much of the limit `count` processes with one budget use together."""
    with tempfile.TemporaryDirectory() as directory:
        offset = 55.0 - time.time() % 60.0  # a rollover comes soon
        exchange = LocalExchange(latency=0.03, jitter=0.02, clock_offset=offset)
        with exchange.in_thread(), running(exchange.url, count, Path(directory)) as processes:
            first = int(exchange.now() // 60) + 1
            time.sleep(60.0 * (first + minutes) - exchange.now() - 0.5)
            weights = [exchange.weights.get(first + k, 0) for k in range(minutes)]
            answers = [process.stop()["answers"] for process in processes]
    used = sum(weights) / (minutes * exchange.counter.limit)
    least = min(answers) / sum(answers) * count
    refused = exchange.answers[429] + exchange.answers[418]
    print(f"| {count} processes | {refused} | {used:.1%} | least {least:.0%} |", flush=True)
    assert (refused, used >= 0.98, least >= 0.5) == (0, True, True), weights


def strangers(count: int, minutes: int) -> None:
    """Let `count` processes without a shared budget send; measure the part of the poorest.

    The part is a share of an even part, in the last 3 minutes. After the first 2 minutes, the
    exchange may refuse no request.
    """
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        exchange = LocalExchange(latency=0.03, jitter=0.02)
        stack.enter_context(exchange.in_thread())
        places = [Path(directory) / str(n) for n in range(count)]
        made = [stack.enter_context(running(exchange.url, 1, place)) for place in places]
        time.sleep(60.0 * 2)
        refused = exchange.answers[429] + exchange.answers[418]
        time.sleep(60.0 * (minutes - 2))
        parts = [processes[0].stop()["lately"] for processes in made]
        late = exchange.answers[429] + exchange.answers[418] - refused
    least = min(parts) / max(1, sum(parts)) * count
    text = f"| {count} that share nothing | {late} after minute 2, {refused} before |"
    print(f"{text} the poorest had {least:.0%} of an even part in the last 3 minutes |", flush=True)
    assert (late, least >= 0.6) == (0, True), parts


def bot(minutes: int) -> None:
    """Make one call a second, while another process does bulk work on the same budget."""
    with tempfile.TemporaryDirectory() as place:
        exchange = LocalExchange(latency=0.03, jitter=0.02)
        with exchange.in_thread(), running(exchange.url, 1, Path(place), "bulk"):
            first = Process(exchange.url, Path(place), "bot")  # not measured
            time.sleep(70.0)
            first.kill()
            with running(exchange.url, 1, Path(place), "bot") as (second,):
                time.sleep(60.0 * minutes)
                waited = second.stop()["waited"]
    refused = exchange.answers[429] + exchange.answers[418]
    print(f"| 1/s beside bulk work | {refused} | 99 % of calls within {waited:.2f} s |", flush=True)
    assert (refused, waited <= 2.0) == (0, True)


def kills(count: int) -> float:
    """Kill one of three processes again and again; return the longest stall of the others, s.

    The processes never reach the limit, so only a killed process can stop the others.
    """
    random = Random(count)
    with tempfile.TemporaryDirectory() as directory:
        exchange = LocalExchange(limit=9_999_999, latency=0.02)
        with exchange.in_thread(), running(exchange.url, 3, Path(directory)) as processes:
            for _ in range(count):
                time.sleep(random.uniform(0.05, 0.3))
                processes[0].kill()
                sent = exchange.answers.total()
                # At the kill, up to 3 * WORKERS requests were under way; wait for more answers.
                until(lambda sent=sent: exchange.answers.total() >= sent + 3 * WORKERS)  # type: ignore[misc]
                processes[0] = Process(exchange.url, Path(directory))
                processes[0].started()
            gap = max(process.stop()["gap"] for process in processes[1:])
    refused = exchange.answers[429] + exchange.answers[418]
    print(f"| {count} x kill -9 | {refused} | longest stall {gap:.2f} s |", flush=True)
    assert refused == 0
    return gap


def ban(seconds: float) -> None:
    """During a ban no process sends, not even one that starts then. Afterwards, all send again."""
    with tempfile.TemporaryDirectory() as directory:
        exchange = LocalExchange(latency=0.05, bans=Bans(first_s=seconds))
        with exchange.in_thread(), running(exchange.url, 2, Path(directory)) as processes:
            exchange.counter.ban(exchange.now())
            time.sleep(1.0)
            sent = exchange.answers.total()
            ends = exchange.counter.banned_until
            later = Process(exchange.url, Path(directory))
            later.started()
            time.sleep(max(1.0, min(5.0, seconds)))
            assert exchange.answers.total() == sent, "a process sent during the ban"
            while (ends - exchange.now()) > 0:
                time.sleep(min(1.0, ends - exchange.now() + 0.01))
                assert exchange.answers.total() == sent or exchange.now() > ends
            time.sleep(10.0)
            assert exchange.answers.total() > sent
            for process in [*processes, later]:
                process.stop()
    assert exchange.answers[429] == 0
    print(f"| a ban | {exchange.answers[418]} answered 418, none sent during it |", flush=True)


def suspended() -> float:
    """Stop a process (SIGSTOP) at random moments; return the longest stall of the others, s."""
    random = Random(0)
    with tempfile.TemporaryDirectory() as directory:
        exchange = LocalExchange(limit=9_999_999)
        with exchange.in_thread(), running(exchange.url, 3, Path(directory)) as processes:
            for _ in range(20):
                processes[0].signal(signal.SIGSTOP)
                time.sleep(random.uniform(0.2, 1.5))
                processes[0].signal(signal.SIGCONT)
                time.sleep(random.uniform(0.01, 0.1))
            gap = max(process.stop()["gap"] for process in processes[1:])
    print(f"| 20 x SIGSTOP | {exchange.answers[429]} | longest stall {gap:.2f} s |", flush=True)
    return gap


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.machine")
    parser.add_argument("--use", metavar="URL", help="be one of the processes")
    parser.add_argument("--kind", default="calls", help=argparse.SUPPRESS)
    parser.add_argument("--minutes", type=int, default=3)
    parser.add_argument("--fair", action="store_true", help="run only the drills of fair shares")
    parser.add_argument("--strangers", type=int, default=8, help="minutes without a shared budget")
    options = parser.parse_args()
    if options.use:
        asyncio.run(use(options.use, options.kind))
        return
    bot(options.minutes)
    for count in (2, 4):
        strangers(count, options.strangers)
    if options.fair:
        return
    assert kills(50) <= 1.5
    assert suspended() <= 2.0
    for count in (2, 3, 5):
        share(count, options.minutes)
    ban(125.0)


if __name__ == "__main__":
    main()
