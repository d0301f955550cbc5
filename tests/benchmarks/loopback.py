"""A loopback server that is not the bottleneck: a bare protocol in a process of its own.

    python -m tests.benchmarks.loopback [LATENCY_S [HANDSHAKE_S]]

It answers every openInterest request at once, or after LATENCY_S seconds, and on a new connection
not before HANDSHAKE_S seconds, as if there had been a handshake; with the header set of a real
answer. exchangeInfo lists 789 symbols. It counts nothing: a benchmark is not a test.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from urllib.parse import parse_qsl

STEP = 300_000  # ms from row to row
SYMBOLS = [f"S{number:03d}USDT" for number in range(789)]
_HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: keep-alive\r\n"
    "Server: nginx\r\nx-response-time: 0ms\r\n"
    "cache-control: no-cache, no-store, must-revalidate\r\n"
    "expires: 0\r\npragma: no-cache\r\nx-content-type-options: nosniff\r\n"
    "x-frame-options: SAMEORIGIN\r\nx-xss-protection: 1; mode=block\r\n"
)


class _Server(asyncio.Protocol):
    latency_s = handshake_s = 0.0
    used = 0
    date = (0, "")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = b""
        self.ready_at = asyncio.get_running_loop().time() + self.handshake_s

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            request, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            answer = self.answer(request.split(b" ", 2)[1].decode())
            if self.latency_s:
                loop = asyncio.get_running_loop()
                began = max(loop.time(), self.ready_at)
                loop.call_at(began + self.latency_s, self.write, answer)
            else:
                self.write(answer)

    def write(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)

    def answer(self, target: str) -> bytes:
        cls = type(self)
        now = time.time()
        if int(now) != cls.date[0]:
            cls.date = (int(now), formatdate(now, usegmt=True))
        cls.used += 1
        symbol, now_ms = target.partition("=")[2], int(now * 1000)
        body = f'{{"symbol":"{symbol}","openInterest":"96012.544","time":{now_ms}}}'
        if "openInterestHist" in target:
            body = _page(target)
        if "exchangeInfo" in target:
            symbols = [{"symbol": name, "status": "TRADING"} for name in SYMBOLS]
            body = json.dumps({"symbols": symbols, "rateLimits": []})
        head = f"Date: {cls.date[1]}\r\nX-MBX-USED-WEIGHT-1M: {cls.used}\r\n"
        return f"{_HEAD}{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def _page(target: str) -> str:
    """Every row of what is asked for."""
    asked = dict(parse_qsl(target.partition("?")[2]))
    first, last = int(asked["startTime"]), int(asked["endTime"])
    row = (
        f'{{"symbol":"{asked["symbol"]}","sumOpenInterest":"20403.63700000",'
        '"sumOpenInterestValue":"150570784.07809979","CMCCirculatingSupply":"165880.53800000",'
        '"timestamp":%d}'
    )
    return f"[{','.join(row % time for time in range(-(-first // STEP) * STEP, last + 1, STEP))}]"


async def _serve(latency_s: float = 0.0, handshake_s: float = 0.0) -> None:
    _Server.latency_s, _Server.handshake_s = latency_s, handshake_s
    server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def loopback(latency_s: float = 0.0, handshake_s: float = 0.0) -> Iterator[str]:
    """The URL of a server that lives as long as the block."""
    command = [sys.executable, "-m", "tests.benchmarks.loopback", str(latency_s), str(handshake_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(_serve(*map(float, sys.argv[1:])))
