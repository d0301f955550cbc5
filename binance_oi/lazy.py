"""Public names that are imported when they are used first.

The rule of this file: importing a package imports none of its parts. `binance-oi --version` needs
no aiohttp, and who reads a recording needs no client.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module


def on_first_use(package: str, homes: Mapping[str, Iterable[str]]) -> Callable[[str], object]:
    """The `__getattr__` of a package that imports its public names when somebody asks for them.

    Args:
        package: Its full name.
        homes: For each module of the package, relative to it, the names that it provides. The
            modules themselves, and the folders that they are in, are attributes as well.
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
        setattr(sys.modules[package], name, value)  # the next use finds it without us
        return value

    return find
