"""Imports each public name on its first use.

The rule of this file: importing a package imports none of its parts. `binance-oi --version` does
not import aiohttp, and a program that reads a recording does not import the client.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module


def on_first_use(package: str, homes: Mapping[str, Iterable[str]]) -> Callable[[str], object]:
    """Make the `__getattr__` of a package: it imports each public name on its first use.

    Args:
        package: The full name of the package.
        homes: The names that each module provides, by the module's name relative to the package.
            The first part of each module's name also becomes an attribute of the package.
    """
    origin = {name: f"{package}.{module}" for module, names in homes.items() for name in names}
    folders = {module.partition(".")[0] for module in homes}

    def find(name: str) -> object:
        if name in origin:
            value: object = getattr(import_module(origin[name]), name)
        elif name in folders:
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)  # the next use does not call `find`
        return value

    return find
