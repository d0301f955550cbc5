"""Options that commands share, and the converters of their values.

The rule of this file: an option has the same name and meaning in every command that has it. The
command line overrides the environment.
"""

import os
import re
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, get_args

from cyclopts import ArgumentCollection, Group, Parameter, Token
from cyclopts.validators import Number

from binance_oi.cli.endings import UsageError
from binance_oi.cli.streams import log_from
from binance_oi.recorder.address import check_file, is_database

if TYPE_CHECKING:
    from binance_oi.budget import Budget
    from binance_oi.cli.render import Sheet
    from binance_oi.client import OpenInterestClient
    from binance_oi.market.archive import Archive
    from binance_oi.recorder.history_cache import HistoryCache

VARIABLE_PREFIX = "BINANCE_OI_"  # the names of our environment variables begin with it
Level = Literal["debug", "info", "warning", "error"]
AUTO = "auto"  # a value of `--every`
# Seconds in each unit. A number without a unit is in seconds.
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

_PERIOD = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h|d|)", re.ASCII)
_AGE = re.compile(r"[0-9]+(?:\.[0-9]+)?[smhd]", re.ASCII)
_WHOLE_DAYS = re.compile(r"0*([1-9][0-9]{0,5})d", re.ASCII)
_WEIGHT = re.compile(r"[0-9]+", re.ASCII)
_SHARE = re.compile(r"([0-9]*\.?[0-9]+)(%?)", re.ASCII)


# -- converters and validators ---------------------------------------------------------------


def _seconds(_: object, tokens: Sequence[Token]) -> float:
    match = _PERIOD.fullmatch(tokens[0].value)
    if match is None:
        raise ValueError("a period is a number with s, m, h or d, such as 20s")
    return float(match[1]) * UNITS[match[2]]


def _schedule(kind: object, tokens: Sequence[Token]) -> float | None:
    from binance_oi.market.schedule import period_ms

    text = tokens[0].value
    if text == AUTO:
        return None
    seconds = _seconds(kind, tokens)
    try:
        period_ms(seconds)
    except ValueError as error:
        raise ValueError(f"a schedule is at least 0.001s, and at most a year: {text}") from error
    return seconds


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
    if not name:  # `Path("")` would be the current directory
        raise ValueError("a name is needed")
    if name == "-":  # a user may expect that it means stdout
        raise ValueError("a name is needed; ./- is a file named -")
    return Path(name)


def _store(kind: object, tokens: Sequence[Token]) -> str | Path:
    name = tokens[0].value
    if is_database(name):
        return name
    place = _place(kind, tokens)
    check_file("a recording", name)
    return place


def _days(_: object, tokens: Sequence[Token]) -> int:
    match = _WHOLE_DAYS.fullmatch(tokens[0].value)
    if match is None:
        raise ValueError("an age in whole days is needed, such as 90d")
    return int(match[1])


def _names(_: object, tokens: Sequence[Token]) -> list[str]:
    names = [name.strip() for token in tokens for name in token.value.split(",")]
    if not all(names):
        raise ValueError("a symbol is needed, or several with a comma between them")
    return names


def _part(text: str) -> float | None:
    """Return a number or a percentage as a part of 1; None for other text."""
    match = _SHARE.fullmatch(text)
    return None if match is None else float(match[1]) / (100.0 if match[2] else 1.0)


def _share(_: object, tokens: Sequence[Token]) -> float:
    text = tokens[0].value
    part = _part(text)
    if part is None:
        raise ValueError("a share is a number up to 1, or a percentage such as 25%")
    if not 0.0 < part <= 1.0:
        raise ValueError(f"a share is above 0, and at most 1 or 100%: {text}")
    return part


def _weight_or_share(_: object, tokens: Sequence[Token]) -> int | float:
    text = tokens[0].value
    if _WEIGHT.fullmatch(text):
        return int(text)
    part = _part(text)
    if part is None:
        raise ValueError("a reserve is a weight, such as 600, or a share, such as 25%")
    if part >= 1.0:
        raise ValueError(f"a reserve is a weight, or a share below 1 or 100%: {text}")
    return part


def _window(_: object, tokens: Sequence[Token]) -> str:
    from binance_oi.market.windows import step_ms

    try:
        step_ms(tokens[0].value)
    except ValueError as error:
        raise ValueError("a window is 5m or a multiple of it, such as 1h or 24h") from error
    return tokens[0].value


