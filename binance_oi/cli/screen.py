"""Rich's view of a stream, as the command line wants it.

The rule of this file: colours are for terminals, and ``NO_COLOR`` means none. Help needs nothing
else, so nothing else is imported here.
"""

import os
from typing import TextIO

from rich.console import Console


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the program with 1."""
        raise BrokenPipeError


def console(stream: TextIO | None) -> Console:
    """Rich's view of a stream; None follows stdout. Its own `no_color` would keep bold."""
    plain = bool(os.environ.get("NO_COLOR"))
    return _Console(file=stream, color_system=None if plain else "auto", highlight=False)


def redraws(stream: TextIO) -> bool:
    """Whether a stream is a terminal on which a picture can take the place of another.

    Not one that moves no cursor (``TERM=dumb``), and no pipe for which somebody forces colours.
    """
    screen = console(stream)
    return stream.isatty() and screen.is_terminal and not screen.is_dumb_terminal
