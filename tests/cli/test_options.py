"""An option has the same meaning in every command and in the environment."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from binance_oi import MachineBudget, OpenInterestClient
from binance_oi.cli import main
from binance_oi.cli.commands import app
from binance_oi.cli.options import VARIABLES, Level, Source
from binance_oi.simulator import LocalExchange
from support.lanes import some, thorough
from support.recorded import write_recording
from support.terminals import left_on_screen, seen_on_a_terminal

Captured = pytest.CaptureFixture[str]
SENDING = ("get", "snapshot", "symbols", "watch", "record")
PATIENT = ("--timeout", "600s")


@pytest.fixture
def exchange() -> Iterator[LocalExchange]:
    with LocalExchange().in_thread() as running:
        yield running


@pytest.fixture(autouse=True)
def quiet_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    logger = logging.getLogger("binance_oi")
    before, level = list(logger.handlers), logger.level
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    yield
    logger.handlers[:] = before
    logger.setLevel(level)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """Collect the options of each command, and stop it before it sends a request."""
    found: list[Source] = []

    @contextmanager
    def client(source: Source) -> Iterator[OpenInterestClient]:
        found.append(source)
        raise KeyboardInterrupt
        yield OpenInterestClient()

    monkeypatch.setattr(Source, "client", client)
    return found


def arguments_of(command: str, tmp_path: Path) -> list[str]:
    """The command with its required arguments."""
    words = {"get": ["BTCUSDT"], "record": ["--to", str(tmp_path / "oi.db")]}
    return [command, *words.get(command, [])]


@pytest.mark.parametrize("command", SENDING)
def test_commands_that_send_accept_the_same_limits(
    command: str, tmp_path: Path, made: list[Source]
) -> None:
    given = "--reserve 600 --share 50% --max-wait 2m --timeout 3s --log-level debug"
    words = [*arguments_of(command, tmp_path), *given.split(), "--proxy", "http://127.0.0.1:9"]
    assert main(words) == 130
    assert made == [
        Source(
            reserve=600,
            share=0.5,
            max_wait=120.0,
            timeout=3.0,
            log_level="debug",
            proxy="http://127.0.0.1:9",
        )
    ]


@pytest.mark.parametrize("command", SENDING)
def test_the_command_line_overrides_the_environment(
    command: str, tmp_path: Path, made: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "BASE_URL": "http://127.0.0.1:9",
        "PROXY": "http://127.0.0.1:8",
        "RESERVE": "25%",
        "SHARE": "0.5",
        "MAX_WAIT": "30",
        "TIMEOUT": "1m",
        "LOG_LEVEL": "ERROR",
    }.items():
        monkeypatch.setenv(f"BINANCE_OI_{name}", value)
    words = arguments_of(command, tmp_path)
    assert main(words) == main([*words, "--timeout", "2s", "--testnet"]) == 130
    named = Source(
        base_url="http://127.0.0.1:9",
        proxy="http://127.0.0.1:8",
        reserve=0.25,
        share=0.5,
        max_wait=30.0,
        timeout=60.0,
        log_level="error",
    )
    assert made[0] == named
    assert (made[1].timeout, made[1].testnet, made[1].reserve) == (2.0, True, 0.25)


def test_an_empty_variable_counts_as_not_set(
    made: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    assert main(["get", "BTCUSDT"]) == 130
    assert made == [Source()]


def test_an_invalid_variable_is_wrong_usage_and_the_error_names_it(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BINANCE_OI_TIMEOUT", "soon")
    assert main(["get", "BTCUSDT", "--simulated"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "BINANCE_OI_TIMEOUT" in err


@pytest.mark.parametrize("command", SENDING)
def test_help_names_every_variable(command: str, capsys: Captured) -> None:
    assert main([command, "--help"]) == 0
    shown = "".join(capsys.readouterr().out.replace("│", "").split())
    assert [name for name in VARIABLES if f"[envvar:{name}]" not in shown] == []


@pytest.mark.parametrize("command", [name for name in app if not name.startswith("-")])
def test_help_names_the_exit_codes_and_breaks_lines_where_the_terminal_ends(
    command: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Exit codes:\n" in out
    assert "  130 interrupted\n" in out
    text = out.partition("\n\n")[2].partition("╭")[0]
    for paragraph in text.strip().split("\n\n"):
        *full, _ = paragraph.split("\n")
        words = paragraph.replace("\n", " ").split()
        longest = max(map(len, words))
        assert all(len(line) >= 60 - longest for line in full), paragraph


def broken_early(panel: list[str], width: int) -> list[str]:
    """The rows of a help panel that end although the next word would fit on them."""
    begin = panel[0].rindex("  ") + 2  # where the text beside the names begins
    texts = [row[begin:].rstrip() for row in panel]
    at = 3 if any(row.startswith("*  ") for row in panel) else 0  # where names begin
    follows = [row[at : at + 1].isspace() for row in panel[1:]]
    return [
        text
        for text, after, is_same in zip(texts, texts[1:], follows, strict=False)
        if is_same and begin + len(f"{text} {after.split()[0]}") <= width
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(
    "command", ["watch", "backfill", *thorough(*(name for name in app if name[0] != "-"))]
)
def test_help_fills_the_lines_about_options_at_every_width(
    command: str, width: int, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main([command, "--help"]) == 0
    panels = capsys.readouterr().out.split("╭")[1:]
    assert panels
    for panel in panels:
        rows = [row[2:-1].rstrip() for row in panel.splitlines() if row.startswith("│")]
        assert broken_early(rows, width - len("│  │")) == []


@pytest.mark.parametrize(
    "words",
    [
        ["BTCUSDT", "ETHUSDT"],
        ["BTCUSDT,ETHUSDT"],
        ["--symbol", "BTCUSDT", "--symbol", "ETHUSDT"],
        *thorough(["--symbol", "btcusdt, ethusdt"], ["--symbol=BTCUSDT,ETHUSDT"]),
    ],
)
@pytest.mark.parametrize("command", some(["snapshot", "get", "export", "report", "plot"], 3))
def test_symbols_are_named_the_same_way_in_every_command(
    command: str, words: list[str], tmp_path: Path, capsys: Captured
) -> None:
    if command in ("get", "snapshot"):
        assert main([command, *words, "--json", "--simulated", *PATIENT]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["symbol"] for row in rows] == ["BTCUSDT", "ETHUSDT"]
        return
    path = write_recording(tmp_path / "oi.db")
    ending = {"export": "csv", "report": "html", "plot": "svg"}[command]
    assert main([command, str(path), *words, "--to", str(tmp_path / f"oi.{ending}")]) == 2
    assert "ETHUSDT" in capsys.readouterr().err  # which is not in the recording


PRINTING = {
    "get": ["BTCUSDT", "--simulated"],
    "snapshot": ["BTCUSDT", "--simulated"],
    "symbols": ["--simulated"],
    "budget": [],
    "simulate": [],
    "watch": ["JDUSDT", "--every", "1s", "--simulated"],
}


@pytest.mark.parametrize("command", some([*PRINTING], 3))
def test_commands_that_print_data_print_json_lines_on_a_terminal_too(command: str) -> None:
    budget = MachineBudget()
    budget.pool("binance-futures").charge(1)
    budget.close()
    words = [command, *PRINTING[command], "--json"]
    is_endless = command in ("simulate", "watch")
    code, seen = seen_on_a_terminal(*words, until=lambda seen: is_endless and "}\r\n" in seen)
    assert code == (130 if is_endless else 0)
    rows = [json.loads(line) for line in left_on_screen(seen) if line.startswith("{")]
    assert rows
    assert all(isinstance(row, dict) for row in rows)


def test_mixing_both_forms_of_symbols_is_wrong_usage_with_a_hint(capsys: Captured) -> None:
    assert main(["get", "BTCUSDT", "--symbol", "ETHUSDT", "--simulated"]) == 2
    assert "put symbols after the command, or each after --symbol" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", ",", "BTCUSDT,", *thorough(" ")])
def test_an_empty_symbol_is_wrong_usage(name: str, capsys: Captured) -> None:
    for words in (["get", name], ["snapshot", "--symbol", name]):
        assert main([*words, "--simulated"]) == 2
        assert "a symbol is needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option, said",
    [
        ("--reserve=3000", "reserve must be a weight below 2400"),
        ("--reserve=many", "a reserve is a weight, such as 600, or a share"),
        ("--reserve=200%", "a reserve is a weight, or a share below 1 or 100%: 200% (see"),
        ("--reserve=100%", "a share below 1 or 100%: 100% (see"),
        ("--share=150%", "a share is above 0, and at most 1 or 100%: 150% (see"),
        ("--share=1.5", "a share is above 0, and at most 1 or 100%: 1.5 (see"),
        ("--share=0", "a share is above 0, and at most 1 or 100%: 0 (see"),
        ("--share=half", "a share is a number up to 1, or a percentage such as 25%"),
        ("--max-wait=soon", "a period is a number with s, m, h or d"),
        ("--log-level=loud", "a level is one of debug, info, warning, error"),
        ("--proxy=nonsense", "--proxy must be an HTTP proxy: http://[user:password@]host[:port]"),
        ("--proxy=socks5://x", "[:port] or https://...\n"),
    ],
)
def test_an_impossible_limit_is_an_error_in_one_line_with_exit_code_2(
    option: str, said: str, capsys: Captured
) -> None:
    assert main(["get", "BTCUSDT", option]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


@pytest.mark.parametrize(
    "words", ["get BTCUSDT", "snapshot", "budget", "record --to {0}/oi.db", "backfill {0}/oi.db"]
)
def test_a_shared_budget_without_its_library_is_an_error_in_one_line_with_exit_code_2(
    words: str, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)  # as if it were not installed
    shared = ["--budget", "redis://127.0.0.1:9", "--egress", "x"]
    assert main([*words.format(tmp_path).split(), *shared]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "binance-oi: this needs redis: pip install 'binance-oi[redis]'\n")


@pytest.mark.parametrize(
    "command", [["get", "BTCUSDT", "--base-url", "http://127.0.0.1:9"], ["budget"]]
)
def test_each_option_of_a_shared_budget_needs_the_other(
    command: list[str], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*command, "--budget", "redis://127.0.0.1:9"]) == 2
    assert capsys.readouterr().err.startswith("binance-oi: --budget needs --egress: ")
    assert main([*command, "--egress", "x"]) == 2
    needs = "binance-oi: --egress needs --budget: the server of the budget that machines share\n"
    assert capsys.readouterr().err == needs
    monkeypatch.setenv("BINANCE_OI_EGRESS", "x")
    assert main(command) == 2
    assert capsys.readouterr().err == needs


def test_a_simulated_exchange_has_its_own_budget(capsys: Captured) -> None:
    assert main(["get", "BTCUSDT", "--egress", "x", "--simulated", *PATIENT]) == 0
    assert main(["get", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "for this command, and read it. It has a budget of its own." in shown


@pytest.mark.parametrize(
    "words, said",
    [
        ("record BTCUSDT --every 1s", "record needs --to"),
        ("prune oi.db", "prune needs --keep"),
        ("backup oi.db", "backup needs --to"),
        ("copy oi.db", "copy needs TARGET"),
        ("get --symbol", "--symbol needs a value"),
        ("get", "get needs a symbol, such as BTCUSDT"),
        ("record X --to -1.db", "--to needs a value"),
        ("get X --max-wait 5s --max-wait -3s", "--max-wait must not be below 0: -3s"),
        ("get X --simulated --testnet", "--simulated and --testnet exclude each other"),
        ("get X --json --csv", "--csv and --json exclude each other"),
        ("get BTCUSDT --max-wait", "--max-wait needs a value"),
        ("get BTCUSDT --max-wait --json", "--max-wait needs a value"),
        ("get BTCUSDT --max-wait -5s", "--max-wait must not be below 0: -5s"),
        ("get BTCUSDT --share -.5%", "--share must not be below 0: -.5%"),
    ],
)
def test_an_error_says_only_what_is_missing_or_wrong(
    words: str, said: str, capsys: Captured
) -> None:
    assert main(words.split()) == 2
    assert capsys.readouterr().err.startswith(f"binance-oi: {said} (see ")


@pytest.mark.parametrize("command", ["watch", "record --to oi.db", "serve"])
@pytest.mark.parametrize("every", ["0s", "0.0004", *thorough("0", "367d")])
def test_an_impossible_schedule_is_an_error_that_names_its_option(
    command: str, every: str, capsys: Captured
) -> None:
    assert main([*command.split(), "--every", every, "--simulated"]) == 2
    wrong = f"--every: a schedule is at least 0.001s, and at most a year: {every}"
    assert capsys.readouterr().err.startswith(f"binance-oi: Invalid value for {wrong} (see ")


@pytest.mark.parametrize(
    "words, command",
    [
        ("get BTCUSDT --nonsense", "get "),
        ("record", "record "),
        ("budget --forget", "budget "),
        ("nonsense", ""),
        ("--nonsense", ""),
    ],
)
def test_an_error_about_an_option_names_the_help_that_lists_it(
    words: str, command: str, capsys: Captured
) -> None:
    assert main(words.split()) == 2
    assert capsys.readouterr().err.endswith(f"(see binance-oi {command}--help)\n")


def test_the_client_gets_the_reserve_and_the_share_of_the_options(exchange: LocalExchange) -> None:
    source = Source(base_url=exchange.url, reserve=600, share=0.25)
    with source.client() as client:
        assert (client.usage.reserve, client.usage.share) == (600, 600)
    with Source(simulated=True, reserve=0.5).client() as client:
        assert client.usage.reserve == 1200


def test_the_log_level_selects_which_library_messages_are_shown(
    exchange: LocalExchange, capsys: Captured
) -> None:
    levels: list[tuple[Level, bool]] = [("info", True), ("warning", False), ("debug", True)]
    for level, shown in levels:
        with Source(base_url=exchange.url, log_level=level).client():
            logging.getLogger("binance_oi").info("symbols joined: X")
        assert ("symbols joined: X" in capsys.readouterr().err) is shown
    with Source(base_url=exchange.url, log_level="error").client():
        logging.getLogger("binance_oi").warning("the minute is full")
    assert capsys.readouterr().err == ""
