"""Libraries that come with an extra.

The rule of this file: such a library is imported on first use. Its objects have no types, so they
stay in the module that imports them.
"""

import re
from importlib import import_module
from typing import Any

DISTRIBUTION = "binance-oi"


def library(name: str, extra: str) -> Any:
    """Import a module of a library that `extra` installs.

    Raises:
        ModuleNotFoundError: The library is missing; the message says what to install.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ModuleNotFoundError(
            f"this needs {package}: {command(extra, package)}", name=package
        ) from error


def command(extra: str, *otherwise: str) -> str:
    """The command that installs the libraries of an extra.

    It names the libraries and not our own package, so it also works for a copy of our package that
    comes from no index.

    Args:
        extra: The name of the extra.
        otherwise: The libraries to name if our package is not installed, or does not list any.
    """
    from importlib.metadata import PackageNotFoundError, requires  # slow to import

    try:
        found = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        found = []
    own = re.compile(rf"extra == ['\"]{re.escape(extra)}['\"]")
    named = [text.partition(";")[0].strip() for text in found if own.search(text)]
    return "pip install " + " ".join(f"'{each}'" for each in named or otherwise)
