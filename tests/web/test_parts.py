"""These tests need no server: each checks one part of the service."""

import gzip
import json
import os
import socket
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from binance_oi import errors
from binance_oi.errors import (
    BannedError,
    BinanceOIError,
    BudgetExhaustedError,
    InvalidSymbolError,
    RateLimitedError,
    RecordingError,
    ResponseError,
    TransportError,
)
from binance_oi.web import Limits, View
from binance_oi.web.allowances import Allowance, Allowances, network_of
from binance_oi.web.messages import Body, accepts_gzip, matches
from binance_oi.web.page import Page
from binance_oi.web.problems import KINDS, ProblemError, problem
from binance_oi.web.queries import Query
from binance_oi.web.systemd import notify, unit, watchdog_pause
from binance_oi.web.visitors import address_of, check_host, cross_origin, name_of

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def raised(kind: type[BinanceOIError]) -> BinanceOIError:
    """An error of this type, with a text that no visitor may see."""
    secret = "IP(192.0.2.7) /home/me/oi.db"
    if issubclass(kind, RateLimitedError | BannedError):
        return kind(429, -1003, secret, NOW + timedelta(seconds=41.2))
    if issubclass(kind, ResponseError):
        return kind(400, -1, secret)
    if kind is BudgetExhaustedError:
        return BudgetExhaustedError(secret, None)
    if kind is InvalidSymbolError:
        return InvalidSymbolError(secret, "x")
    return kind(secret)


@pytest.mark.parametrize(
    "name", [name for name in errors.__all__ if name.endswith("Error") and name != "BinanceOIError"]
)
def test_every_error_becomes_a_problem_with_a_status_and_without_private_text(name: str) -> None:
    kind: type[BinanceOIError] = getattr(errors, name)
    answer = problem(raised(kind), clock=NOW.timestamp).answer()
    found = json.loads(answer.body)
    assert answer.status in (400, 404, 502, 503, 504)
    assert b"192.0.2" not in answer.body
    assert b"/home" not in answer.body
    assert found["status"] == answer.status
    assert found["type"].startswith("urn:binance-oi:")
    assert dict(answer.headers)["Content-Type"] == "application/problem+json"
    is_refusal = issubclass(kind, RateLimitedError | BannedError | BudgetExhaustedError)
    assert not is_refusal or answer.status == 503
    assert ("Retry-After" in dict(answer.headers)) == ("retry_after" in found)


def test_a_refusal_has_a_retry_time_in_whole_seconds_of_at_most_a_day() -> None:
    def after(retry_at: datetime, held: datetime | None = None) -> str:
        error = RateLimitedError(429, None, "", retry_at)
        return dict(problem(error, held, NOW.timestamp).answer().headers)["Retry-After"]

    assert after(NOW + timedelta(seconds=41.2)) == "42"
    assert after(NOW - timedelta(seconds=5)) == "1"
    assert after(NOW + timedelta(days=9)) == "86400"
    network = problem(TransportError("x"), NOW + timedelta(seconds=30), NOW.timestamp).answer()
    assert dict(network.headers)["Retry-After"] == "30"


def test_each_error_after_which_waiting_helps_has_a_problem_of_its_own() -> None:
    kinds = [kind for kind, _ in KINDS]
    assert len(set(kinds)) == len(kinds)
    assert {BannedError, RateLimitedError, BudgetExhaustedError, RecordingError} <= set(kinds)


# -- queries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("x=1", "age=1&age=2", "age", "=1", "age=1;x=2", "age=%zz", "age=%", "age=%ff"),
        *("age=-1", "age=1e3", "age=inf", "age=nan", "age=\u0661", "age=%D9%A1", "age=1_0"),
        *("age=9999999999", "age=99999999", "age= 1", "age=+1", "age=1.1234567"),
    ],
)
def test_an_invalid_query_is_refused(text: str) -> None:
    with pytest.raises(ProblemError) as caught:
        Query(text, ("age",), 100).seconds("age")
    assert caught.value.kind.status == 400


