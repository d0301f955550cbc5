"""Libraries that come with an extra.

The rule of this file: such a library is imported on first use. Its objects have no types, so they
stay in the module that imports them.
"""

from importlib import import_module
from typing import Any


def library(name: str, extra: str) -> Any:
    """Import a module of a library that `extra` installs.

    Raises:
        ModuleNotFoundError: It is missing; the message says what to install.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ModuleNotFoundError(
            f"this needs {package}: pip install 'binance-oi[{extra}]'", name=package
        ) from error
