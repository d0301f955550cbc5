"""In headless Chromium, a service's page shows live values, and does so again after interruptions.

Rule of this file: `binance-oi serve --simulated` runs in a separate process for each test. A test
may kill that process, and start the command again on the same port.
"""

import os
import re
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
from support.busy import without_busy

NAMES = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")
SLOT = "state.sweep && state.sweep.slot"
HIDE = """(hidden) => {
  Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}"""
STATUS = "document.getElementById('status').className"


class Service:
    """The command `serve`; after a restart, it has the same port."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.log: Path = home / "log"
        self._process = self._start(0)
        self.url = self._url()
        self.port: int = urlsplit(self.url).port or 0

    def _start(self, port: int) -> "subprocess.Popen[str]":
        options = ("--simulated", "--notional", "--every", "1s", "--port", str(port))
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "binance_oi", "serve", *NAMES, *options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"BINANCE_OI_BUDGET_DIR": str(self._home)},
            )

    def _url(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def pause(self, *, ends: bool = False) -> None:
        """Suspend the process; with `ends`, resume it."""
        self._process.send_signal(signal.SIGCONT if ends else signal.SIGSTOP)

    def kill(self) -> None:
        """Kill the process. Its connections end as in a crash."""
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()

    def start(self) -> None:
        """Start the command again on the same port."""
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


def test_the_page_shows_live_updates_without_console_messages_or_requests_to_other_hosts(
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
    """A proxy of a service. While shut, it ends event streams, and refuses new ones with 503."""

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


def test_a_hidden_page_closes_its_stream_and_opens_it_again_when_shown(
    browser: Browser, service: Service
) -> None:
    page = browser.open(service.url)
    slot = wait(page, SLOT)
    page.evaluate(HIDE, True)
    assert page.evaluate("source") is None
    page.evaluate(HIDE, False)
    is_live_again(page, slot)


def test_a_seventh_tab_is_live_while_six_others_are_hidden(
    browser: Browser, service: Service
) -> None:
    first = browser.open(service.url)
    for _ in range(6):  # a browser opens at most six connections to a host, for all tabs together
        tab = first.context.new_page()
        tab.goto(service.url)
        wait(tab, SLOT)
        tab.evaluate(HIDE, True)
    first.evaluate(HIDE, True)
    seventh = first.context.new_page()
    seventh.goto(service.url)
    is_live_again(seventh, wait(seventh, SLOT))


def test_closing_a_tab_logs_nothing(browser: Browser, service: Service) -> None:
    stays = browser.open(service.url)
    for _ in range(3):
        page = browser.open(service.url)
        wait(page, SLOT)
        page.context.close()
    slot = wait(stays, SLOT)
    # Three sweeps later, the service has also tried to write to the closed tabs.
    wait(stays, f"state.sweep.slot > {slot} + 3000")
    service.stop()
    assert without_busy(service.log.read_text()) == []


def test_the_page_says_stale_while_the_service_is_suspended_and_live_afterwards(
    browser: Browser, service: Service
) -> None:
    page = browser.open(service.url)
    slot = wait(page, SLOT)
    text = "document.getElementById('status').innerText"
    assert wait(page, text).startswith("live since ")
    service.pause()
    wait(page, f"{STATUS} === 'stale'")
    last = page.evaluate(f"dayTime({SLOT})")
    assert page.evaluate(text) == f"stale since {last}"
    service.pause(ends=True)
    is_live_again(page, slot)


def test_the_link_restores_the_zoom_of_the_live_page(browser: Browser, service: Service) -> None:
    page = browser.open(f"{service.url}#s=ETHUSDT&range=4h")
    wait(page, "chart.lines[0] && chart.lines[0].times.length > 40")
    page.evaluate("chart.zoom(chart.whole[0] + 36e5, chart.whole[0] + 72e5)")
    link = wait(page, "location.href.includes('view=') && location.href")
    again = browser.open(link)
    wait(again, "chart.lines[0] && chart.lines[0].times.length > 40")
    view = "chart.view.map((time) => Math.round(time / 1000)).join('-')"
    assert wait(again, view) == page.evaluate(view)
    slot = wait(again, SLOT)
    wait(again, f"state.sweep.slot > {slot} + 2000")
    assert wait(again, view) == page.evaluate(view)  # sweeps do not move the view
    outside = f"view={int(again.evaluate('chart.view[0]') / 1000) - 86400}"
    older = browser.open(re.sub(r"view=\d+", outside, link))  # the view begins before the range
    wait(older, "chart.lines[0] && chart.lines[0].times.length > 40")
    assert outside in wait(older, f"`view=${{{view}}}`")


def test_the_head_shows_a_ban_and_a_cooldown_and_never_adds_dollars_to_coins(
    browser: Browser, service: Service
) -> None:
    page = browser.open(service.url)
    wait(page, SLOT)
    event = """(budget) => {
      disconnect();
      const value = { time: Date.now(), open_interest: 10 };
      take({ ...state.sweep, head: { ...state.head, budget: { ...state.head.budget, ...budget } },
        values: [{ ...value, symbol: 'BTCUSDT', notional: 500000 },
          { ...value, symbol: 'ETHBTC', notional: '0.5' }] }, true);
      return $('facts').innerText;
    }"""
    until = "2026-11-27T01:02:03+00:00"
    assert "Cooldown until\n01:02:03 UTC" in page.evaluate(event, {"held_until": until})
    facts = page.evaluate(event, {"banned_until": until})
    assert "Banned until\n01:02:03 UTC\nnothing is sent" in facts
    assert "Total, USD\n500.00 k\nTotal, BTC\n10.00\n" in facts


def test_adjacent_gaps_are_joined_and_a_sweep_does_not_change_the_status_text(
    browser: Browser, service: Service
) -> None:
    page = browser.open(service.url)
    slot = wait(page, SLOT)
    page.evaluate("""() => {
      window.changes = 0;
      const count = (list) => { window.changes += list.length; };
      const all = { childList: true, characterData: true, subtree: true, attributes: true };
      new MutationObserver(count).observe($('status'), all);
      new MutationObserver(count).observe($('spoken'), all);
    }""")
    wait(page, f"state.sweep.slot > {slot} + 2000")
    assert page.evaluate("window.changes") == 0  # a screen reader would speak each change
    page.evaluate("""() => {
      const at = Date.now() - 600e3;
      for (const n of [0, 1, 2, 9]) {
        takeGap({ first: at + 1000 * n, last: at + 1000 * n, reason: 'network' });
      }
    }""")
    page.get_by_text("gaps", exact=False).click()
    rows = "document.querySelectorAll('#gaps tbody tr').length"
    assert wait(page, f"{rows} === 2 && $('gaps').innerText").count("network") == 2


def test_the_keyboard_can_sort_pin_and_select_and_the_focus_survives_an_update(
    browser: Browser, service: Service
) -> None:
    page = browser.open(service.url)
    wait(page, SLOT)
    page.get_by_role("button", name="Symbol").focus()
    page.keyboard.press("Enter")
    assert wait(page, "order[0]") == "BTCUSDT"
    focused = "document.activeElement.innerText"
    assert page.evaluate(focused).startswith("Symbol")
    page.keyboard.press("Enter")
    assert wait(page, "order[0]") == "XRPUSDT"
    page.get_by_label("Pin SOLUSDT").focus()
    page.keyboard.press("Enter")
    assert wait(page, "order[0]") == "SOLUSDT"
    assert page.evaluate("document.activeElement.ariaLabel") == "Pin SOLUSDT"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert wait(page, "$('symbol-name').innerText") == "SOLUSDT"
    slot = page.evaluate(SLOT)
    wait(page, f"state.sweep.slot > {slot} + 2000")
    assert page.evaluate(focused) == "SOLUSDT"


def test_an_update_does_not_reorder_the_rows_while_the_pointer_is_over_them(
    browser: Browser, service: Service
) -> None:
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
  await measure(0); // warms up: now the page has its rows, and the engine has compiled the code
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
        print("\nms that an update takes with 100 rows, and with all rows:", found)
    assert found["rows"] == 840
    assert found["first"]["median"] <= found["all"]["median"] / 2
    assert found["first"]["longest"] <= found["all"]["longest"] / 2
