"""Arguments in, exit code out.

The rule of this file: a command reads, then shows everything at once, and says with its exit code
what the caller should do next. Nothing is shown of a command that was interrupted.
"""

import asyncio
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from types import FrameType
from typing import Annotated

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.validators import Number, mutually_exclusive

from binance_oi.budget import Budget, MachineBudget, ProcessBudget, machine_pools
from binance_oi.budget.place import budget_directory
from binance_oi.budget.pool_file import FILE_NAME
from binance_oi.budget.usage import Usage
from binance_oi.cli.render import (
    Sheet,
    explain,
    notional_sheet,
    pools_sheet,
    summary,
    symbols_sheet,
    values_sheet,
)
from binance_oi.cli.terminal import (
    PROGRAM,
    complain,
    console,
    discard,
    drop_unwritten,
    prepare,
    progress,
    put,
    show,
)
from binance_oi.client import OpenInterestClient
from binance_oi.errors import (
    BannedError,
    BinanceOIError,
    BudgetExhaustedError,
    DecodeError,
    InvalidSymbolError,
    RateLimitedError,
    ResponseError,
    TransportError,
)
from binance_oi.exchange.hosts import PRODUCTION, TESTNET, check_base_url
from binance_oi.exchange.models import ExchangeInfo
from binance_oi.market.plan import MisfitError
from binance_oi.market.snapshot import Snapshot
from binance_oi.simulator import LocalExchange, Steady

OK, UNEXPECTED, USAGE, LIMITED, EXCHANGE, NETWORK, SOME_FAILED, LOST = range(8)
HUNG_UP, INTERRUPTED = 129, 130  # 128 + SIGHUP, 128 + SIGINT, as shells say it
SIGHUP = getattr(signal, "SIGHUP", None)  # Windows has none: the terminal is closed

_BEFORE_AT = re.compile(r"\S*@")

