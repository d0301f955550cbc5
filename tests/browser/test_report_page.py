"""In headless Chromium, a report obeys its content security policy, and its controls work."""

import math
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from binance_oi import Gap, OpenInterest, Snapshot
from binance_oi.exchange.models import MarkPrice
from binance_oi.output.report import write_report
from binance_oi.recorder import Recording
from binance_oi.recorder.store import Store
from browser.conftest import Browser, wait

BEGIN = datetime(2026, 11, 23, tzinfo=UTC)
PERIOD = 20_000  # ms

NAMES = ("BTCUSDT", "ETHUSDT", "1000SHIBUSDT", "币安人生USDT", *(f"S{n}USDT" for n in range(140)))
SHOWN = "document.querySelectorAll('#rows tbody tr').length"
FIRST = "document.querySelector('#rows tbody tr th').innerText"


def sweep(number: int) -> Snapshot:
    slot = BEGIN + timedelta(milliseconds=number * PERIOD)
    ms = round(slot.timestamp() * 1000)
    values = {
        name: Decimal(f"{90_000 - 100 * n + 9_000 * math.sin(number / 90 + n):.3f}")
        for n, name in enumerate(NAMES)
    }
    return Snapshot(
        values_by_symbol={name: OpenInterest(name, value, ms) for name, value in values.items()},
        errors={},
        started=slot,
        finished=slot,
        weight=len(NAMES),
        slot=slot,
        mark_prices={name: MarkPrice(name, Decimal("2.5"), ms) for name in NAMES},
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a day with one gap."""
    home = tmp_path_factory.mktemp("report")
    with closing(Store(home / "oi.db")) as store:
        for number in range(0, 4320, 8):
            if not 2000 <= number < 2400:
                store.save(sweep(number), [], 8 * PERIOD)
        at = [round(BEGIN.timestamp() * 1000) + number * PERIOD for number in (2000, 2392)]
        store.save(None, [Gap(at[0], at[1], "banned", "until 13:20")], 8 * PERIOD)
    with Recording(home / "oi.db") as recording:
        write_report(recording, home / "report.html")
    return home / "report.html"


def faultless(browser: Browser, page: Any, report: Path) -> None:
    assert browser.messages == []
    assert page.evaluate("window.violations") == []
    assert {url for url in browser.requests if not url.startswith(("data:", "blob:"))} == {
        report.as_uri()
    }


def test_the_page_draws_its_chart_without_console_messages_or_requests(
    browser: Browser, report: Path
) -> None:
    page = browser.open(report.as_uri())
    assert wait(page, SHOWN) == 100
    inked = """(() => {
      const canvas = document.getElementById('chart');
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      let found = 0;
      for (let i = 0; i < data.length; i += 4) if (data[i] < 30 && data[i + 2] > 150) found++;
      return found;
    })()"""
    assert wait(page, inked) > 500  # pixels that have the colour of the line
    assert page.evaluate("document.getElementById('plain')") is None
    faultless(browser, page, report)


def test_without_its_script_the_page_still_shows_rows_and_a_chart_and_the_gaps(
    browser: Browser, report: Path
) -> None:
    page = browser.open(report.as_uri(), script=False)
    assert page.locator("#rows tbody tr").count() == 100
    assert page.locator("#plain svg path.line").count() == 1
    assert "banned" in page.locator("body").inner_text()


def test_sorting_searching_and_pinning_change_the_rows_and_the_link_restores_them(
    browser: Browser, report: Path
) -> None:
    page = browser.open(report.as_uri())
    wait(page, SHOWN)
    page.get_by_role("button", name="Symbol").click()
    assert "1000SHIBUSDT" in wait(page, FIRST)
    page.get_by_role("button", name="Show all").click()
    assert wait(page, f"{SHOWN} === {len(NAMES)}")
    page.get_by_role("searchbox").fill("s13")
    assert wait(page, f"{SHOWN} === 11")  # S13 and S130 to S139
    page.get_by_label("Pin S139USDT").click()
    assert wait(page, f"{FIRST}.includes('S139USDT')")
    link = wait(page, "location.href.includes('pin=S139USDT') && location.href")
    again = browser.open(link)
    assert wait(again, f"{SHOWN} === 11")
    assert "S139USDT" in again.evaluate(FIRST)
    faultless(browser, again, report)


def test_the_link_restores_zoom_symbol_rows_unit_and_open_tables(
    browser: Browser, report: Path
) -> None:
    page = browser.open(report.as_uri())
    wait(page, SHOWN)
    page.get_by_role("button", name="ETHUSDT", exact=True).click()
    page.get_by_role("button", name="Show all").click()
    page.get_by_label("Unit").select_option("coins")
    page.get_by_role("button", name="4h", exact=True).last.click()
    page.get_by_text("1 gap", exact=True).click()
    page.evaluate("chart.zoom(chart.whole[0] + 36e5, chart.whole[0] + 72e5)")
    link = wait(page, "location.href.includes('view=') && location.href")
    again = browser.open(link)
    assert wait(again, SHOWN) == len(NAMES)
    seen = """[chart.view, chart.whole, state.link.range, $('symbol-name').innerText,
      $('gaps').open,
      $('unit').value, $('gaps').innerText].join()"""
    assert again.evaluate(seen) == page.evaluate(seen)
    again.get_by_role("button", name="1d", exact=True).click()
    assert wait(again, "!location.href.includes('view=') && !chart.zoomed")
    faultless(browser, again, report)


@pytest.mark.parametrize(
    "link", ["view=5-4", "view=-1-2", "view=a-b", "view=1-2-3", "view=0-9e99", "view=1e9-1e9"]
)
def test_an_invalid_link_shows_the_whole_range(browser: Browser, report: Path, link: str) -> None:
    page = browser.open(f"{report.as_uri()}#{link}&range=x&sort=x&open=x&pin=,,")
    wait(page, SHOWN)
    assert not page.evaluate("chart.zoomed")
    faultless(browser, page, report)


def test_a_symbol_without_a_detailed_curve_shows_the_curve_of_its_trend(
    browser: Browser, report: Path
) -> None:
    page = browser.open(f"{report.as_uri()}#s=S70USDT")
    wait(page, SHOWN)
    assert page.evaluate("state.series.has('S70USDT')") is False
    assert wait(page, "chart.lines[0].times.length") > 50


def test_clicking_a_symbol_shows_its_chart_and_its_values(browser: Browser, report: Path) -> None:
    page = browser.open(report.as_uri())
    wait(page, SHOWN)
    page.get_by_role("button", name="ETHUSDT", exact=True).click()
    assert wait(page, "document.getElementById('symbol-name').innerText === 'ETHUSDT'")
    page.get_by_text("values in the chart").click()
    assert wait(page, "document.querySelectorAll('#values tbody tr').length > 100")
    page.get_by_text("1 gap", exact=True).click()
    assert wait(page, "document.querySelector('#gaps tbody').innerText.includes('banned')")


def test_dragging_and_keys_and_the_wheel_move_the_chart_and_the_crosshair_shows_values(
    browser: Browser, report: Path
) -> None:
    page = browser.open(report.as_uri())
    wait(page, SHOWN)
    chart = page.locator("#chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    width = "chart.view[1] - chart.view[0]"
    whole = wait(page, width)
    page.mouse.move(box["x"] + 60, box["y"] + 100)
    reading = "document.querySelector('h2 #reading').innerText"
    before = page.evaluate(reading)
    page.mouse.move(box["x"] + 50, box["y"] + 100)
    assert wait(page, f"{reading} !== {before!r} && {reading}.includes('open interest')")
    assert page.evaluate("$('spoken').textContent") == ""  # only keys change it
    page.mouse.move(box["x"] + 60, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 100, steps=4)
    page.mouse.up()
    zoomed = wait(page, f"({width}) < {whole} / 2 && ({width})")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    page.keyboard.up("Control")
    wait(page, f"({width}) < {zoomed}")
    scrolled = page.evaluate("scrollY")
    view = page.evaluate(width)
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(200)
    assert page.evaluate(width) == view  # without Ctrl, the wheel scrolls the page
    assert scrolled == 0 or page.evaluate("scrollY") != scrolled
    chart.focus()
    page.keyboard.press("Escape")
    assert wait(page, f"({width}) === {whole}")
    page.keyboard.press("+")
    assert wait(page, f"({width}) < {whole}")
    before = page.evaluate("chart.at")
    page.keyboard.press("ArrowRight")
    assert wait(page, f"chart.at !== {before if before is not None else 'null'}")
    assert wait(page, "$('spoken').textContent === $('reading').textContent")
    faultless(browser, page, report)


def test_pinching_keeps_the_instants_under_both_fingers(browser: Browser, report: Path) -> None:
    page = browser.open(report.as_uri(), width=390, touch=True)
    wait(page, SHOWN)
    page.locator("#chart").scroll_into_view_if_needed()
    box = page.locator("#chart").bounding_box()
    devtools = page.context.new_cdp_session(page)

    def touch(kind: str, *across: float) -> None:
        points = [{"x": box["x"] + x, "y": box["y"] + 90, "id": n} for n, x in enumerate(across)]
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    whole = page.evaluate("chart.view")
    under = page.evaluate("[chart.time(120), chart.time(180)]")
    touch("touchStart", 120, 180)
    for step in range(1, 9):
        touch("touchMove", 120 - 10 * step, 180 + 5 * step)
    pixels = (under[1] - under[0]) / 60 * 2
    for x, instant in zip((40, 220), under, strict=True):  # the same instants are under the fingers
        assert wait(page, f"Math.abs(chart.time({x}) - {instant}) <= {pixels}")
    touch("touchEnd")
    first, last = page.evaluate("chart.view")
    assert last - first < (whole[1] - whole[0]) / 2
    assert wait(page, "location.href.includes('view=')")
    faultless(browser, page, report)


def test_the_chart_is_saved_as_a_png(browser: Browser, report: Path, tmp_path: Path) -> None:
    page = browser.open(report.as_uri())
    wait(page, SHOWN)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save as PNG").click()
    waiting.value.save_as(tmp_path / "chart.png")
    assert waiting.value.suggested_filename == "BTCUSDT.png"
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    faultless(browser, page, report)


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1440])
def test_the_page_never_scrolls_sideways(browser: Browser, report: Path, width: int) -> None:
    page = browser.open(report.as_uri(), width=width)
    wait(page, SHOWN)
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_accessible(
    browser: Browser, report: Path, faults_of: Callable[[Any], list[str]], width: int, dark: bool
) -> None:
    # The filter leaves 11 rows, so that the check is quick.
    page = browser.open(f"{report.as_uri()}#q=S13", width=width, dark=dark)
    wait(page, f"{SHOWN} > 5")
    assert faults_of(page) == []


def test_the_accessibility_check_finds_an_input_without_a_label(
    browser: Browser, report: Path, faults_of: Callable[[Any], list[str]]
) -> None:
    page = browser.open(report.as_uri())
    wait(page, SHOWN)
    page.evaluate("document.querySelector('h1').append(document.createElement('input'))")
    assert any(fault.startswith("label") for fault in faults_of(page))
