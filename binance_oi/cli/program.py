"""Runs one command, from the arguments to the exit code.

The rule of this file: however a command ends, its exit code shows what the caller should do next.
After an interruption, no command except `watch` prints a part of its result.
"""

import re
import shlex
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType
from typing import TYPE_CHECKING

from binance_oi import __version__
from binance_oi.cli.endings import (
    INTERRUPTED,
    OK,
    SIGHUP,
    UNEXPECTED,
    USAGE,
    UsageError,
    exit_code,
    explain,
)
from binance_oi.cli.streams import (
    PROGRAM,
    StdoutError,
    discard,
    drop_unwritten,
    prepare,
    write_note,
    write_out,
)
from binance_oi.errors import BinanceOIError

if TYPE_CHECKING:
    from cyclopts import MissingArgumentError

_NEGATIVE = re.compile(r"-[0-9.]+(?:ms|[smhd%])?", re.ASCII)
# A word, without its quotes and the punctuation after it.
_WORD = re.compile(r"(?<!\S)([\"']?)(\S+?)([\"']?[:;,.)]*)(?!\S)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: The arguments without the program's name; None takes those of the process.
    """
    prepare()
    with _terminable() as ended:
        code = _run(sys.argv[1:] if arguments is None else arguments)
    if SIGHUP in ended:
        drop_unwritten()
        if code == UNEXPECTED:  # the command could not write to the closed terminal
            code = INTERRUPTED
    return 128 + ended[0] if ended and code == INTERRUPTED else code


@contextmanager
def _terminable() -> Generator[list[int]]:
    """Let SIGTERM and SIGHUP interrupt a command as Ctrl-C does; yield a list of received signals.

    The command can then restore the cursor and remove unfinished files. If the process ignores a
    signal (``nohup``), it stays ignored.
    """
    ended: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        again = number == SIGHUP and number in ended
        ended.append(number)
        # The kernel and the shell both send SIGHUP. A second interrupt would stop the clean-up.
        if again:
            return
        interrupt = signal.getsignal(signal.SIGINT)  # while asyncio runs, it is asyncio's handler
        if callable(interrupt):
            interrupt(number, frame)
        else:  # a shell lets background processes ignore SIGINT
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
                hung_up = number == SIGHUP and number in ended  # a second SIGHUP may come
                signal.signal(number, signal.SIG_IGN if hung_up else signal.SIG_DFL)


def _interrupt() -> None:
    """Interrupt the command as asyncio does at Ctrl-C, for a process that ignores SIGINT."""
    if "asyncio" not in sys.modules:  # so no event loop runs
        raise KeyboardInterrupt
    import asyncio

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise KeyboardInterrupt from None

    def cancel() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    loop.call_soon_threadsafe(cancel)  # to raise here would interrupt arbitrary code


def _run(arguments: Sequence[str]) -> int:
    try:
        return _command(arguments)
    except UsageError as error:
        write_note(f"{error}{_advice(arguments, error.__cause__)}")
        return USAGE
    except BinanceOIError as error:
        write_note(explain(error))
        return exit_code(error)
    except BrokenPipeError:  # the reader of stdout has closed the pipe
        discard(sys.stdout)
        return OK
    except OSError as error:
        text = str(error)
        try:
            write_out("")  # the rest of a help page may wait in the buffer; a failed flush drops it
        except StdoutError as found:
            text = str(found)
        write_note(text)
        return UNEXPECTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseException as error:
        if _is_cancelled(error):
            return INTERRUPTED
        raise


def _command(arguments: Sequence[str]) -> int:
    """Run the command in the arguments.

    Raises:
        UsageError: The arguments are not a valid command.
    """
    if list(arguments) == ["--version"]:  # needs no other import
        write_out(f"{PROGRAM} {__version__}\n")
        return OK
    from cyclopts import (
        CycloptsError,
        MissingArgumentError,
        UnusedCliTokensError,
        ValidationError,
    )

    from binance_oi.cli.commands import app
    from binance_oi.cli.options import forget_empty_variables
    from binance_oi.cli.screen import console

    forget_empty_variables()
    app.console = console(None)
    try:
        code: int | None = app(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        text = str(error)
        if isinstance(error, UnusedCliTokensError):
            text = f"unexpected: {' '.join(error.unused_tokens or ())}{_hint(arguments)}"
        elif isinstance(error, MissingArgumentError):
            text = _missing(error, arguments)
        elif isinstance(error, ValidationError) and error.group is not None:
            text = error.exception_message  # it names the options; the group says nothing more
        raise UsageError(f"{without_secrets(text)} (see {_help(arguments)})") from None
    return code or OK


def _help(arguments: Sequence[str]) -> str:
    """Return the command that prints the help about these arguments."""
    from binance_oi.cli.commands import app

    is_command = arguments[0] in app and not arguments[0].startswith("-")
    return f"{PROGRAM} {arguments[0]} --help" if is_command else f"{PROGRAM} --help"


def _missing(error: "MissingArgumentError", arguments: Sequence[str]) -> str:
    """Return what the command needs, or what the option needs that has no value."""
    if error.keyword is None:
        name = error.argument.name if error.argument is not None else ""
        needed = "a symbol, such as BTCUSDT" if name == "--symbol" else name
        return f"{arguments[0]} needs {needed}"
    words = [after for word, after in pairwise(arguments) if word == error.keyword]
    if words and _NEGATIVE.fullmatch(words[-1]):  # it looks like an option
        return f"{error.keyword} must not be below 0: {words[-1]}"
    return f"{error.keyword} needs a value"


def _advice(arguments: Sequence[str], cause: BaseException | None) -> str:
    """Return what to do if the schedule does not fit into the budget; otherwise an empty text."""
    if "binance_oi.market.plan" not in sys.modules:
        return ""
    from binance_oi.market.plan import MisfitError

    if not isinstance(cause, MisfitError):
        return ""
    return f": {fitting_command([*map(_without_secret, arguments)], cause.possible)}"


def fitting_command(arguments: Sequence[str], possible: int | None) -> str:
    """Return the command with a schedule that fits; if none does, return other advice.

    Args:
        arguments: The arguments of the command whose schedule does not fit.
        possible: The shortest schedule that fits, s; None if none does.
    """
    if possible is None:
        return "read fewer symbols"
    words = list(arguments)
    while "--every" in words:
        at = words.index("--every")
        del words[at : at + 2]
    kept = [word for word in words if not word.startswith("--every=")]
    return shlex.join([PROGRAM, *kept, "--every", f"{possible}s"])


def _hint(arguments: Sequence[str]) -> str:
    """Return how to pass symbols, if the unused words are probably symbols; otherwise empty."""
    is_named = any(each == "--symbol" or each.startswith("--symbol=") for each in arguments)
    return "; put symbols after the command, or each after --symbol" if is_named else ""


def _is_cancelled(error: BaseException) -> bool:
    """Whether a signal cancelled the task of a command."""
    if "asyncio" not in sys.modules:
        return False
    from asyncio import CancelledError

    return isinstance(error, CancelledError)


def without_secrets(text: str) -> str:
    """Replace the parts of each word in which a URL may have a password.

    These are the part before the last ``@``, and the parameters. Quotes around the word stay.
    """
    return _WORD.sub(lambda word: f"{word[1]}{_without_secret(word[2])}{word[3]}", text)


def _without_secret(word: str) -> str:
    begin, scheme, _ = word.partition("://")
    _, at, host = word.rpartition("@")
    if not scheme:
        return f"***@{host}" if at else word
    if at and "?" in word and "?" not in host:  # it is unclear where the host begins
        return f"{begin}://***"
    shown, mark, _ = (f"***@{host}" if at else word).partition("?")
    return f"{shown}?***" if mark else shown
