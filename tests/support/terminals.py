"""A process on a pseudo-terminal of a given size.

Rule of this file: standard input, output and error are the terminal. The kernel knows its size.
"""

import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest

if sys.platform != "win32":
    import fcntl
    import termios

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ERASED = "\x1b[2K"  # erases the line of a progress bar


def seen_on_a_terminal(
    *arguments: str,
    columns: int = 80,
    lines: int = 24,
    term: str = "xterm",
    until: Callable[[str], bool] = lambda _: False,
    answer_to: tuple[str, bytes] | None = None,
    env: dict[str, str] | None = None,
) -> tuple[int, str]:
    """Run `binance-oi` on a terminal; return its exit code and its whole output.

    Args:
        arguments: The arguments of the command.
        columns: The width of the terminal.
        lines: The height of the terminal.
        term: The kind of the terminal.
        until: Gets the output so far. Once it returns true, Ctrl-C is sent.
        answer_to: A question, and the text that is typed when the question appears.
        env: Additional variables of the environment.
    """
    if sys.platform == "win32":
        pytest.skip("needs a POSIX terminal")
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    dropped = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    environment = {k: v for k, v in os.environ.items() if k not in dropped}
    command = [sys.executable, "-m", "binance_oi", *arguments]
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": term} | (env or {}),
    ) as process:
        os.close(theirs)
        seen, is_interrupted = b"", False
        while piece := _read(ours):
            seen += piece
            if answer_to is not None and answer_to[0].encode() in seen:
                os.write(ours, answer_to[1])
                answer_to = None
            if not is_interrupted and until(seen.decode(errors="replace")):
                is_interrupted = True
                process.send_signal(signal.SIGINT)
    os.close(ours)
    return process.returncode, seen.decode()


def left_on_screen(seen: str) -> list[str]:
    """The lines that are left when the progress bar is erased, without colours."""
    return CONTROL.sub("", seen.rpartition(ERASED)[2]).replace("\r", "").split("\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux raises it when the last process has closed the terminal
        return b""
