"""A loopback server that answers quickly: a bare protocol in a process of its own.

    python -m tests.benchmarks.loopback [LATENCY_S [HANDSHAKE_S [PACKED [CERTIFICATE]]]]

It answers every request at once, or after LATENCY_S seconds. If there is a latency, a connection
behaves as if it had opened HANDSHAKE_S seconds later, after a handshake. Answers have the headers
of real answers. If PACKED is 1, a page of history is compressed. With a CERTIFICATE (a file), the
server uses TLS. exchangeInfo lists 789 symbols. The count in the header is the number of all
requests so far: no rollover resets it, and there is no limit.
"""

import asyncio
import gzip
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import lru_cache
from itertools import product
from pathlib import Path
from string import ascii_uppercase
from urllib.parse import parse_qsl

STEP, ROWS = 300_000, 500  # ms from row to row, rows of a page
CHUNK = 8192  # bytes of a chunk of a compressed page
# Names without digits, because nearly all real names have none.
SYMBOLS = [f"{''.join(each)}USDT" for each in product(ascii_uppercase, repeat=3)][:789]
_HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: keep-alive\r\n"
    "Server: nginx\r\nx-response-time: 0ms\r\n"
    "cache-control: no-cache, no-store, must-revalidate\r\n"
    "expires: 0\r\npragma: no-cache\r\nx-content-type-options: nosniff\r\n"
    "x-frame-options: SAMEORIGIN\r\nx-xss-protection: 1; mode=block\r\n"
)


class _Server(asyncio.Protocol):
    latency_s = handshake_s = 0.0
    packed = False
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
            return self.page(target)
        if "exchangeInfo" in target:
            symbols = [{"symbol": name, "status": "TRADING"} for name in SYMBOLS]
            body = json.dumps({"symbols": symbols, "rateLimits": []})
        head = f"Date: {cls.date[1]}\r\nX-MBX-USED-WEIGHT-1M: {cls.used}\r\n"
        return f"{_HEAD}{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    def page(self, target: str) -> bytes:
        """Every row of the requested range."""
        framing, body = _page(target, self.packed)
        return f"{_HEAD}Date: {formatdate(usegmt=True)}\r\n{framing}\r\n\r\n".encode() + body


@lru_cache(maxsize=1024)  # the server makes each page once
def _page(target: str, packed: bool) -> tuple[str, bytes]:
    """A page whose values change as those of BTCUSDT: in 3 of 10 pages, a value gains a digit.

    A compressed page is sent in chunks, as by the exchange.
    """
    asked = dict(parse_qsl(target.partition("?")[2]))
    first, last = int(asked["startTime"]), int(asked["endTime"])
    row = (
        f'{{"symbol":"{asked["symbol"]}","sumOpenInterest":"20%03d.63700000",'
        '"sumOpenInterestValue":"%d.07809979","CMCCirculatingSupply":"165880.53800000",'
        '"timestamp":%d}'
    )
    rows: list[str] = []
    for time_ms in range(-(-first // STEP) * STEP, last + 1, STEP):
        page, number = divmod(time_ms // STEP, ROWS)
        value = (999_600_000 if page % 10 < 3 else 150_570_784) + number * 1319
        rows.append(row % (number, value, time_ms))
    body = f"[{','.join(rows)}]".encode()
    if not packed:
        return f"Content-Length: {len(body)}", body
    body = gzip.compress(body, 1)
    parts = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])
    return "Content-Encoding: gzip\r\nTransfer-Encoding: chunked", chunks


async def _serve(
    latency_s: str = "0", handshake_s: str = "0", packed: str = "0", certificate: str = ""
) -> None:
    _Server.latency_s, _Server.handshake_s = float(latency_s), float(handshake_s)
    _Server.packed = packed == "1"
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
    if tls is not None:
        tls.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Server, "127.0.0.1", 0, backlog=1000, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def loopback(
    latency_s: float = 0.0,
    handshake_s: float = 0.0,
    *,
    packed: bool = False,
    certificate: Path | None = None,
) -> Iterator[str]:
    """The URL of a server that ends with the block. With a certificate, it uses TLS."""
    options = map(str, (latency_s, handshake_s, int(packed), certificate or ""))
    command = [sys.executable, "-m", "tests.benchmarks.loopback", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        scheme = "https" if certificate else "http"
        yield f"{scheme}://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
