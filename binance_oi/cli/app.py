"""The program and its help.

The rule of this file: to print help, the program does not import the modules that do the work.
"""

import inspect
import re
from collections.abc import Callable
from typing import ParamSpec

from cyclopts import App

from binance_oi import __version__
from binance_oi.cli.endings import EXIT_CODE_MEANINGS
from binance_oi.cli.streams import PROGRAM

EPILOGUE = "\n".join(
    [
        "Exit codes:",
        *(f"{code:>5} {text}" for code, text in EXIT_CODE_MEANINGS.items()),
        "",
        "BINANCE_OI_BUDGET_DIR names another directory for the budgets of this machine.",
    ]
)

app: App = App(
    name=PROGRAM,
    version=f"{PROGRAM} {__version__}",
    help="Open interest of Binance USDⓈ-M Futures, without ever being rate-limited or banned.",
    help_epilogue=EPILOGUE,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)

_P = ParamSpec("_P")


def command(function: Callable[_P, int]) -> Callable[_P, int]:
    """Register a function as a command: its docstring becomes the help."""
    app.command(function, help=paragraphs(function.__doc__ or ""))
    function.__doc__ = with_long_lines(function.__doc__ or "")
    return function


def with_long_lines(docstring: str) -> str:
    """Return a docstring in which the text about each argument is one line, however long."""
    return re.sub(r"\n {8,}", " ", inspect.cleandoc(docstring))


def paragraphs(docstring: str) -> str:
    """Return the text of a docstring before its arguments, with each paragraph on one line.

    The help page can then wrap the text at the width of the terminal.
    """
    text = inspect.cleandoc(docstring).partition("\n\nArgs:")[0]
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