def _level(_: object, tokens: Sequence[Token]) -> str:
    level = tokens[0].value.lower()
    if level not in get_args(Level):
        raise ValueError(f"a level is one of {', '.join(get_args(Level))}")
    return level


def _check_base_url(_: object, url: str | None) -> None:
    from binance_oi.exchange.hosts import check_base_url

    if url is not None:
        check_base_url(url)


def _one_on_the_command_line(arguments: ArgumentCollection) -> None:
    """Check that the command line has at most one of these options; ignore the environment."""
    given = [a.name for a in arguments if any(token.source == "cli" for token in a.tokens)]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other")


def _one_format(arguments: ArgumentCollection) -> None:
    """Check that the command line has at most one format; `--csv --csv-safe` is one."""
    names = {a.name for a in arguments if any(token.source == "cli" for token in a.tokens)}
    if "--csv" in names:
        names.discard("--csv-safe")
    if len(names) > 1:
        raise ValueError(f"{' and '.join(sorted(names))} exclude each other")


# -- single options --------------------------------------------------------------------------

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Order = Literal["name", "usd"]
"""The order of the rows of a table."""
Movement = Literal["change", "total", "window", "z", "symbol"]
"""The order of the lines of `watch`."""
Ranking = Literal["percent", "usd", "z", "symbol"]
"""The order of changes."""
Window = Annotated[str, Parameter(converter=_window, metavar="DURATION")]
"""The window of a change."""
Place = Annotated[Path, Parameter(converter=_place)]
Store = Annotated[str | Path, Parameter(converter=_store, metavar="FILE|URL")]
"""A recording: a file, or the URL of a database."""
Days = Annotated[int, Parameter(converter=_days, metavar="DAYS")]
"""Whole days, such as 90d."""
Rotation = Literal["day", "month"]
"""How much time one file of a recording covers."""
Period = Annotated[float, Parameter(converter=_seconds, metavar="DURATION")]
Schedule = Annotated[
    float | None, Parameter(converter=_schedule, metavar="DURATION", show_default=lambda _: AUTO)
]
"""Seconds from sweep to sweep; None chooses the shortest schedule that fits."""
Moment = Annotated[datetime | None, Parameter(converter=_moment, metavar="MOMENT")]
Bound = Annotated[datetime | timedelta | None, Parameter(converter=_bound, metavar="AGE|MOMENT")]
"""The beginning or the end of a stretch of the past."""
RowPeriod = Literal["5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d"]
"""The time between two rows of the past."""
RequiredSymbols = Annotated[list[str], Parameter(name="--symbol", negative=(), converter=_names)]
"""Symbols that a command requires."""
Symbols = Annotated[list[str] | None, Parameter(name="--symbol", negative=(), converter=_names)]
"""Symbols that a command accepts: after its name, or each after ``--symbol``."""


def variable(name: str) -> Parameter:
    """Let an option take its default from an environment variable, which its help names."""
    return Parameter(env_var=f"{VARIABLE_PREFIX}{name}")


def forget_empty_variables() -> None:
    """Remove our variables with an empty value from the environment, as if they were not set."""
    for name in VARIABLES:
        if os.environ.get(name) == "":
            del os.environ[name]


# -- groups ----------------------------------------------------------------------------------

_end = Group("End", validator=_one_on_the_command_line, sort_key=1)
_exchange = Group("Exchange", validator=_one_on_the_command_line, sort_key=2)
_archive = Group("Archive", sort_key=2)
_connection = Group("Connection", sort_key=3)
_limits = Group("Limits", sort_key=4)
_format = Group("Output", validator=_one_format, sort_key=5)
_log = Group("Log", sort_key=6)


ArchiveUrl = Annotated[str | None, Parameter(group=_archive, validator=_check_base_url)]
"""The URL of the public archive, for a command that also has a URL of the exchange."""
ArchiveFiles = Annotated[Path | None, Parameter(group=_archive, converter=_place)]
"""The directory of the archive's files."""
FromArchive = Annotated[Flag, Parameter(group=_archive)]
"""Whether to read the archive too."""


