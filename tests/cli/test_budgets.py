"""The command `budget` shows the budgets of this machine, and deletes one on request."""

import io
import json
import socket
import sys
import textwrap
from collections.abc import Iterator

import pytest

from binance_oi.budget import MachineBudget, machine_pools
from binance_oi.cli import main
from binance_oi.exchange.hosts import pool_key
from binance_oi.simulator import LocalExchange
from support.lanes import thorough
from support.terminals import CONTROL, seen_on_a_terminal

Captured = pytest.CaptureFixture[str]
NAME = "binance-futures"


def use(name: str, *, banned: bool = False) -> None:
    """Charge a pool of this machine, or ban it for an hour."""
    budget = MachineBudget()
    pool = budget.pool(name)
    if banned:
        pool.hold(3600.0, ban=True)
    else:
        pool.charge(5)
    budget.close()


def shown(capsys: Captured) -> tuple[list[str], str]:
    """The printed pools, and stderr."""
    out, err = capsys.readouterr()
    return [json.loads(line)["budget"] for line in out.splitlines()], err


@pytest.fixture
def gone() -> str:
    """The name of the pool of a local exchange that has ended."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def exchange() -> Iterator[LocalExchange]:
    with LocalExchange().in_thread() as running:
        yield running


def test_budgets_of_local_ports_without_a_listener_are_omitted_and_counted(
    exchange: LocalExchange, gone: str, capsys: Captured
) -> None:
    for name in (NAME, pool_key(exchange.url), gone):
        use(name)
    assert main(["budget"]) == 0
    pools, err = shown(capsys)
    assert sorted(pools) == sorted([NAME, pool_key(exchange.url)])
    assert err.startswith("binance-oi: left out: 1 budget of local ports where nothing listens\n")
    assert not exchange.answers
    assert gone in machine_pools()  # the port may belong to a tunnel that reopens later


def test_a_ban_of_a_local_port_without_a_listener_is_shown(gone: str, capsys: Captured) -> None:
    use(gone, banned=True)  # the port may belong to a tunnel to the exchange
    assert main(["budget"]) == 0
    pools, err = shown(capsys)
    assert pools == [gone]
    assert "left out" not in err


def test_the_port_check_sends_nothing_to_a_listening_program(capsys: Captured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = f"http://127.0.0.1:{server.getsockname()[1]}"
        use(name)
        assert main(["budget"]) == 0
        assert shown(capsys)[0] == [name]
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # the check has not connected
            server.accept()


def test_a_port_in_time_wait_is_free(capsys: Captured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = f"http://127.0.0.1:{server.getsockname()[1]}"
        with socket.create_connection(server.getsockname()):
            accepted, _ = server.accept()
            accepted.close()  # the side that closes first keeps the port for a minute
    use(name)
    assert main(["budget"]) == 0
    assert shown(capsys)[0] == []


def test_a_port_that_cannot_be_checked_counts_as_in_use(
    gone: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> socket.socket:
        raise PermissionError

    use(gone)
    monkeypatch.setattr("socket.socket", forbidden)
    assert main(["budget"]) == 0
    assert shown(capsys)[0] == [gone]


def test_forget_shows_a_ban_before_it_asks(capsys: Captured) -> None:
    use(NAME, banned=True)
    use("binance-futures-testnet")
    assert main(["budget", "--forget", NAME, "--yes"]) == 0
    pools, err = shown(capsys)
    assert pools == [NAME]
    assert "this IP address is banned until 20" in err
    assert "budget forgotten" in err
    assert list(machine_pools()) == ["binance-futures-testnet"]


@pytest.mark.parametrize("banned", [True, *thorough(False)])
def test_without_a_terminal_nothing_is_forgotten_unless_yes_is_given(
    banned: bool, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(NAME, banned=banned)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert main(["budget", "--forget", NAME]) == 2
    assert "stdin is not a terminal, so no user can confirm; add --yes" in shown(capsys)[1]
    assert list(machine_pools()) == [NAME]


def test_forget_shows_a_cooldown_that_is_not_a_ban(capsys: Captured) -> None:
    budget = MachineBudget()
    budget.pool(NAME).hold(3600.0)
    budget.close()
    assert main(["budget", "--forget", NAME, "--yes"]) == 0
    assert "nothing is sent before 20" in shown(capsys)[1]


def test_an_unknown_budget_is_wrong_usage_and_the_error_names_the_others(
    capsys: Captured,
) -> None:
    assert main(["budget", "--forget", NAME, "--yes"]) == 2
    assert shown(capsys)[1] == "binance-oi: there is no budget binance-futures\n"
    use("binance-futures-testnet")
    assert main(["budget", "--forget", NAME, "--yes"]) == 2
    assert shown(capsys)[1].endswith("binance-futures; there are binance-futures-testnet\n")
    assert list(machine_pools()) == ["binance-futures-testnet"]


def test_the_error_names_a_few_of_many_budgets(capsys: Captured) -> None:
    for port in range(1, 9):
        use(f"http://127.0.0.1:{port}")
    use("binance-futures-testnet")
    assert main(["budget", "--forget", NAME, "--yes"]) == 2
    err = shown(capsys)[1]
    assert "; there are binance-futures-testnet, http://127.0.0.1:1, " in err
    assert err.endswith(" and 5 more\n")


@pytest.mark.parametrize(
    "answer, is_kept", [(b"y\n", False), (b"\n", True), *thorough((b"n\n", True), (b"\x04", True))]
)
def test_on_a_terminal_forget_asks_for_consent(answer: bytes, is_kept: bool) -> None:
    use(NAME, banned=True)
    code, seen = seen_on_a_terminal(
        "budget", "--forget", NAME, answer_to=("forget this budget? [y/N]", answer)
    )
    plain = CONTROL.sub("", seen)
    assert code == 0
    assert plain.index("banned until") < plain.index("forget this budget? [y/N]")
    assert ("budget kept" in plain) is is_kept
    assert (NAME in machine_pools()) is is_kept


@pytest.mark.parametrize("columns", [30, 60])
def test_a_summary_on_a_terminal_breaks_between_words(columns: int) -> None:
    use(NAME, banned=True)
    words = ("budget", "--forget", NAME, "--yes", "--json")
    _, seen = seen_on_a_terminal(*words, columns=columns)
    plain = CONTROL.sub("", seen).replace("\r", "")
    begin = f"binance-oi: {NAME}:"
    summary = begin + plain.partition(begin)[2].partition("\nbinance-oi: ")[0]
    text = " ".join(summary.split("\n"))
    assert len(text) > columns
    assert summary == textwrap.fill(text, columns, break_on_hyphens=False)


def test_ctrl_c_at_the_question_keeps_the_budget() -> None:
    use(NAME, banned=True)
    asked = "forget this budget? [y/N]"
    code, _ = seen_on_a_terminal("budget", "--forget", NAME, until=lambda seen: asked in seen)
    assert code == 130
    assert NAME in machine_pools()
