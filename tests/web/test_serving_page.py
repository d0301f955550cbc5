"""Each curl command in `.docs/serving.md` gets the right kind of answer from the service."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / ".docs" / "serving.md"
HANGS = 600.0  # s after which a process counts as hung

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def test_every_curl_command_of_the_page_is_answered() -> None:
    commands = re.findall(r"^curl .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    symbols = ("BTCUSDT", "ETHUSDT", "--every", "1s", "--simulated", "--port", "0")
    service = [sys.executable, "-m", "binance_oi", "serve", *symbols]
    with subprocess.Popen(service, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            answers = [answer(command, url) for command in commands]
        finally:
            process.terminate()
            process.wait(HANGS)
    value, market, past, changes, stream, health = answers
    assert json.loads(value)["symbol"] == "BTCUSDT"
    assert [each["symbol"] for each in json.loads(market)["values"]] == ["BTCUSDT", "ETHUSDT"]
    assert json.loads(past)["rows"]
    assert json.loads(changes)["window"] == "1h"
    assert stream.startswith("retry: ")
    assert "event: state" in stream
    assert json.loads(health)["status"] == "live"


def answer(command: str, url: str) -> str:
    """The output of a command after the service has read a first value."""
    command = command.replace("http://127.0.0.1:8787/", url)
    while True:
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, timeout=HANGS, check=True
        )
        if '"status":503' not in done.stdout:
            return done.stdout
