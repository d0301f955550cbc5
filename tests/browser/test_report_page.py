"""The report in headless Chromium: no console error, nothing fetched, charts drawn.

Rule of this file: it needs `chromium` (Debian's package) and the extra `plot`, so it runs by name
only: `nox -s browser`.
"""

import math
import subprocess
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from binance_oi import Gap, OpenInterest, Snapshot
from binance_oi.output.report import write_report
from binance_oi.recorder import Recording
from binance_oi.recorder.store import Store

imread = pytest.importorskip("matplotlib.image").imread

BEGIN = datetime(2026, 11, 23, tzinfo=UTC)
PERIOD = 20_000
NAMES = ("BTCUSDT", "1000SHIBUSDT", "币安人生USDT")
LINE, HAD, GAP = (0x09, 0x69, 0xDA), (0x2D, 0xA4, 0x4E), (0xCF, 0x22, 0x2E)  # colours of the page


def sweep(number: int) -> Snapshot:
    slot = BEGIN + timedelta(milliseconds=number * PERIOD)
    ms = round(slot.timestamp() * 1000)
    value = Decimal(f"{90_000 + 9_000 * math.sin(number / 90):.3f}")
    return Snapshot(
        values_by_symbol={n: OpenInterest(n, value, ms) for n in NAMES},
        errors={},
        started=slot,
        finished=slot,
        weight=3,
        slot=slot,
    )


def write_a_day(path: Path) -> None:
    with closing(Store(path)) as store:
        for number in range(0, 4320, 4):
            if not 2000 <= number < 2400:
                store.save(sweep(number), [], 4 * PERIOD)
        at = [round(BEGIN.timestamp() * 1000) + number * PERIOD for number in (2000, 2396)]
        store.save(None, [Gap(at[0], at[1], "banned", "until 13:20")], 4 * PERIOD)


def draw(page: Path) -> tuple[Path, list[str]]:
    """Return a picture of the page, and the errors on the browser's console."""
    picture = page.with_suffix(".png")
    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
        *("--window-size=1000,2400", f"--user-data-dir={page.parent / 'profile'}"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--screenshot={picture}", page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return picture, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def near(picture: Path, colour: tuple[int, int, int]) -> Any:
    """The pixels that have roughly that colour."""
    return abs(imread(picture)[:, :, :3] * 255 - colour).max(axis=2) < 12


def test_the_page_is_drawn_without_a_console_error(tmp_path: Path) -> None:
    write_a_day(tmp_path / "oi.db")
    with Recording(tmp_path / "oi.db") as recording:
        write_report(recording, tmp_path / "report.html")
    picture, complaints = draw(tmp_path / "report.html")
    assert complaints == []
    assert near(picture, LINE).sum() > 3 * 850  # three charts, as wide as the page
    had, gap = near(picture, HAD), near(picture, GAP)
    strip = int(had.any(axis=1).argmax()) + 10  # a row of pixels inside the strip
    covered, missing = had[strip].sum(), gap[strip].sum()
    assert covered + missing > 900
    assert missing / (covered + missing) == pytest.approx(400 / 4320, rel=0.02)


def test_a_console_error_is_detected(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<script>console.error("broken")</script><img src="http://example.com/a.png">')
    _, complaints = draw(page)
    assert ["broken" in line for line in complaints].count(True) == 1
