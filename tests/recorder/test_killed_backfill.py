"""After SIGKILL at any instant, the next `archive` or `backfill` ends as an undisturbed one does.

Rule of this file: each run is a process with real files and sockets. The exchange is a local one.
`nox -s archive` kills each command 50 times.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from binance_oi.simulator import Files, LocalExchange
from support import SUPPORT, TESTS
from support.recorded import write_recording

KILLS = int(os.environ.get("BINANCE_OI_KILLS", "2"))
HANGS = 3600.0 * max(1, KILLS / 10)  # s after which a run counts as hung
NAMES = ("BTCUSDT", "ETHUSDT", "1000SHIBUSDT")
FAULTY = Files(missing_day=0.1, doubled=0.2, shuffled=0.2, missing_row=0.01, no_value=0.01)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def killed_runs(arguments: Sequence[str], directory: Path, seed: int) -> list[dict[str, object]]:
    """Run once undisturbed, then until `KILLS` runs were killed; return what each try printed."""
    asked = {"arguments": arguments, "directory": str(directory), "seed": seed, "kills": KILLS}
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "killed_runs.py"), json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=HANGS,
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def span(days: int) -> list[str]:
    """The options for a range of whole days, the same in every run of a test.

    It ends three days ago. The archive may still publish later days, so the reason of a hole in
    them could change if a day ends during the test.
    """
    end = datetime.fromtimestamp(time.time(), UTC).date() - timedelta(days=2)
    return [f"--since={end - timedelta(days=days)}", f"--until={end - timedelta(days=1)}T23:59:59"]


def check(runs: list[dict[str, object]]) -> None:
    assert sum(bool(run["killed"]) for run in runs) == KILLS
    assert {run["code"] for run in runs} == {0}
    assert len({run["digest"] for run in runs}) == 1


def test_a_killed_backfill_ends_with_the_rows_and_the_export_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "template").mkdir()
    write_recording(tmp_path / "template" / "oi.db")
    with LocalExchange(latency=0.02, files=FAULTY).in_thread() as exchange:
        url = ["--base-url", exchange.url]
        cache = ["--archive", "--cache", "{dir}/cache"]
        command = ["backfill", "{dir}/oi.db", *NAMES, *span(2), *cache, *url]
        check(killed_runs(command, tmp_path, seed=1))
        assert exchange.answers[429] == exchange.answers[418] == 0


def test_a_killed_archive_ends_with_the_files_of_an_undisturbed_one(tmp_path: Path) -> None:
    (tmp_path / "template").mkdir()
    with LocalExchange(latency=0.02, files=FAULTY).in_thread() as exchange:
        command = ["archive", *NAMES[:2], *span(5), "--to", "{dir}/out"]
        check(killed_runs([*command, "--archive-url", exchange.url], tmp_path, seed=2))
