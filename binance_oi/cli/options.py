"""Options that commands share, and how their text is read.

The rule of this file: an option has one name, one meaning and one form wherever it is. A choice on
the command line counts more than one in the environment.
"""

import os
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from cyclopts import ArgumentCollection, Group, Parameter, Token
from cyclopts.validators import Number

from binance_oi.cli.endings import UsageError
from binance_oi.cli.streams import log_from

if TYPE_CHECKING:
    from binance_oi.budget import Budget
    from binance_oi.cli.render import Sheet
    from binance_oi.client import OpenInterestClient

VARIABLE = "BINANCE_OI_"  # begins the name of every variable that we read
Level = Literal["debug", "info", "warning", "error"]
AUTO = "auto"  # in the place of a schedule
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

_PERIOD = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h|d|)", re.ASCII)
_AGE = re.compile(r"[0-9]+(?:\.[0-9]+)?[smhd]", re.ASCII)
_WEIGHT = re.compile(r"[0-9]+", re.ASCII)
_SHARE = re.compile(r"([0-9]*\.?[0-9]+)(%?)", re.ASCII)


# -- how a text is read ----------------------------------------------------------------------


def _seconds(_: object, tokens: Sequence[Token]) -> float:
    match = _PERIOD.fullmatch(tokens[0].value)
    if match is None:
        raise ValueError("a period is a number with s, m, h or d, such as 20s")
    return float(match[1]) * UNITS[match[2]]


def _schedule(kind: object, tokens: Sequence[Token]) -> float | None:
    return None if tokens[0].value == AUTO else _seconds(kind, tokens)


def _moment(_: object, tokens: Sequence[Token]) -> datetime:
    try:
        moment = datetime.fromisoformat(tokens[0].value)
    except ValueError as error:
        raise ValueError("a moment is ISO 8601, such as 2026-11-23 or 2026-11-23T08:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _bound(kind: object, tokens: Sequence[Token]) -> datetime | timedelta:
    text = tokens[0].value
    try:
        if _AGE.fullmatch(text):
            return timedelta(seconds=_seconds(kind, tokens))
        return _moment(kind, tokens)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            "a bound is an age such as 30d or 12h, or ISO 8601, such as 2026-11-23T08:00Z"
        ) from error


def _place(_: object, tokens: Sequence[Token]) -> Path:
    name = tokens[0].value
    if not name:  # would be the directory we are in
        raise ValueError("a name is needed")
    if name == "-":  # no output goes to stdout, and a file of that name is a trap
        raise ValueError("a name is needed; ./- is a file named -")
    return Path(name)


def _names(_: object, tokens: Sequence[Token]) -> list[str]:
    names = [name.strip() for token in tokens for name in token.value.split(",")]
    if not all(names):
        raise ValueError("a symbol is needed, or several with a comma between them")
    return names


def _part(_: object, tokens: Sequence[Token]) -> float:
    match = _SHARE.fullmatch(tokens[0].value)
    if match is None:
        raise ValueError("a share is a number up to 1, or in percent, such as 25%")
    return float(match[1]) / (100.0 if match[2] else 1.0)


def _weight_or_part(kind: object, tokens: Sequence[Token]) -> int | float:
    if _WEIGHT.fullmatch(tokens[0].value):
        return int(tokens[0].value)
    try:
        return _part(kind, tokens)
    except ValueError:
        raise ValueError("a reserve is a weight, such as 600, or a share, such as 25%") from None


def _level(_: object, tokens: Sequence[Token]) -> str:
    level = tokens[0].value.lower()
    if level not in get_args(Level):
        raise ValueError(f"a level is one of {', '.join(get_args(Level))}")
    return level


def _loopback_or_https(_: object, url: str | None) -> None:
    from binance_oi.exchange.hosts import check_base_url

    if url is not None:
        check_base_url(url)


def _one_on_the_command_line(arguments: ArgumentCollection) -> None:
    """Of options that exclude each other; one in the environment is only a default."""
    given = [a.name for a in arguments if any(token.source == "cli" for token in a.tokens)]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other")