def test_a_query_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(ProblemError) as caught:
        Query("age=" + "1" * 97, ("age",), 100)
    assert caught.value.kind.status == 414


def test_the_refusal_of_an_invalid_age_names_the_allowed_range() -> None:
    for text in ("x", "-1", "1e3", "99999999"):
        with pytest.raises(ProblemError) as caught:
            Query(f"max_age={text}", ("max_age",), 100).seconds("max_age")
        assert caught.value.detail == "max_age is 0 to 31622400 seconds, such as 2 or 0.5."


def test_a_query_returns_given_values_or_defaults() -> None:
    query = Query("age=0.5&symbols=btcusdt,%E5%B8%81,BTCUSDT&", ("age", "symbols", "flag"), 100)
    assert query.seconds("age") == 0.5
    assert query.symbols(3) == ("BTCUSDT", "币")
    assert (query.flag("flag"), query.decimals(), query.instant("since")) == (False, "text", None)
    with pytest.raises(ProblemError):
        query.symbols(2)


# -- allowances ----------------------------------------------------------------------------------


def test_the_tokens_of_an_allowance_are_refilled_evenly() -> None:
    allowance = Allowance(60, 60.0)
    assert [allowance.take(30, 0.0), allowance.take(30, 0.0)] == [0.0, 0.0]
    assert allowance.take(1, 0.0) == 1.0
    assert allowance.take(10, 5.0) == 5.0
    assert allowance.take(10, 10.0) == 0.0
    assert allowance.take(600, 1000.0) > 0.0  # an allowance of 60 never has room for 600
    assert allowance.take(60, 1000.0) == 0.0


def test_the_number_of_remembered_addresses_is_bounded() -> None:
    allowances = Allowances(1, 60.0, 10)
    for number in range(100):
        assert allowances.take(f"192.0.2.{number}", 0.0) == 0.0
    assert len(allowances) == 10
    assert allowances.take("192.0.2.99", 0.0) == 60.0
    assert allowances.take("192.0.2.1", 0.0) == 0.0


@pytest.mark.parametrize(
    "address, name",
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:0db8:0001:0002"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80:0000:0000:0000"),
        ("", ""),
        ("unix:", ""),
    ],
)
def test_a_visitor_is_identified_by_an_ipv4_address_or_an_ipv6_network(
    address: str, name: str
) -> None:
    assert network_of(address) == name


# -- visitors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host, name",
    [
        ("127.0.0.1:8787", "127.0.0.1"),
        ("LOCALHOST", "localhost"),
        ("oi.example.", "oi.example"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        ("[::1]x", ""),
        ("127.0.0.1:x", ""),
        ("127.0.0.1:8787:1", ""),
        ("127.0.0.1@evil.example", "127.0.0.1@evil.example"),
        ("", ""),
    ],
)
def test_the_host_name_is_read_from_a_host_header(host: str, name: str) -> None:
    assert name_of(host) == name


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1.evil.example", "127.0.0.1:"])
def test_a_host_that_is_not_listed_is_refused(host: str) -> None:
    with pytest.raises(ProblemError):
        check_host(host, {"127.0.0.1"})
    check_host(host, None)


def test_only_a_known_proxy_may_name_the_address_of_the_visitor() -> None:
    headers = {"x-forwarded-for": "6.6.6.6, 192.0.2.1, 10.0.0.2"}
    assert address_of("192.0.2.9", headers, {"10.0.0.1"}) == "192.0.2.9"
    assert address_of("10.0.0.1", headers, {"10.0.0.1"}) == "10.0.0.2"
    assert address_of("10.0.0.1", headers, {"10.0.0.1", "10.0.0.2"}) == "192.0.2.1"
    assert address_of("10.0.0.1", {}, {"10.0.0.1"}) == "10.0.0.1"
    chain = {"x-forwarded-for": ",".join(["10.0.0.1"] * 10_000)}
    assert address_of("10.0.0.1", chain, {"10.0.0.1"}) == "10.0.0.1"


