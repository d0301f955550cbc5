"""The command line: arguments in, tables or JSON lines out, errors to exit codes.

`commands` reads arguments and decides the exit code, `render` turns values into text and touches
nothing, `terminal` is the only module that writes. Needs the extra ``cli`` (cyclopts and rich).
"""

from binance_oi.cli.commands import main

__all__ = ["main"]