def _one_format(arguments: ArgumentCollection) -> None:
    """The same, but `--csv-safe` is a kind of `--csv`."""
    names = {a.name for a in arguments if any(token.source == "cli" for token in a.tokens)}
    if "--csv" in names:
        names.discard("--csv-safe")
    if len(names) > 1:
        raise ValueError(f"{' and '.join(sorted(names))} exclude each other")


# -- single options --------------------------------------------------------------------------

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Order = Literal["name", "usd"]
"""Of the rows of a table."""
Movement = Literal["change", "total", "symbol"]
"""Of the lines of `watch`."""
Place = Annotated[Path, Parameter(converter=_place)]
Period = Annotated[float, Parameter(converter=_seconds, metavar="DURATION")]
Schedule = Annotated[
    float | None, Parameter(converter=_schedule, metavar="DURATION", show_default=lambda _: AUTO)
]
"""From sweep to sweep; None takes the shortest that fits."""
Moment = Annotated[datetime | None, Parameter(converter=_moment, metavar="MOMENT")]
Bound = Annotated[datetime | timedelta | None, Parameter(converter=_bound, metavar="AGE|MOMENT")]
"""An end of a stretch of the past."""
RowPeriod = Literal["5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d"]
"""From row to row of the past."""
Given = Annotated[list[str], Parameter(name="--symbol", negative=(), converter=_names)]
"""Symbols that a command needs."""
Symbols = Annotated[list[str] | None, Parameter(name="--symbol", negative=(), converter=_names)]
"""Symbols that a command may be limited to: after the command, or each after ``--symbol``."""


def _variable(name: str) -> Parameter:
    """The option has its default from the environment, and its help says so."""
    return Parameter(env_var=f"{VARIABLE}{name}")


def forget_empty_variables() -> None:
    """A variable that is empty counts as one that is not set."""
    for name in VARIABLES:
        if os.environ.get(name) == "":
            del os.environ[name]


# -- groups ----------------------------------------------------------------------------------

_end = Group("End", validator=_one_on_the_command_line, sort_key=1)
_exchange = Group("Exchange", validator=_one_on_the_command_line, sort_key=2)
_connection = Group("Connection", sort_key=3)
_limits = Group("Limits", sort_key=4)
_format = Group("Output", validator=_one_format, sort_key=5)
_log = Group("Log", sort_key=6)


