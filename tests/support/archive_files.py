"""Makes files like those of Binance's archive for tests, and serves them.

Rule of this file: it shares no code with the reader of the archive or with the local exchange.
"""

import hashlib
import io
import zipfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, date, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import quote, unquote

from aiohttp import web

HEADER = (
    "create_time,symbol,sum_open_interest,sum_open_interest_value,"
    "count_toptrader_long_short_ratio,sum_toptrader_long_short_ratio,"
    "count_long_short_ratio,sum_taker_long_short_vol_ratio"
)
STEP = 300_000  # ms
DAY_MS = 86_400_000


def midnight(day: date) -> int:
    """The start of a day, Unix ms."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def line(symbol: str, time: int, value: str, notional: str = "1.5", ratios: str = "1,2,3,4") -> str:
    """One row of a file."""
    at = datetime.fromtimestamp(time / 1000, UTC)
    return f"{at:%Y-%m-%d %H:%M:%S},{symbol},{value},{notional},{ratios}"


def whole_day(symbol: str, day: date, *, late: bool = False) -> list[str]:
    """288 rows from 00:00 or, if `late`, from 00:05. The values are 1.50, 2.50, and so on."""
    first = midnight(day) + (STEP if late else 0)
    return [line(symbol, first + n * STEP, f"{n + 1}.50") for n in range(288)]


def text(lines: Iterable[str], header: str | None = HEADER) -> bytes:
    """The text of a file."""
    return "\n".join([*([header] if header is not None else []), *lines, ""]).encode()


def pack(name: str, body: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip file of one text."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as packed:
        packed.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), body, method)
    return file.getvalue()


def path_of(symbol: str, day: date) -> str:
    """The path of a file in the archive."""
    return f"/data/futures/um/daily/metrics/{symbol}/{symbol}-metrics-{day}.zip"


def published(symbol: str, day: date, lines: Iterable[str]) -> dict[str, bytes]:
    """A file with its checksum, by path."""
    path, name = path_of(symbol, day), f"{symbol}-metrics-{day}"
    data = pack(f"{name}.csv", text(lines))
    said = f"{hashlib.sha256(data).hexdigest()}  {name}.zip\n".encode()
    return {path: data, f"{path}.CHECKSUM": said}


class ArchiveServer:
    """Serves files by path.

    A `script` may answer instead. It gets the path, and how many requests for it have arrived.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []
        self.script: Callable[[str, int], web.Response | None] = lambda _path, _times: None
        self.under_way = self.most = 0
        self.url = ""

    @property
    def downloads(self) -> int:
        """The number of requests for files; requests for checksums do not count."""
        return sum(path.endswith(".zip") for path in self.asked)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = unquote(request.raw_path)
        assert quote(path) == request.raw_path  # the real server requires this spelling
        self.asked.append(path)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.hold()
            scripted = self.script(path, self.asked.count(path))
            if scripted is not None:
                return scripted
            if path not in self.files:
                return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
            return web.Response(body=self.files[path])
        finally:
            self.under_way -= 1

    async def hold(self) -> None:
        """Do nothing before an answer; a test replaces this to delay answers."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ArchiveServer"]:
        """Listen in the caller's loop."""
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


class _Files(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, files: dict[str, bytes], *args: object) -> None:
        self._files = files
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer with the file of that path."""
        body = self._files.get(unquote(self.path))
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def served(files: dict[str, bytes]) -> Iterator[str]:
    """Serve files from a thread, for other processes; yield the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, files))
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
