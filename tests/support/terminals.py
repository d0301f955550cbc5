"""A process on a pseudo-terminal of a given size.

Rule of this file: all three streams are the terminal, and its size is what the kernel says.
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
ERASED = "\x1b[2K"  # what was in a line that a bar has left


def seen_on_a_terminal(
    *arguments: str,
    columns: int = 80,
    lines: int = 24,
    term: str = "xterm",
    until: Callable[[str], bool] = lambda _: False,
    answer_to: tuple[str, bytes] | None = None,
    env: dict[str, str] | None = None,
) -> tuple[int, str]:
    """Run `binance-oi` there; its exit code, and all that it wrote.

    Args:
        arguments: Of the command.
        columns: Of the terminal.
        lines: Of the terminal.
        term: The kind of the terminal.
        until: Asked with what was written so far; when it is true, Ctrl-C follows.
        answer_to: A question, and what is typed when it is there.
        env: More of the environment.
    """
    if sys.platform == "win32":
        pytest.skip("terminals of POSIX")
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
    """The lines that stay when a bar is gone, without colours."""
    return CONTROL.sub("", seen.rpartition(ERASED)[2]).replace("\r", "").split("\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so when the last process has left
        return b""
