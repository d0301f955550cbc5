"""Writes lines and text to the streams of the process.

The rule of this file: results go to stdout, and everything else to stderr. It is not an error if
the reader of a pipe closes it early. Every command imports this file, so it imports only the
standard library.
"""

import io
import logging
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final, TextIO

PROGRAM: Final = "binance-oi"


class StdoutError(OSError):
    """Stdout cannot be written, for example because its disk is full."""


class Notes(logging.Handler):
    """Writes log messages of the library as lines on stderr, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        _write_log(record.getMessage())


@contextmanager
def warnings_to(keep: Callable[[str], object]) -> Generator[None]:
    """Send log messages to `keep`, not to stderr, while a command draws on the whole terminal."""
    global _write_log
    before, _write_log = _write_log, keep
    try:
        yield
    finally:
        _write_log = before


def prepare() -> None:
    """Let the streams accept every Unicode character, and show the library's warnings."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the parent process closed it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")
    log_from("warning")


def log_from(level: str) -> None:
    """Show log messages of the library at this level and above."""
    logger, least = logging.getLogger("binance_oi"), logging.getLevelNamesMapping()[level.upper()]
    notes = [handler for handler in logger.handlers if isinstance(handler, Notes)]
    if not notes:
        notes = [Notes()]
        logger.addHandler(notes[0])
    notes[0].setLevel(least)
    if not logger.isEnabledFor(least):
        logger.setLevel(least)


def write_out(text: str) -> bool:
    """Write to stdout and flush; return False if the reader has closed the pipe.

    Raises:
        StdoutError: Stdout cannot be written for another reason.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            text = f"stdout cannot be written: {error.strerror or error}"
            raise StdoutError(text) from error
        return False
    return True


def discard(stream: TextIO) -> None:
    """Drop the buffer of a stream that cannot be written.

    If the buffer stayed, Python would try to write it when the process ends, fail, and change the
    exit code to 120.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def drop_unwritten() -> None:
    """Drop the buffers that cannot be written, for example because the terminal was closed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                discard(stream)


def write_note(line: str) -> None:
    """Write one line to stderr."""
    try:
        print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)
    except OSError:  # stderr is full or closed; the exit code is enough
        with suppress(OSError):
            discard(sys.stderr)


def prompt(question: str) -> str:
    """Ask on stderr, and return the answer; empty if the input ends."""
    print(f"{PROGRAM}: {question}", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline()


_write_log: Callable[[str], object] = write_note