def test_only_a_listed_origin_may_read() -> None:
    assert cross_origin("https://a.example", ()) == ()
    assert cross_origin("https://b.example", {"https://a.example"}) == (("Vary", "Origin"),)
    assert dict(cross_origin("null", {"*"}))["Access-Control-Allow-Origin"] == "null"
    assert cross_origin("", {"*"}) == (("Vary", "Origin"),)


# -- bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "accepted, is_taken",
    [
        ("", False),
        ("gzip", True),
        ("gzip, deflate, br", True),
        ("br;q=1.0, GZIP;q=0.5", True),
        ("x-gzip", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *;q=1", False),
        ("identity", False),
        ("gzip;q=x", False),
        ("gzip;q=\u0661", False),
        (";;,,;q=", False),
    ],
)
def test_gzip_is_used_only_if_the_visitor_accepts_it(accepted: str, is_taken: bool) -> None:
    assert accepts_gzip(accepted) is is_taken


def test_a_body_is_compressed_once_and_its_etag_depends_on_its_bytes() -> None:
    body = Body(b"x" * 5000)
    assert gzip.decompress(body.packed) == body.data
    assert body.packed is body.packed
    assert body.tag != Body(b"y").tag
    assert body.tag == Body(b"x" * 5000).tag
    for tags in (body.tag, body.tag.removeprefix("W/"), f'"a",{body.tag}', " * "):
        assert matches(tags, body.tag)
    for tags in ("", '"a"', 'W/"a"', ","):
        assert not matches(tags, body.tag)


def test_a_page_serves_only_html_css_and_js_files(tmp_path: Path) -> None:
    for name in ("index.html", "a.css", "b.js", "c.db", "d"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    (tmp_path / "dir.js").mkdir()
    page = Page.of(tmp_path)
    found = {path for path in ("/", "/a.css", "/b.js", "/c.db", "/d", "/dir.js") if page.file(path)}
    assert found == {"/", "/a.css", "/b.js"}
    assert len(Page.of(tmp_path / "missing")) == 0


# -- limits and views ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option, error",
    [
        ({"listeners": 0}, ValueError),
        ({"listeners": True}, TypeError),
        ({"min_age": 0.0}, ValueError),
        ({"min_age": "1"}, TypeError),
        ({"stalled": float("nan")}, ValueError),
        ({"rows": 1.5}, TypeError),
        ({"max_wait": Decimal(1)}, TypeError),
    ],
)
def test_an_invalid_limit_is_refused(option: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(option))):
        Limits(**option)


def test_equal_views_compare_and_hash_equal() -> None:
    assert View(("A", "B")) == View(("A", "B"))
    assert len({View(("A",)), View(("A",)), View(), View(head=True)}) == 3


# -- systemd -------------------------------------------------------------------------------------


def test_a_unit_starts_the_same_command_with_quoted_arguments() -> None:
    text = unit(["serve", "--record-to", "my oi.db", "--notional", "50%", "$x", 'a"b'], "/srv/oi")
    command = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    assert command.startswith(f"ExecStart={sys.executable} -m binance_oi serve --record-to ")
    assert command.endswith('"my oi.db" --notional 50%% $$x "a\\"b"')
    assert "Type=notify" in text
    assert "WorkingDirectory=/srv/oi" in text


@pytest.mark.skipif(sys.platform == "win32", reason="this needs Unix sockets")
def test_a_notification_reaches_systemd_and_does_nothing_without_systemd(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(path)
        assert notify("READY=1", {"NOTIFY_SOCKET": path})
        assert heard.recv(100) == b"READY=1"
    assert not notify("READY=1", {"NOTIFY_SOCKET": path})  # systemd has gone
    assert not notify("READY=1", {})


def test_the_watchdog_is_notified_twice_in_its_period() -> None:
    assert watchdog_pause({"WATCHDOG_USEC": "30000000"}) == 15.0
    assert watchdog_pause({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == 15.0
    for others in (
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": "3", "WATCHDOG_PID": "1"},
    ):
        assert watchdog_pause(others) is None
