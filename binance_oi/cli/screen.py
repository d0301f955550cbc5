"""Makes rich's view of a stream, with the settings of the command line.

The rule of this file: a terminal gets colours; a pipe gets them only with ``FORCE_COLOR``.
``NO_COLOR`` turns them off. Even ``--help`` imports this file, so the file imports only rich.
"""

import os
from typing import TextIO

from rich.console import Console


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error; rich would end the program with exit code 1."""
        raise BrokenPipeError


def console(stream: TextIO | None) -> Console:
    """Make rich's view of a stream; with None, it uses the current stdout."""
    plain = bool(os.environ.get("NO_COLOR"))  # rich's own `no_color` would keep bold text
    return _Console(file=stream, color_system=None if plain else "auto", highlight=False)


def redraws(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can redraw its screen.

    A terminal without a cursor (``TERM=dumb``) cannot, nor can a pipe with forced colours.
    """
    screen = console(stream)
    return stream.isatty() and screen.is_terminal and not screen.is_dumb_terminal
