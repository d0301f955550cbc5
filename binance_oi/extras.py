"""Imports libraries that come with an extra.

The rule of this file: such a library is imported on first use. Its objects have no types, so they
stay in the module that imports them.
"""

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

    The command also works if our package did not come from an index: pip keeps the installed copy,
    and adds the libraries that the copy lists for the extra.

    Args:
        extra: The name of the extra.
        otherwise: The libraries to name if our package is not installed, or lacks the extra.
    """
    from importlib.metadata import PackageNotFoundError, metadata  # slow to import

    try:
        known = metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    except PackageNotFoundError:
        known = []
    names = [f"{DISTRIBUTION}[{extra}]"] if extra in known else otherwise
    return "pip install " + " ".join(f"'{each}'" for each in names)
