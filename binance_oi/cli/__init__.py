"""The command line: arguments in, tables or JSON lines out, errors to exit codes.

`commands` reads arguments and decides the exit code, `recording`, `watching` and `history` add
their commands to it, `render` turns values into text and touches nothing, `terminal` is the only
module that writes. Needs the extra ``cli`` (cyclopts and rich).
"""

from binance_oi.cli import history, recording, watching
from binance_oi.cli.commands import main

__all__ = ["history", "main", "recording", "watching"]
