"""Tests schedules of `record` and `watch`: some fit, some do not, some reach no exchange.

Rule of this file: an endless command runs in a separate process, and a signal stops it.
"""

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from binance_oi.cli import main
from binance_oi.cli.endings import EXCHANGE, LIMITED, NETWORK, UNEXPECTED, USAGE
from binance_oi.cli.program import fitting_command, without_secrets
from binance_oi.cli.recording import status_line, trouble_code
from binance_oi.recorder import Status
from binance_oi.simulator import LocalExchange
from support.busy import without_busy
from support.lanes import thorough
from support.ports import closed_port

Captured = pytest.CaptureFixture[str]
HANGS = 600.0  # s after which a process counts as hung


@pytest.fixture
def nowhere() -> Iterator[str]:
    """A URL at which no exchange listens."""
    with closed_port() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("symbols, every", [(["BTCUSDT"], "0.2s"), *thorough(([], "1s"))])
def test_a_recorder_that_never_reaches_the_exchange_ends_with_the_reason(
    symbols: list[str], every: str, nowhere: str, tmp_path: Path
) -> None:
    arguments = ["record", *symbols, "--to", str(tmp_path / "oi.db"), "--every", every]
    command = [sys.executable, "-m", "binance_oi", *arguments, "--base-url", nowhere]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while "no snapshot for" not in said or not without_busy(said):
            said = process.stderr.readline()
            assert process.poll() is None
        assert "outage (no answer from the exchange: " in said
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=HANGS)
    last = rest.splitlines()[-1]
    assert "sweeps 0" in last
    assert "s late" not in last
    # On a busy machine, the last slot may be missed for another reason.
    reason = last.partition("NO SWEEP: ")[2]
    assert reason.startswith(("outage: no answer from the exchange", "late", "overrun"))
    assert process.returncode == trouble_code(reason.partition(";")[0])


def test_a_recorder_warns_at_once_if_the_listing_cannot_be_read(
    nowhere: str, tmp_path: Path
) -> None:
    arguments = ["record", "--to", str(tmp_path / "oi.db"), "--base-url", nowhere]
    command = [sys.executable, "-m", "binance_oi", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=HANGS)
    assert said.startswith("binance-oi: the list of symbols could not be read yet: no answer")
    assert process.returncode == NETWORK


@pytest.mark.parametrize(
    "trouble, code",
    [
        ("banned: until 12:00", LIMITED),
        ("limited", LIMITED),
        ("budget", LIMITED),
        ("forbidden", EXCHANGE),
        ("unknown", EXCHANGE),
        ("not_trading: of none", EXCHANGE),
        ("outage: no route", NETWORK),
        ("late", UNEXPECTED),
    ],
)
def test_a_recorder_without_a_sweep_ends_with_the_exit_code_of_the_reason(
    trouble: str, code: int
) -> None:
    assert trouble_code(trouble) == code


def test_the_status_shows_lateness_only_after_the_first_sweep() -> None:
    assert status_line(Status()) == "sweeps 0, rows 0, slots missed 0"
    assert status_line(Status(sweeps=1, late=0.04)).endswith(", last 0.0 s late")
    line = status_line(Status(missed=2, trouble="outage: no\nroute"))
    assert line == "sweeps 0, rows 0, slots missed 2, NO SWEEP: outage: no\\nroute"


@pytest.mark.parametrize("command", ["record --to {new}", *thorough("watch")])
def test_a_schedule_that_does_not_fit_is_refused_with_a_command_that_fits(
    command: str, tmp_path: Path, capsys: Captured
) -> None:
    new = tmp_path / "new oi.db"
    words = [word.format(new=new) for word in command.split()]
    with LocalExchange().in_thread() as exchange:
        for number in range(51):
            exchange.set_status(f"NEW{number}USDT", "TRADING")
        source = ["--base-url", exchange.url]
        assert main([*words, *source, "--every", "20s"]) == USAGE
    text, _, works = capsys.readouterr().err.strip().partition(" is possible: ")
    assert text.startswith("binance-oi: 840 symbols every 20 s take 2520 weight a minute")
    assert shlex.split(works) == ["binance-oi", *words, *source, "--every", "22s"]
    assert not new.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["watch", "--every", "5s", "--top", "3"],
        ["watch", "--every=5s", "--top", "3"],
        ["watch", "--every", "1s", "--every=5s", "--top", "3"],
    ],
)
def test_the_suggested_command_has_only_one_period(arguments: list[str]) -> None:
    assert fitting_command(arguments, 22) == "binance-oi watch --top 3 --every 22s"


@pytest.mark.parametrize(
    "text, shown",
    [
        ("watch --proxy http://me:secret@proxy --top 3", "watch --proxy ***@proxy --top 3"),
        ('value "http://me:sec@ret@proxy" for', 'value "***@proxy" for'),
        ("value 'http://me:secret@proxy' for", "value '***@proxy' for"),
        ("record --to 'postgresql:///m?password=secret' x", "record --to 'postgresql:///m?***' x"),
        ("postgresql://me:sec@host/m?password=secret", "***@host/m?***"),
        ('"postgresql://host/m?password=secret": x', '"postgresql://host/m?***": x'),
        ("postgresql://db/m?user=me@srv&password=secret", "postgresql://***"),
        ("postgresql://me:sec?ret@db/m", "postgresql://***"),
        ("Did you mean --keep? oi?1.db", "Did you mean --keep? oi?1.db"),
    ],
)
def test_hiding_a_password_keeps_the_quotes_of_its_word(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_when_no_schedule_fits_the_error_suggests_fewer_symbols() -> None:
    assert fitting_command(["watch"], None) == "read fewer symbols"


@pytest.mark.parametrize("command", ["record", "watch"])
def test_the_help_page_names_a_duration_and_the_default(command: str, capsys: Captured) -> None:
    assert main([command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--every DURATION" in shown
    assert "or auto" in shown
    assert "[default: auto]" in shown
    assert "FLOAT The" not in shown


def test_a_recorder_prints_its_schedule(tmp_path: Path, capsys: Captured) -> None:
    arguments = ["record", "BTCUSDT", "--to", str(tmp_path / "oi.db"), "--simulated"]
    shown = ""
    for seconds in (1, 8, 64):  # a busy machine may need over 1 s to choose a schedule
        assert main([*arguments, "--for", f"{seconds}s"]) == 0
        shown = capsys.readouterr().err
        if "every" in shown:
            break
    assert "; every 5 s\n" in shown


@pytest.mark.parametrize("arguments", [["get"], ["plot", "oi.db", "--to", "oi.svg"]])
def test_a_command_without_its_symbol_is_refused_with_an_example(
    arguments: list[str], capsys: Captured
) -> None:
    assert main(arguments) == USAGE
    assert f"{arguments[0]} needs a symbol, such as BTCUSDT" in capsys.readouterr().err
