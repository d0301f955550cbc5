"""Takes a picture of the live page: `nox -s picture`. With `-- DIRECTORY`, it takes several.

The rule of this file: a picture shows the real page of a real service. The service records the
local exchange, and has the past of some symbols.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
README_PICTURE = ROOT / ".docs" / "page.png"
NAMES = (
    *("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "BNBUSDT", "DOGEUSDT", "ADAUSDT", "TRXUSDT"),
    *("AVAXUSDT", "LINKUSDT", "DOTUSDT", "LTCUSDT", "BCHUSDT", "UNIUSDT", "ATOMUSDT", "ETCUSDT"),
    *("XLMUSDT", "FILUSDT", "NEARUSDT", "AAVEUSDT"),
)
WIDTHS = (320, 390, 768, 1440)


def take(browser: Any, url: str, target: Path, width: int, *, dark: bool, whole: bool) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 720},
        color_scheme="dark" if dark else "light",
        device_scale_factor=1,
    )
    page = context.new_page()
    page.goto(url)
    ready = "state.sweep && state.rows.get('BTCUSDT')?.changes['24h'] !== undefined"
    while not page.evaluate(ready):
        page.wait_for_timeout(200)
    page.wait_for_timeout(3000)
    page.screenshot(path=target, full_page=whole)
    context.close()
    print(target)


def main(directory: str | None) -> None:
    playwright = import_module("playwright.sync_api")  # of the group `browser` alone
    with tempfile.TemporaryDirectory() as home, playwright.sync_playwright() as running:
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
            url = service.stdout.readline().strip()
            path = shutil.which("chromium")
            browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
            if directory is None:
                take(browser, url, README_PICTURE, 1440, dark=False, whole=False)
                return
            for width in WIDTHS:
                for dark in (False, True):
                    target = Path(directory) / f"{width}-{'dark' if dark else 'light'}.png"
                    take(browser, url, target, width, dark=dark, whole=True)
        finally:
            service.terminate()
            service.communicate()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