@Parameter(name="*")
@dataclass(frozen=True)
class Source:
    """The exchange to read, and the limits to keep, for every command that needs a client."""

    simulated: Annotated[Flag, Parameter(group=_exchange)] = False
    """Start a local exchange for this command, and read it. It has a budget of its own."""
    testnet: Annotated[Flag, Parameter(group=_exchange)] = False
    """Read the exchange's testnet; its numbers are synthetic."""
    base_url: Annotated[
        str | None,
        Parameter(group=_exchange, validator=_check_base_url),
        variable("BASE_URL"),
    ] = None
    """Read the exchange at this URL: https://host, or http:// on this machine."""
    proxy: Annotated[str | None, Parameter(group=_connection), variable("PROXY")] = None
    """An HTTP proxy, http://[user:password@]host:port. It has a budget of its own."""
    local_address: Annotated[
        str | None, Parameter(group=_connection, metavar="IP"), variable("LOCAL_ADDRESS")
    ] = None
    """Send from this IP address of the machine. Each but the default one has its own budget."""
    reserve: Annotated[
        int | float | None,
        Parameter(group=_limits, converter=_weight_or_share, metavar="WEIGHT|SHARE"),
        variable("RESERVE"),
    ] = None
    """How much of the limit to leave unused: a weight such as 600, or a share. Default: 1%."""
    share: Annotated[
        float | None,
        Parameter(group=_limits, converter=_share, metavar="SHARE"),
        variable("SHARE"),
    ] = None
    """The largest share of the limit to use, such as 50%."""
    budget: Annotated[str | None, Parameter(group=_limits, metavar="URL"), variable("BUDGET")] = (
        None
    )
    """The Redis or Valkey server with a budget that several machines share: redis://host."""
    egress: Annotated[str | None, Parameter(group=_limits, metavar="NAME"), variable("EGRESS")] = (
        None
    )
    """With --budget: a name for the public IP address, the same on all machines that share it."""
    max_wait: Annotated[Period | None, Parameter(group=_limits), variable("MAX_WAIT")] = None
    """The longest that a request may wait for the budget: 30s, 5m. By default, without limit."""
    timeout: Annotated[
        Period, Parameter(group=_limits, validator=Number(gt=0)), variable("TIMEOUT")
    ] = 10.0
    """The time for one request and its retries, without the wait for the budget: 10s, 1m."""
    log_level: Annotated[
        Level, Parameter(group=_log, converter=_level, metavar="LEVEL"), variable("LOG_LEVEL")
    ] = "warning"
    """The lowest level of log messages to print on stderr."""

    @contextmanager
    def client(self) -> "Generator[OpenInterestClient]":
        """Make a client of the chosen exchange; the caller closes the client.

        Raises:
            UsageError: The client refuses these options, or they need a library that is missing.
        """
        log_from(self.log_level)
        if self.simulated:
            from binance_oi.simulator import LocalExchange

            with LocalExchange().in_thread() as exchange:
                yield self._client(exchange.url)
        else:
            yield self._client(self._base_url)

    def cache(self) -> "HistoryCache":
        """Return the cache of recent history; a local exchange for this command has none."""
        from binance_oi.recorder.history_cache import HistoryCache

        return HistoryCache(None) if self.simulated else HistoryCache.of(self._base_url)

    @property
    def _base_url(self) -> str:
        from binance_oi.exchange.hosts import PRODUCTION, TESTNET

        return TESTNET if self.testnet else self.base_url or PRODUCTION

    def _client(self, base_url: str) -> "OpenInterestClient":
        from binance_oi.client import OpenInterestClient

        proxy = None if self.simulated else check_proxy(self.proxy)
        try:
            return OpenInterestClient(
                base_url=base_url,
                budget=self._budget(),
                timeout=self.timeout,
                max_wait=self.max_wait,
                proxy=proxy,
                local_address=None if self.simulated else self.local_address,
            )
        except (ValueError, ModuleNotFoundError) as error:
            raise UsageError(str(error)) from error

    def _budget(self) -> "Budget":
        from binance_oi.budget import MachineBudget, ProcessBudget
        from binance_oi.budget.pool import Options

        options = Options()
        if self.reserve is not None:
            options["reserve"] = self.reserve
        if self.share is not None:
            options["share"] = self.share
        shared = None if self.simulated else check_shared(self.budget, self.egress)
        if shared is not None:
            from binance_oi.budget.redis import RedisBudget

            return RedisBudget(shared.budget, egress=shared.egress, **options)
        # Only this process reads its simulated exchange, so it needs no shared budget.
        return ProcessBudget(**options) if self.simulated else MachineBudget(**options)


