"""The page of the service in headless Chromium: live, and live again after every interruption.

Rule of this file: a real `binance-oi serve --simulated` in a process of its own, which a test may
kill and start again on the same port.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from browser.conftest import Browser, wait

NAMES = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")
SLOT = "state.sweep && state.sweep.slot"
STATUS = "document.getElementById('status').className"


class Service:
    """The command `serve`, on one port for its whole life."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process = self._start(0)
        self.url = self._url()
        self.port: int = urlsplit(self.url).port or 0

    def _start(self, port: int) -> "subprocess.Popen[str]":
        options = ("--simulated", "--notional", "--every", "1s", "--port", str(port))
        return subprocess.Popen(
            [sys.executable, "-m", "binance_oi", "serve", *NAMES, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"BINANCE_OI_BUDGET_DIR": str(self._home)},
        )

    def _url(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        """Cut every connection, as a crash does."""
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()

    def start(self) -> None:
        """Start again on the same port."""
        self._process = self._start(self.port)
        self._url()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.communicate()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path)
    yield running
    running.stop()


def is_live_again(page: Any, slot: int) -> None:
    wait(page, f"{STATUS} === 'live' && state.sweep.slot > {slot}")


def test_a_live_update_is_seen_without_a_message_or_a_foreign_request(
    browser: Browser, service: Service
) -> None:
    page = browser.open(service.url)
    slot = wait(page, SLOT)
    wait(page, f"state.sweep.slot > {slot}")
    assert page.evaluate("document.querySelectorAll('#rows tbody tr').length") == len(NAMES)
    facts = wait(page, "state.head && document.getElementById('facts').innerText")
    assert "Total, USD" in facts
    assert "NaN" not in facts
    wait(page, "state.series.get('BTCUSDT') && state.series.get('BTCUSDT').times.length > 200")
    assert browser.messages == []
    assert page.evaluate("window.violations") == []
    own = urlsplit(service.url).netloc
    assert {urlsplit(u).netloc for u in browser.requests if u.startswith("http")} == {own}


def test_the_page_is_live_again_after_the_server_was_killed_and_started(
    browser: Browser, service: Service
) -> None:
    page = browser.open(service.url)
    slot = wait(page, SLOT)
    service.kill()
    wait(page, f"{STATUS} === 'gone'")
    assert "last values of" in page.locator("#status").inner_text()
    service.start()
    is_live_again(page, slot)


class Gate:
    """A proxy in front of a service, which answers every stream with 503 while it is shut."""

    def __init__(self, target: str) -> None:
        self.is_shut = False
        self.refused = 0
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/events") and gate.is_shut:
                    gate.refused += 1
                    self.send_error(503)
                    return
                try:
                    with urlopen(f"{target.rstrip('/')}{self.path}") as answer:
                        self.send_response(answer.status)
                        for name in ("Content-Type", "Content-Security-Policy"):
                            if value := answer.headers.get(name):
                                self.send_header(name, value)
                        self.end_headers()
                        while not (gate.is_shut and self.path.startswith("/events")):
                            if not (line := answer.readline()):
                                break
                            self.wfile.write(line)
                            self.wfile.flush()
                except OSError:
                    pass  # the browser or the service has gone

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_the_page_is_live_again_after_a_proxy_cut_the_stream_and_answered_503(
    browser: Browser, service: Service
) -> None:
    gate = Gate(service.url)
    try:
        page = browser.open(gate.url)
        slot = wait(page, SLOT)
        gate.is_shut = True  # ends the open stream, and refuses the next ones
        wait(page, f"{STATUS} === 'gone'")
        while gate.refused < 2:
            page.wait_for_timeout(50)
        gate.is_shut = False
        is_live_again(page, slot)
    finally:
        gate.close()


def test_a_hidden_page_holds_no_stream(browser: Browser, service: Service) -> None:
    page = browser.open(service.url)
    slot = wait(page, SLOT)
    hide = """(hidden) => {
      Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }"""
    page.evaluate(hide, True)
    assert page.evaluate("source") is None
    page.evaluate(hide, False)
    is_live_again(page, slot)


def test_rows_stay_where_they_are_under_the_pointer(browser: Browser, service: Service) -> None:
    page = browser.open(service.url)
    wait(page, SLOT)
    page.get_by_role("button", name="Age").click()
    page.locator("#rows").hover()
    before = page.evaluate("order.join()")
    slot = page.evaluate(SLOT)
    wait(page, f"state.sweep.slot > {slot} + 3000")
    assert page.evaluate("order.join()") == before


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_the_live_page_is_accessible(
    browser: Browser,
    service: Service,
    faults_of: Callable[[Any], list[str]],
    width: int,
    dark: bool,
) -> None:
    page = browser.open(service.url, width=width, dark=dark)
    wait(page, SLOT)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert faults_of(page) == []


UPDATES = """async (updates) => {
  const names = Array.from({ length: 840 }, (_, n) => `S${n}USDT`);
  const text = (round) => JSON.stringify({
    slot: 1e12 + round * 1000, next_slot: 1e12 + round * 1000 + 1000, asked: 840, read: 840,
    values: names.map((symbol, n) => ({ symbol, time: 1e12 + round * 1000,
      open_interest: 1e6 * (n + 1) + 1e4 * Math.sin(round + n), notional: 2e6 * (n + 1) })),
  });
  disconnect();
  const tasks = [];
  const watcher = new PerformanceObserver((list) => {
    for (const task of list.getEntries()) tasks.push(task.duration);
  });
  const measure = async (from) => {
    const spent = [];
    tasks.length = 0;
    for (let round = from; round < from + updates; round++) {
      const event = text(round);
      await new Promise((done) => setTimeout(done, 1000));
      const begun = performance.now();
      take(JSON.parse(event), round === from);
      document.body.getBoundingClientRect();
      spent.push(performance.now() - begun);
    }
    spent.sort((a, b) => a - b);
    return { longest: Math.max(50, ...tasks), median: spent[spent.length >> 1] };
  };
  watcher.observe({ entryTypes: ["longtask"] });
  await measure(0); // the page has its rows, and the engine has compiled the code
  const first = await measure(updates);
  document.getElementById("all").click();
  await new Promise((done) => setTimeout(done, 3000));
  const all = await measure(2 * updates);
  return { first, all, rows: document.querySelectorAll("#rows tbody tr").length };
}"""


def test_with_a_hundred_rows_an_update_takes_at_most_half_as_long_as_with_all(
    browser: Browser, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    page = browser.open(service.url)
    wait(page, SLOT)
    page.set_default_timeout(0)
    found = page.evaluate(UPDATES, 60)
    with capsys.disabled():
        print("\nan update, ms:", found)
    assert found["rows"] == 840
    assert found["first"]["median"] <= found["all"]["median"] / 2
    assert found["first"]["longest"] <= found["all"]["longest"] / 2
