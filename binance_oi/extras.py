"""Libraries that only an extra brings.

The rule of this file: such a library is imported when it is used. Its objects carry no types, and
none of them leaves the module that asked for it.
"""

from importlib import import_module
from typing import Any


def library(name: str, extra: str) -> Any:
    """A module of a library that the extra brings.

    Raises:
        ModuleNotFoundError: It is missing; the text says what to install.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ModuleNotFoundError(
            f"this needs {package}: pip install 'binance-oi[{extra}]'", name=package
        ) from error