def check_proxy(proxy: str | None) -> str | None:
    """Return the URL of the proxy; None stays None.

    Raises:
        UsageError: It cannot be the URL of an HTTP proxy. The message does not repeat it, because
            it may have a password.
    """
    from binance_oi.exchange import hosts

    try:
        return hosts.check_proxy(proxy)
    except ValueError as error:
        raise UsageError(
            "--proxy must be an HTTP proxy: http://[user:password@]host[:port] or https://..."
        ) from error


class Shared(NamedTuple):
    """A budget that several machines share."""

    budget: str
    """The URL of its server."""
    egress: str
    """The name of the public IP address."""


def check_shared(budget: str | None, egress: str | None) -> Shared | None:
    """Return the shared budget that the two options name; None if neither is given.

    Raises:
        UsageError: One option is given without the other.
    """
    if budget is None and egress is None:
        return None
    if egress is None:
        raise UsageError("--budget needs --egress: a name for the public address of this machine")
    if budget is None:
        raise UsageError("--egress needs --budget: the server of the budget that machines share")
    return Shared(budget, egress)


@Parameter(name="*")
@dataclass(frozen=True)
class ArchiveSource:
    """The public archive to read."""

    simulated: Annotated[Flag, Parameter(group=_exchange)] = False
    """Start a local exchange for this command, and read its archive."""
    archive_url: Annotated[str | None, Parameter(group=_exchange, validator=_check_base_url)] = None
    """The URL of the archive, or of a mirror: https://host, or http:// on this machine."""
    proxy: Annotated[str | None, Parameter(group=_connection), variable("PROXY")] = None
    """An HTTP proxy, http://[user:password@]host:port."""
    log_level: Annotated[
        Level, Parameter(group=_log, converter=_level, metavar="LEVEL"), variable("LOG_LEVEL")
    ] = "warning"
    """The lowest level of log messages to print on stderr."""

    @contextmanager
    def archive(self, cache: Path) -> "Generator[Archive]":
        """Make an archive with this cache; the caller closes the archive.

        Raises:
            UsageError: `--proxy` cannot be the URL of an HTTP proxy.
        """
        from binance_oi.exchange.archive import PUBLIC_ARCHIVE
        from binance_oi.market.archive import Archive

        log_from(self.log_level)
        if self.simulated:
            from binance_oi.simulator import LocalExchange

            with LocalExchange().in_thread() as exchange:
                yield Archive(cache, base_url=exchange.url)
        else:
            url = self.archive_url or PUBLIC_ARCHIVE
            yield Archive(cache, base_url=url, proxy=check_proxy(self.proxy))


@Parameter(name="*")
@dataclass(frozen=True)
class Span:
    """A range of transaction times."""

    since: Moment = None
    """The earliest transaction time, ISO 8601, in UTC unless it has an offset."""
    until: Moment = None
    """Only transaction times before this one."""

    def __bool__(self) -> bool:
        return self.since is not None or self.until is not None


@Parameter(name="*")
@dataclass(frozen=True)
class End:
    """The time at which a long command stops by itself."""

    seconds: Annotated[
        Period | None, Parameter(name="--for", group=_end, validator=Number(gt=0))
    ] = None
    """Stop after this time: 90s, 2h, 7d."""
    until: Annotated[Moment, Parameter(group=_end)] = None
    """Stop at this moment, ISO 8601, in UTC unless it has an offset."""


@Parameter(name="*")
@dataclass(frozen=True)
class Output:
    """The format of the output. The default is a table on a terminal, and JSON lines elsewhere."""

    json: Annotated[Flag, Parameter(group=_format)] = False
    """Print JSON Lines, even on a terminal."""
    csv: Annotated[Flag, Parameter(group=_format)] = False
    """Print CSV with a header."""
    csv_safe: Annotated[Flag, Parameter(group=_format)] = False
    """Print CSV with an apostrophe before cells that a spreadsheet would run as a formula."""

    @property
    def is_table(self) -> bool:
        """Whether the output is a table: on a terminal, without an option for another format."""
        return sys.stdout.isatty() and not (self.json or self.csv or self.csv_safe)

    def show(self, sheet: "Sheet", *, is_cut: bool = False, below: int = 0) -> None:
        """Print a sheet to stdout; see `terminal.show`."""
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
    f"{VARIABLE_PREFIX}{name}"
    for name in (
        "BASE_URL",
        "PROXY",
        "LOCAL_ADDRESS",
        "RESERVE",
        "SHARE",
        "BUDGET",
        "EGRESS",
        "MAX_WAIT",
        "TIMEOUT",
        "LOG_LEVEL",
    )
)
