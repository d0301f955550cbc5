"""Takes README's picture of the live page: `nox -s picture`. `-- DIRECTORY` takes 16 others.

Rule of this file: a picture shows the page of a running service, or a report of a recording. The 16
pictures show both, in four widths, light and dark. The service records the local exchange, and has
8 days of history of its symbols.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from binance_oi.output.report import write_report
from binance_oi.recorder import Recording
from browser.market import record

ROOT = Path(__file__).resolve().parents[2]
README_PICTURE = ROOT / ".docs" / "page.png"
NAMES = (
    *("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "BNBUSDT", "DOGEUSDT", "ADAUSDT", "TRXUSDT"),
    *("AVAXUSDT", "LINKUSDT", "DOTUSDT", "LTCUSDT", "BCHUSDT", "UNIUSDT", "ATOMUSDT", "ETCUSDT"),
    *("XLMUSDT", "FILUSDT", "NEARUSDT", "AAVEUSDT"),
)
WIDTHS = (320, 390, 768, 1440)
# JavaScript: true once the page has changes over 24 h and a chart. In a report, it is true at once.
READY = (
    "state.rows.get('BTCUSDT')?.changes['24h'] !== undefined && chart.lines[0]?.times.length > 50"
)


def take(browser: Any, url: str, target: Path, width: int, *, dark: bool, whole: bool) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 780},
        color_scheme="dark" if dark else "light",
        device_scale_factor=1,
    )
    page = context.new_page()
    page.goto(url)
    while not page.evaluate(READY):
        page.wait_for_timeout(200)
    page.wait_for_timeout(1000)  # until the frame is painted
    page.screenshot(path=target, full_page=whole)
    context.close()
    print(target)


@contextmanager
def serving(home: str) -> Iterator[str]:
    """Run a service in a process of its own; yield its URL."""
    env = os.environ | {"BINANCE_OI_BUDGET_DIR": home, "XDG_CACHE_HOME": home}
    program = [sys.executable, "-m", "binance_oi"]
    file = str(Path(home) / "oi.db")
    fill = [*program, "backfill", file, *NAMES, "--since", "8d", "--simulated"]
    subprocess.run(fill, env=env, check=True)
    options = ("--simulated", "--notional", "--every", "5s", "--port", "0", "--record-to", file)
    service = subprocess.Popen(
        [*program, "serve", *NAMES, *options], env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert service.stdout is not None
        yield service.stdout.readline().strip()
    finally:
        service.terminate()
        service.communicate()


def report(home: str) -> str:
    """Write a report of a recording with gaps; return its URL."""
    file, page = Path(home) / "market.db", Path(home) / "report.html"
    record(file)
    with Recording(file) as recording:
        write_report(recording, page)
    return page.as_uri()


def main(directory: str | None) -> None:
    playwright = import_module("playwright.sync_api")  # only the dependency group `browser` has it
    path = shutil.which("chromium")
    with tempfile.TemporaryDirectory() as home, playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        with serving(home) as url:
            if directory is None:
                take(browser, url, README_PICTURE, 1440, dark=False, whole=False)
                return
            for name, each in (("page", url), ("report", report(home))):
                for width in WIDTHS:
                    for dark in (False, True):
                        file = f"{name}-{width}-{'dark' if dark else 'light'}.png"
                        take(browser, each, Path(directory) / file, width, dark=dark, whole=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
