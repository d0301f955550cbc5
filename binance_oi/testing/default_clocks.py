"""Replaces the default clocks for code that passes no clock, such as an example in the README.

The rule of this file: it changes the default values of parameters, and nothing else.
"""

import sys
import time
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import TYPE_CHECKING

from binance_oi.budget import pool as budget

if TYPE_CHECKING:
    import pytest

Clock = Callable[[], float]


def package_functions() -> Iterator[FunctionType]:
    """Every function and plain method of the package's imported modules."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "binance_oi":
            for value in list(vars(module).values()):
                members = vars(value).values() if isinstance(value, type) else (value,)
                yield from (member for member in members if isinstance(member, FunctionType))


def replace_default_clocks(
    monkeypatch: "pytest.MonkeyPatch", *, steady: Clock, wall: Clock
) -> list[str]:
    """Replace default clocks: monotonic ones by `steady`, Unix time by `wall`.

    Returns the names of the changed functions.
    """
    instead: dict[object, Clock] = {
        time.time: wall,
        time.monotonic: steady,
        budget.steady_clock: steady,
    }

    def replaced(value: object) -> object:
        return instead.get(value, value) if callable(value) else value

    changed: list[str] = []
    for function in set(package_functions()):
        positional, named = function.__defaults__ or (), function.__kwdefaults__ or {}
        others = tuple(map(replaced, positional)), {name: replaced(named[name]) for name in named}
        if others != (positional, named):
            monkeypatch.setattr(function, "__defaults__", others[0] or None)
            monkeypatch.setattr(function, "__kwdefaults__", others[1] or None)
            changed.append(function.__qualname__)
    return sorted(changed)
