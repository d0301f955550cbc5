"""Shows where the CPU time of a request goes: it samples which file runs, every few milliseconds.

Rule of this file: C code has no frame of its own, so its time counts for the Python code that calls
it. The parser's time counts for aiohttp, and that of a system call for asyncio.
"""

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EVERY_S = 0.001  # s of CPU time between two samples; the kernel's ticks make it longer
TRANSPORT = "transport: guard, deadline, putting a request on a connection"
PARTS = {  # text in a file's path, and the part for which the file counts; the first match decides
    "tests/benchmarks/": "the benchmark itself",
    "binance_oi/sending/plain_answers": "reading an answer's head",
    "binance_oi/sending/connections": TRANSPORT,
    "binance_oi/sending/deadline": TRANSPORT,
    "binance_oi/sending/guard": TRANSPORT,
    "binance_oi/sending/kept_connections": TRANSPORT,
    "binance_oi/sending/parked_connections": TRANSPORT,
    "binance_oi/sending/transport": TRANSPORT,
    "binance_oi/sending/governor": "governor and headers",
    "binance_oi/exchange/headers": "governor and headers",
    "binance_oi/budget/pool": "the bucket's sharing",
    "binance_oi/budget/record": "the bucket's sharing",
    "binance_oi/budget/shared": "the bucket's sharing",
    "binance_oi/budget/stored": "the bucket's sharing",
    "binance_oi/budget/": "the bucket",
    "binance_oi/client": "the client: keeping the latest values",
    "binance_oi/": "send loop, decoding and checks",
    "/asyncio/": "asyncio, with the system calls",
    "/selectors.py": "asyncio, with the system calls",
    "/aiohttp/": "aiohttp: parser, streams, connections",
}


@contextmanager
def sampled() -> Iterator[Counter[str]]:
    """Count the samples during the block, by the part of the code that ran."""
    seen: Counter[str] = Counter()

    def look(_: int, frame: FrameType | None) -> None:
        path = "" if frame is None else frame.f_code.co_filename
        seen[next((part for text, part in PARTS.items() if text in path), "other")] += 1

    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
    try:
        yield seen
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)
