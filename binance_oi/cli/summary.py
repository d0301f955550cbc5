"""Writes the line that sums up a command to stderr.

The rule of this file: on a terminal, the line breaks only between words. In a pipe, it is one line.
An error stays one line everywhere, because a user may copy a path or a command from it.
"""

import sys

from rich.text import Text

from binance_oi.cli.screen import console
from binance_oi.cli.streams import PROGRAM, write_note


def write_summary(line: str) -> None:
    """Write one line to stderr; on a terminal, break it between words."""
    if not sys.stderr.isatty():
        write_note(line)
        return
    screen, begin = console(sys.stderr), f"{PROGRAM}: "
    rows = Text(f"{begin}{line}").wrap(screen, screen.width)
    write_note("\n".join(row.plain.rstrip() for row in rows).removeprefix(begin))