app: App = App(
    name=PROGRAM,
    version=lambda: f"{PROGRAM} {version(PROGRAM)}",
    help="Open interest of Binance USDⓈ-M Futures, without ever being rate-limited or banned.",
    help_epilogue=(
        "Exit codes: 0 ok, 1 unexpected, 2 usage, 3 limited or banned, 4 exchange error, "
        "5 network, 6 some symbols failed, 7 sweeps were lost, 130 interrupted, 143 terminated, "
        "129 hung up."
    ),
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    console=console(None),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: Without the program's name; None takes those of the process.
    """
    prepare()
    with _terminable() as ended:
        code = _run(arguments)
    if SIGHUP in ended:
        drop_unwritten()
        if code == UNEXPECTED:  # it could not write to a terminal that is gone
            code = INTERRUPTED
    return 128 + ended[0] if ended and code == INTERRUPTED else code


@contextmanager
def _terminable() -> Generator[list[int]]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does; gives the signals seen.

    So the cursor comes back, and no unfinished file stays. A signal that is ignored (``nohup``)
    stays ignored.
    """
    ended: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        again = number == SIGHUP and number in ended
        ended.append(number)
        if again:  # the kernel and a shell both send it; a second Ctrl-C would break off the end
            return
        interrupt = signal.getsignal(signal.SIGINT)  # asyncio's own while it runs
        if callable(interrupt):
            interrupt(number, frame)
        else:  # ignored, as in the background of a shell
            _interrupt()

    if threading.current_thread() is not threading.main_thread():
        yield ended
        return
    numbers = [number for number in (signal.SIGTERM, SIGHUP) if number is not None]
    numbers = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield ended
    finally:
        for number in numbers:
            if signal.getsignal(number) is end:
                hung_up = number == SIGHUP and number in ended  # and another one may come
                signal.signal(number, signal.SIG_IGN if hung_up else signal.SIG_DFL)


def _interrupt() -> None:
    """What asyncio does at Ctrl-C, where Ctrl-C is ignored."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise KeyboardInterrupt from None

    def cancel() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    loop.call_soon_threadsafe(cancel)  # an exception would end whatever runs just now


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code: int | None = app(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        complain(f"{without_secrets(str(error))} (see {PROGRAM} --help)")
        return USAGE
    except MisfitError as error:
        complain(f"{error}: {without_secrets(fitting(arguments, error.possible))}")
        return USAGE
    except BinanceOIError as error:
        complain(explain(error))
        return exit_code(error)
    except BrokenPipeError:  # the reader has seen enough
        discard(sys.stdout)
        return OK
    except OSError as error:  # stdout is full
        complain(str(error))
        with suppress(OSError):
            put("")  # a full stdout drops what it still holds of a help page
        return UNEXPECTED
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    return code or OK


def fitting(arguments: Sequence[str] | None, possible: int | None) -> str:
    """The command with a schedule that fits.

    Args:
        arguments: Of the command whose schedule does not; None takes those of the process.
        possible: The shortest schedule that fits, s; None when none does.
    """
    if possible is None:
        return "read fewer symbols"
    words = list(sys.argv[1:] if arguments is None else arguments)
    while "--every" in words:
        at = words.index("--every")
        del words[at : at + 2]
    kept = [word for word in words if not word.startswith("--every=")]
    return shlex.join([PROGRAM, *kept, "--every", f"{possible}s"])


def without_secrets(text: str) -> str:
    """`text` with nothing left of what stands before an ``@``, as a password in a URL does."""
    return _BEFORE_AT.sub('"***@', text)


def exit_code(error: BinanceOIError) -> int:
    """What kind of error it is, for a script."""
    match error:
        case InvalidSymbolError():
            return USAGE
        case BannedError() | RateLimitedError() | BudgetExhaustedError():
            return LIMITED
        case ResponseError() | DecodeError():
            return EXCHANGE
        case TransportError():
            return NETWORK
        case _:
            return UNEXPECTED


def snapshot_code(snapshot: Snapshot) -> int:
    """Some failed; or all of them, and then for which reason if it is one."""
    codes = {exit_code(error) for error in snapshot.errors.values()}
    if not codes:
        return OK if snapshot.notional_error is None else SOME_FAILED
    return SOME_FAILED if snapshot or len(codes) > 1 else codes.pop()


# -- arguments -------------------------------------------------------------------------------


def _loopback_or_https(_: object, url: str) -> None:
    check_base_url(url)


_exchange = Group("Exchange", validator=mutually_exclusive)
_format = Group("Output", validator=mutually_exclusive)
_limits = Group("Limits")
_Flag = Parameter(negative=(), show_default=False)


@Parameter(name="*")
@dataclass(frozen=True)
class Source:
    """Where to read, and for how long."""

    simulated: Annotated[bool, _Flag, Parameter(group=_exchange)] = False
    """Start a local exchange for the length of this command, and read from it."""
    testnet: Annotated[bool, _Flag, Parameter(group=_exchange)] = False
    """Read from the exchange's testnet; its numbers are synthetic."""
    base_url: Annotated[str, Parameter(group=_exchange, validator=_loopback_or_https)] = PRODUCTION
    """Read from here: https://host, or http:// to this machine."""
    max_wait: Annotated[float | None, Parameter(group=_limits, validator=Number(gte=0))] = None
    """Seconds that a request may wait for budget; without it, as long as it takes."""
    timeout: Annotated[float, Parameter(group=_limits, validator=Number(gt=0))] = 10.0
    """Seconds for one request and its retries; waiting for budget does not count."""

    @contextmanager
    def client(self) -> Generator[OpenInterestClient]:
        """A client of that exchange, which the caller closes."""
        if self.simulated:
            with LocalExchange().in_thread() as exchange:
                # Nobody else can read from it, and a shared record would outlive it by a day.
                yield self._client(exchange.url, ProcessBudget())
        else:
            yield self._client(TESTNET if self.testnet else self.base_url, MachineBudget())

    def _client(self, base_url: str, budget: Budget) -> OpenInterestClient:
        return OpenInterestClient(
            base_url=base_url, budget=budget, timeout=self.timeout, max_wait=self.max_wait
        )


@Parameter(name="*")
@dataclass(frozen=True)
class Output:
    """How to show it: a table on a terminal, JSON lines elsewhere, or as told."""

    json: Annotated[bool, _Flag, Parameter(group=_format)] = False
    """JSON Lines, also on a terminal."""
    csv: Annotated[bool, _Flag, Parameter(group=_format)] = False
    """CSV with a header."""

    def show(self, sheet: Sheet) -> None:
        """Print it to stdout."""
        show(sheet, as_json=self.json, as_csv=self.csv)


# -- commands --------------------------------------------------------------------------------


@app.command
def get(
    *symbols: Annotated[str, Parameter(required=True)],
    source: Source = Source(),
    output: Output = Output(),
) -> int:
    """Open interest of some symbols.

    Args:
        symbols: Such as BTCUSDT; lower case will do.
    """
    return _read(symbols, source, output)


@app.command
def snapshot(
    *symbols: str,
    notional: Annotated[bool, _Flag] = False,
    source: Source = Source(),
    output: Output = Output(),
) -> int:
    """Open interest of the whole market, or of some symbols.

    Args:
        symbols: Without any: every symbol that is trading.
        notional: Also the mark price, and open interest in units of the quote asset.
    """
    return _read(symbols or None, source, output, notional=notional)


@app.command
def symbols(
    *,
    source: Source = Source(),
    output: Output = Output(),
) -> int:
    """Every symbol that is trading."""
    with source.client() as client:
        listed = asyncio.run(_exchange_info(client)).symbols
    output.show(symbols_sheet(s for s in listed if s.status == "TRADING"))
    return OK


@app.command
def budget(*, output: Output = Output()) -> int:
    """The budget of every exchange that this machine reads from. Sends nothing.

    The last line names the file that all processes of this user share.
    """
    path = budget_directory() / FILE_NAME
    pools = machine_pools()
    output.show(pools_sheet(pools))
    if pools:
        complain(f"from {path}")
    else:
        complain(f"no budget has been used on this machine yet; the file will be {path}")
    return OK


@app.command
def simulate(
    *,
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 0,
    limit: Annotated[int, Parameter(validator=Number(gt=0))] = 2400,
    used: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    others: Annotated[float, Parameter(validator=Number(gte=0))] = 0.0,
    latency: Annotated[float, Parameter(validator=Number(gte=0))] = 0.0,
    seed: int = 0,
) -> int:
    """Run a local exchange until interrupted; the first line is its URL.

    Args:
        port: Port on 127.0.0.1; 0 takes a free one.
        limit: Weight allowed in a minute.
        used: Weight already used in the first minute.
        others: Weight that others use each second.
        latency: Seconds from request to answer.
        seed: Seed of everything that varies.
    """
    steady = Steady(others) if others else None
    return asyncio.run(
        _serve(
            LocalExchange(
                port=port, limit=limit, used=used, others=steady, latency=latency, seed=seed
            ),
            port,
        )
    )


def _read(
    symbols: Sequence[str] | None, source: Source, output: Output, *, notional: bool = False
) -> int:
    with source.client() as client:
        market, usage = asyncio.run(_snapshot(client, symbols, notional))
    if market or not market.errors:
        output.show(notional_sheet(market) if notional else values_sheet(market.values()))
    for symbol, error in market.errors.items():
        complain(f"{symbol}: {explain(error)}")
    if market.notional_error is not None:
        complain(f"mark prices: {explain(market.notional_error)}")
    complain(summary(market, usage))
    return snapshot_code(market)


async def _snapshot(
    client: OpenInterestClient, symbols: Sequence[str] | None, notional: bool
) -> tuple[Snapshot, Usage]:
    async with client, progress(client) as on_progress:
        market = await client.snapshot(symbols, notional=notional, on_progress=on_progress)
        return market, client.usage


async def _exchange_info(client: OpenInterestClient) -> ExchangeInfo:
    async with client:
        return await client.exchange_info()


async def _serve(exchange: LocalExchange, port: int) -> int:
    async with AsyncExitStack() as running:
        try:
            await running.enter_async_context(exchange)
        except OSError as error:
            if not port:
                raise
            why = os.strerror(error.errno) if error.errno else str(error)
            complain(f"--port {port} on 127.0.0.1 cannot be used: {why}")
            return USAGE
        put(f"{exchange.url}\n")
        await asyncio.Event().wait()
    return OK
