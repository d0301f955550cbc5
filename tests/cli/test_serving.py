"""The command `serve`: its first line, its answers, its errors and its end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from binance_oi import RecordingError
from binance_oi.cli import main, serving
from binance_oi.recorder import Recording
from support.busy import without_busy
from support.filled import sink_at
from support.lanes import thorough
from support.recorded import VALUES, sweep

Captured = pytest.CaptureFixture[str]
SERVE = ("-m", "binance_oi", "serve")
HANGS = 600.0  # s after which a process counts as hung
FEW = ("BTCUSDT", "ETHUSDT", "--every", "1s", "--simulated", "--port", "0")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@contextmanager
def serve(
    *arguments: str, env: dict[str, str] | None = None
) -> "Generator[tuple[str, subprocess.Popen[str]]]":
    command = [sys.executable, "-X", "dev", "-W", "error", *SERVE, *arguments]
    pipe, variables = subprocess.PIPE, {**os.environ, "PYTHONASYNCIODEBUG": "0", **(env or {})}
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=variables) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def get(url: str, host: str | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(url, headers={} if host is None else {"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=HANGS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def until_live(url: str) -> dict[str, Any]:
    """Wait for the first snapshot, and return it."""
    while True:
        status, found = get(f"{url}snapshot")
        if status == 200:
            return dict(found)


def until_recorded(place: str, process: "subprocess.Popen[str]") -> None:
    """Wait until the recording at `place` has its first sweep, or until the process has ended."""
    while process.poll() is None:
        with suppress(RecordingError), Recording(place) as recording:
            if recording.symbols():
                return
        time.sleep(0.01)


def read_stream(url: str) -> "tuple[threading.Thread, list[bytes]]":
    """Read a stream in a thread into a list of its pieces; the last piece is empty."""
    pieces = list[bytes]()

    def read() -> None:
        with urllib.request.urlopen(url, timeout=HANGS) as answer:
            while pieces[-1:] != [b""]:
                pieces.append(answer.read1())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread, pieces


@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGTERM, 0), *thorough((signal.SIGINT, 0), (signal.SIGHUP, 129))],
)
def test_a_signal_ends_the_service_and_its_open_streams_and_closes_the_recording(
    place: str, number: signal.Signals, code: int
) -> None:
    with serve(*FEW, "--record-to", place) as (url, process):
        market = until_live(url)
        thread, pieces = read_stream(f"{url}events")
        while not pieces:
            assert thread.is_alive()
            time.sleep(0.01)
        until_recorded(place, process)
        status, _ = get(f"{url}healthz", "evil.example")
        process.send_signal(number)
        _, stderr = process.communicate(timeout=HANGS)
        thread.join(HANGS)
    assert (process.returncode, without_busy(stderr)) == (code, [])
    assert [value["symbol"] for value in market["values"]] == ["BTCUSDT", "ETHUSDT"]
    assert pieces[0].startswith(b"retry: ")
    assert pieces[-1] == b""
    assert status == 421
    with Recording(place) as recording:
        assert set(recording.symbols()) == {"BTCUSDT", "ETHUSDT"}


def test_a_recording_of_another_process_is_served_without_requests_to_the_exchange(
    place: str,
) -> None:
    with sink_at(place) as sink:
        for number in (0, 1, 4):
            sink.save(sweep(number), [], 60_000)
    with serve("--recording", place, "--port", "0", "--json") as (line, process):
        url = json.loads(line)["url"]
        market = until_live(url)
        until = max(value["time"] for value in market["values"]) + 60_000
        status, past = get(f"{url}history/BTCUSDT?period=5m&since=0&until={until}")
        assert status == 400
        since = until - 600_000
        status, past = get(f"{url}history/BTCUSDT?period=5m&since={since}&until={until}")
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=HANGS)
    assert process.returncode == 0
    assert "Traceback" not in stderr
    assert {value["symbol"] for value in market["values"]} == set(VALUES)
    assert (status, past["from"]) == (200, "recording")
    assert past["rows"]


def test_the_service_notifies_systemd_that_it_is_ready_and_that_it_stops(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(path)
        heard.settimeout(HANGS)
        with serve(*FEW, env={"NOTIFY_SOCKET": path}) as (url, process):
            assert heard.recv(4096).decode() == f"READY=1\nSTATUS={url}"
            process.send_signal(signal.SIGTERM)
            assert heard.recv(4096) == b"STOPPING=1"
            process.communicate(timeout=HANGS)
    assert process.returncode == 0


def test_a_port_that_is_in_use_is_an_error_in_one_line(capsys: Captured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "BTCUSDT", "--simulated", "--port", str(port)]) == 2
    text = capsys.readouterr()
    assert text.out == ""
    assert text.err.startswith(f"binance-oi: --host 127.0.0.1 --port {port} cannot be used: ")


def test_conflicting_options_and_a_missing_recording_are_errors(
    capsys: Captured, tmp_path: Path
) -> None:
    both = ["--recording", str(tmp_path / "a"), "--record-to", str(tmp_path / "b")]
    assert main(["serve", *both]) == 2
    assert "exclude each other" in capsys.readouterr().err
    assert main(["serve", *both[:2]]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert list(tmp_path.glob("*.db*")) == []


def test_a_symbol_that_is_not_listed_ends_the_service_with_its_error(capsys: Captured) -> None:
    assert main(["serve", "NOSUCHUSDT", "--simulated", "--port", "0"]) == 4
    assert "NOSUCHUSDT" in capsys.readouterr().err.splitlines()[-1]


def test_the_print_unit_option_prints_the_unit_and_serves_nothing() -> None:
    command = [sys.executable, "-m", "binance_oi", "serve", "--port", "80", "--print-unit"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "binance_oi serve --port 80\n" in done.stdout
    assert "--print-unit" not in done.stdout


def test_the_service_raises_its_limit_of_open_files_to_the_allowed_maximum() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, before[1]), before[1]))
        assert serving.raise_open_files() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert serving.limits_for(1200).listeners == 900
    assert serving.limits_for(10).listeners == 1