@Parameter(name="*")
@dataclass(frozen=True)
class Source:
    """Where to read, and within which limits: for every command that sends."""

    simulated: Annotated[Flag, Parameter(group=_exchange)] = False
    """Start a local exchange for the length of this command, and read from it."""
    testnet: Annotated[Flag, Parameter(group=_exchange)] = False
    """Read from the exchange's testnet; its numbers are synthetic."""
    base_url: Annotated[
        str | None,
        Parameter(group=_exchange, validator=_loopback_or_https),
        _variable("BASE_URL"),
    ] = None
    """Read from here: https://host, or http:// to this machine."""
    proxy: Annotated[str | None, Parameter(group=_connection), _variable("PROXY")] = None
    """An HTTP proxy, http://[user:password@]host:port; it has a budget of its own."""
    local_address: Annotated[
        str | None, Parameter(group=_connection, metavar="IP"), _variable("LOCAL_ADDRESS")
    ] = None
    """The address of this machine to send from; each has a budget of its own."""
    reserve: Annotated[
        int | float | None,
        Parameter(group=_limits, converter=_weight_or_part, metavar="WEIGHT|SHARE"),
        _variable("RESERVE"),
    ] = None
    """What we leave unused of each minute: a weight such as 600, or a share; 1% without it."""
    share: Annotated[
        float | None,
        Parameter(group=_limits, converter=_part, metavar="SHARE"),
        _variable("SHARE"),
    ] = None
    """The most of the limit that we use ourselves, such as 50%."""
    max_wait: Annotated[Period | None, Parameter(group=_limits), _variable("MAX_WAIT")] = None
    """The longest that a request may wait for budget: 30s, 5m. Without it, as long as it takes."""
    timeout: Annotated[
        Period, Parameter(group=_limits, validator=Number(gt=0)), _variable("TIMEOUT")
    ] = 10.0
    """Seconds for one request and its retries; waiting for budget does not count."""
    log_level: Annotated[
        Level, Parameter(group=_log, converter=_level, metavar="LEVEL"), _variable("LOG_LEVEL")
    ] = "warning"
    """From which level on the library's log goes to stderr."""

    @contextmanager
    def client(self) -> "Generator[OpenInterestClient]":
        """A client of that exchange, which the caller closes.

        Raises:
            UsageError: No client can be made of these options.
        """
        log_from(self.log_level)
        if self.simulated:
            from binance_oi.simulator import LocalExchange

            with LocalExchange().in_thread() as exchange:
                yield self._client(exchange.url)
        else:
            yield self._client(self._base_url)

    @property
    def _base_url(self) -> str:
        from binance_oi.exchange.hosts import PRODUCTION, TESTNET

        return TESTNET if self.testnet else self.base_url or PRODUCTION

    def _client(self, base_url: str) -> "OpenInterestClient":
        from binance_oi.client import OpenInterestClient

        try:
            return OpenInterestClient(
                base_url=base_url,
                budget=self._budget(),
                timeout=self.timeout,
                max_wait=self.max_wait,
                proxy=None if self.simulated else self.proxy,
                local_address=None if self.simulated else self.local_address,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error

    def _budget(self) -> "Budget":
        from binance_oi.budget import MachineBudget, ProcessBudget
        from binance_oi.budget.pool import Options

        options = Options()
        if self.reserve is not None:
            options["reserve"] = self.reserve
        if self.share is not None:
            options["share"] = self.share
        # Nobody else can read from a simulated exchange, and a shared record would outlive it.
        return ProcessBudget(**options) if self.simulated else MachineBudget(**options)


@Parameter(name="*")
@dataclass(frozen=True)
class Span:
    """Which part of a recording, or of the past."""

    since: Moment = None
    """The earliest transaction time, ISO 8601, UTC unless it says otherwise."""
    until: Moment = None
    """Before this one."""

    def __bool__(self) -> bool:
        return self.since is not None or self.until is not None


@Parameter(name="*")
@dataclass(frozen=True)
class End:
    """When what runs for long stops by itself."""

    seconds: Annotated[
        Period | None, Parameter(name="--for", group=_end, validator=Number(gt=0))
    ] = None
    """Stop after so long: 90s, 2h, 7d."""
    until: Annotated[Moment, Parameter(group=_end)] = None
    """Stop at this moment, ISO 8601, UTC unless it says otherwise."""


@Parameter(name="*")
@dataclass(frozen=True)
class Output:
    """How to show it: a table on a terminal, JSON lines elsewhere, or as the user says."""

    json: Annotated[Flag, Parameter(group=_format)] = False
    """JSON Lines, also on a terminal."""
    csv: Annotated[Flag, Parameter(group=_format)] = False
    """CSV with a header."""
    csv_safe: Annotated[Flag, Parameter(group=_format)] = False
    """CSV in which no cell can be a formula, for spreadsheets."""

    def show(self, sheet: "Sheet", *, is_cut: bool = False, below: int = 0) -> None:
        """Print it to stdout; see `terminal.show`."""
        from binance_oi.cli.terminal import show

        show(
            sheet,
            as_json=self.json,
            as_csv=self.csv or self.csv_safe,
            csv_safe=self.csv_safe,
            is_cut=is_cut,
            below=below,
        )


VARIABLES = tuple(
    f"{VARIABLE}{name}"
    for name in (
        "BASE_URL",
        "PROXY",
        "LOCAL_ADDRESS",
        "RESERVE",
        "SHARE",
        "MAX_WAIT",
        "TIMEOUT",
        "LOG_LEVEL",
    )
)
