"""Lines and text to the streams of the process, for every command; nothing here draws.

The rule of this file: results to stdout, everything else to stderr. A reader who leaves early is no
error. What every command needs is here, so it imports nothing but the standard library.
"""

import io
import logging
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final, TextIO

PROGRAM: Final = "binance-oi"


class Notes(logging.Handler):
    """What the library logs, as lines on stderr, above the bar while there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage())


@contextmanager
def warnings_to(keep: Callable[[str], object]) -> Generator[None]:
    """Warnings of the library go there: a screen of its own has no place for lines on stderr."""
    global _say
    before, _say = _say, keep
    try:
        yield
    finally:
        _say = before


def prepare() -> None:
    """Make the streams fit for symbols in any script, and show the library's warnings."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")
    log_from("warning")


def log_from(level: str) -> None:
    """Show what the library logs at that level and above."""
    logger, least = logging.getLogger("binance_oi"), logging.getLevelNamesMapping()[level.upper()]
    notes = [handler for handler in logger.handlers if isinstance(handler, Notes)]
    if not notes:
        notes = [Notes()]
        logger.addHandler(notes[0])
    notes[0].setLevel(least)
    if not logger.isEnabledFor(least):
        logger.setLevel(least)


def put(text: str) -> bool:
    """Write to stdout, now; False when nobody reads it any more."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            raise
        return False  # the reader has seen enough
    return True


def discard(stream: TextIO) -> None:
    """Drop what a stream that cannot be written still holds.

    Python writes it again when the process ends, fails again, and replaces the exit code with 120.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def drop_unwritten() -> None:
    """Drop what the streams still hold and cannot write, as on a terminal that is gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                discard(stream)


def complain(line: str) -> None:
    """One line on stderr."""
    try:
        print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)
    except OSError:  # stderr is full or closed; the exit code remains
        with suppress(OSError):
            discard(sys.stderr)


def prompt(question: str) -> str:
    """What somebody answers; empty when the input ends."""
    print(f"{PROGRAM}: {question}", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline()


_say: Callable[[str], object] = complain
