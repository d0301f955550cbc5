"""The end of a command: an exit code for scripts, and one line for people.

The rule of this file: the same error gives the same code and the same line in every command. One
exception: if a command has not written anything yet, an error of a file or a store is wrong usage.
"""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from binance_oi.errors import (
    NOT_LISTED,
    REPLACES_IT,
    BannedError,
    BinanceOIError,
    BudgetExhaustedError,
    DecodeError,
    InvalidSymbolError,
    RateLimitedError,
    RecordingError,
    ResponseError,
    StorageError,
    TransportError,
    UnknownSymbolError,
    printable,
)
from binance_oi.times import iso

if TYPE_CHECKING:
    from binance_oi.market.snapshot import Snapshot

OK: Final = 0
UNEXPECTED: Final = 1
USAGE: Final = 2
LIMITED: Final = 3
EXCHANGE: Final = 4
NETWORK: Final = 5
SOME_FAILED: Final = 6
LOST: Final = 7
HUNG_UP: Final = 129  # as in shells: 128 + SIGHUP; below, 128 + SIGINT and 128 + SIGTERM
INTERRUPTED: Final = 130
TERMINATED: Final = 143

SIGHUP: Final[signal.Signals | None] = getattr(signal, "SIGHUP", None)  # Windows has none

MAX_LINE: Final = 500  # characters of one error on stderr
EXIT_CODE_MEANINGS: Final = {
    OK: "success",
    UNEXPECTED: "an unexpected error",
    USAGE: "wrong usage; nothing was changed",
    LIMITED: "limited or banned; stderr shows until when, if we know it",
    EXCHANGE: "the exchange refused, or its answer was not the documented one",
    NETWORK: "the network failed",
    SOME_FAILED: "a part failed, such as some symbols; or a recording is incomplete",
    LOST: "sweeps were lost: read, but not written",
    HUNG_UP: "hung up: the terminal was closed",
    INTERRUPTED: "interrupted",
    TERMINATED: "terminated",
}


class UsageError(Exception):
    """An error that the user can correct, in one line. The command has changed nothing."""


@contextmanager
def as_usage_errors(*, storage: bool = False) -> Generator[None]:
    """Turn errors that the user can correct into `UsageError`.

    Args:
        storage: Turn a `StorageError` too. Set this only if the block has not written anything yet.

    Raises:
        UsageError: The block raised such an error.
    """
    try:
        yield
    except StorageError as error:
        if not storage:  # the same command may succeed later
            raise
        raise UsageError(printable(str(error), MAX_LINE)) from error
    except InvalidSymbolError as error:
        if _is_unlisted(error):
            raise
        raise UsageError(printable(str(error), MAX_LINE)) from error
    except (RecordingError, ValueError, ModuleNotFoundError) as error:
        text = str(error)
        if text.endswith(REPLACES_IT):
            text = f"{text.removesuffix(REPLACES_IT)}--replace replaces it"
        raise UsageError(printable(text, MAX_LINE)) from error


def exit_code(error: BinanceOIError) -> int:
    """Return the exit code of an error."""
    match error:
        case InvalidSymbolError() if not _is_unlisted(error):
            return USAGE
        case BannedError() | RateLimitedError() | BudgetExhaustedError():
            return LIMITED
        case ResponseError() | DecodeError() | InvalidSymbolError():
            return EXCHANGE
        case TransportError():
            return NETWORK
        case _:
            return UNEXPECTED


def snapshot_code(snapshot: "Snapshot") -> int:
    """Return the exit code of a snapshot. If all symbols failed with one code, it is that code."""
    codes = {exit_code(error) for error in snapshot.errors.values()}
    if not codes:
        return OK if snapshot.notional_error is None else SOME_FAILED
    return SOME_FAILED if snapshot or len(codes) > 1 else codes.pop()


def explain(error: BinanceOIError) -> str:
    """Return the error in one line, with the time of the next try if we know it.

    The line for a symbol that the exchange does not list always has `NOT_LISTED`.
    """
    if isinstance(error, UnknownSymbolError):
        return NOT_LISTED
    if isinstance(error, InvalidSymbolError) and _is_unlisted(error):
        return f"{printable(str(error.symbol))}: {error.reason}"
    text = printable(str(error), MAX_LINE)
    if isinstance(error, BudgetExhaustedError) and error.retry_at is not None:
        return f"{text} [until {iso(error.retry_at)}]"
    return text


def _is_unlisted(error: InvalidSymbolError) -> bool:
    """Whether the name could be a symbol, but the exchange does not list it."""
    return error.reason.startswith(NOT_LISTED)
