"""Only temporary failures are retried, after random waits, and within a budget of retries."""

from dataclasses import fields
from datetime import UTC, datetime

import pytest

from binance_oi.errors import (
    BannedError,
    BinanceOIError,
    DecodeError,
    ForbiddenError,
    InvalidSymbolError,
    RateLimitedError,
    ResponseError,
    ServerError,
    SymbolNotTradingError,
    TransportError,
    TransportTimeoutError,
    UnknownSymbolError,
    WrongSymbolError,
)
from binance_oi.sending.retry import OVERLOADED, Retries, RetryPolicy

RESET = TransportError("connection reset")
LATER = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NO_END = 1e9  # s until the timeout of the call
NAN = float("nan")
NUMBERS = [field.name for field in fields(RetryPolicy) if field.name != "attempts"]


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every random wait the longest possible."""
    monkeypatch.setattr("random.uniform", lambda shortest, longest: longest)


@pytest.mark.usefixtures("longest")
@pytest.mark.parametrize(
    "error, waits",
    [
        (RESET, [0.05, 0.1, 0.2, 0.4]),
        (TransportTimeoutError("no answer"), [0.05, 0.1, 0.2, 0.4]),
        (ServerError(503, None, "<html>"), [0.25, 0.5, 1.0, 2.0, 2.0]),
        (ServerError(408, -1007, "timeout"), [0.25, 0.5, 1.0, 2.0, 2.0]),
        (ServerError(503, OVERLOADED, "throttled"), [1.0, 2.0, 2.0]),
    ],
)
def test_retry_waits_double_up_to_the_cap(error: BinanceOIError, waits: list[float]) -> None:
    retries = Retries(RetryPolicy(attempts=100))
    assert [retries.wait(error, n + 1, NO_END) for n in range(len(waits))] == waits


def test_retry_waits_are_spread_evenly_down_to_zero() -> None:
    retries = Retries(RetryPolicy(attempts=2, budget=1000))
    waits = [retries.wait(ServerError(500, None, ""), 1, NO_END) for _ in range(1000)]
    drawn = [wait for wait in waits if wait is not None]
    assert len(drawn) == 1000
    assert all(0.0 <= wait <= 0.25 for wait in drawn)
    assert 0.1 < sum(drawn) / 1000 < 0.15
    assert min(drawn) < 0.02 < 0.23 < max(drawn)


@pytest.mark.parametrize(
    "error",
    [
        InvalidSymbolError("", "it must have 1 to 50 characters"),
        TransportError("the certificate is not valid", "never"),
        UnknownSymbolError(400, -1121, "Invalid symbol."),
        SymbolNotTradingError(400, -4108, "Symbol is closed."),
        ResponseError(400, -1102, "Mandatory parameter 'symbol' was not sent."),
        ForbiddenError(403, None, "<html>"),
        ForbiddenError(451, 0, "restricted"),
        BannedError(418, None, "", LATER),
        RateLimitedError(429, None, "", LATER),
        DecodeError("not the documented answer"),
        WrongSymbolError("asked for BTCUSDT, answered for ETHUSDT"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_other_error_is_retried(error: BinanceOIError) -> None:
    retries = Retries(RetryPolicy())
    assert retries.wait(error, 1, NO_END) is None
    assert retries.left == 60.0


def test_no_retry_follows_the_last_attempt() -> None:
    retries = Retries(RetryPolicy(attempts=3))
    waits = [retries.wait(RESET, n, NO_END) for n in (1, 2, 3, 4)]
    assert [wait is None for wait in waits] == [False, False, True, True]
    assert Retries(RetryPolicy(attempts=1)).wait(RESET, 1, NO_END) is None


@pytest.mark.usefixtures("longest")
def test_a_retry_that_would_start_too_late_is_skipped_without_cost() -> None:
    retries = Retries(RetryPolicy())
    for seconds in (0.05, 0.0, -1.0):
        assert retries.wait(RESET, 1, seconds) is None
    assert retries.left == 60.0
    assert retries.wait(RESET, 1, 0.0501) == 0.05
    assert retries.left == 59.0


def test_replacing_a_dead_kept_connection_is_immediate_and_costs_no_retry() -> None:
    dead = TransportError("a kept connection ended", "now")
    retries = Retries(RetryPolicy(budget=0.0))
    assert [retries.wait(dead, 1, NO_END) for _ in range(600)] == [0.0] * 600
    assert retries.left == 0.0
    assert retries.wait(dead, 1, 0.0) is None  # the call's time is over
    assert retries.wait(dead, 3, NO_END) is None  # the call's attempts are used up
    assert retries.wait(RESET, 1, NO_END) is None


def test_an_outage_of_a_600_symbol_batch_costs_at_most_660_requests() -> None:
    retries, requests = Retries(RetryPolicy()), 0
    for _ in range(600):
        attempt = 1
        while retries.wait(RESET, attempt, NO_END) is not None:
            attempt += 1
        requests += attempt
    assert requests == 660


def test_ten_successes_earn_one_retry_up_to_the_budget() -> None:
    retries = Retries(RetryPolicy(budget=2.0, earned=0.5))
    retries.succeeded()
    assert retries.left == 2.0
    assert [retries.wait(RESET, 1, NO_END) is None for _ in range(3)] == [False, False, True]
    retries.succeeded()
    assert retries.wait(RESET, 1, NO_END) is None
    retries.succeeded()
    assert retries.left == 1.0
    assert retries.wait(RESET, 1, NO_END) is not None
    for _ in range(10):
        retries.succeeded()
    assert retries.left == 2.0
    assert RetryPolicy().earned == 0.1


def test_thousands_of_attempts_wait_no_longer_than_the_cap() -> None:
    retries = Retries(RetryPolicy(attempts=10_000, network_base=0.0, budget=1e6))
    assert retries.wait(RESET, 5000, NO_END) == 0.0
    wait = retries.wait(ServerError(500, None, ""), 5000, NO_END)
    assert wait is not None
    assert wait <= 2.0


@pytest.mark.parametrize(
    "change",
    [
        {"attempts": 0},
        {"attempts": -1},
        *({name: bad} for bad in (-0.1, NAN) for name in NUMBERS),
    ],
    ids=repr,
)
def test_a_policy_out_of_range_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="attempts must be at least 1"):
        RetryPolicy(**change)  # type: ignore[arg-type]


def test_a_policy_is_frozen_and_compares_by_value() -> None:
    policy = RetryPolicy(attempts=2)
    with pytest.raises(AttributeError):
        policy.attempts = 5  # type: ignore[misc]
    assert policy == RetryPolicy(attempts=2) != RetryPolicy()
