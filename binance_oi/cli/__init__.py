"""The command line: arguments in, tables or JSON lines out, errors to exit codes.

`commands` reads arguments and decides the exit code, `recording` and `watching` add their commands
to it, `render` turns values into text and touches nothing, `terminal` is the only module that
writes. Needs the extra ``cli`` (cyclopts and rich).
"""

from binance_oi.cli import recording, watching
from binance_oi.cli.commands import main

__all__ = ["main", "recording", "watching"]
