"""Other clocks for code that takes the default ones, such as a block of the README.

Rule of this file: it changes what a parameter is when nobody gives it, and nothing else.
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


def functions() -> Iterator[FunctionType]:
    """Every function and method of the package, as far as it is imported."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "binance_oi":
            for value in list(vars(module).values()):
                members = vars(value).values() if isinstance(value, type) else (value,)
                yield from (member for member in members if isinstance(member, FunctionType))


def replace_default_clocks(
    monkeypatch: "pytest.MonkeyPatch", *, steady: Clock, wall: Clock
) -> list[str]:
    """Replace monotonic clocks by `steady` and Unix time by `wall`; return whose they are."""
    instead: dict[object, Clock] = {
        time.time: wall,
        time.monotonic: steady,
        budget.steady_clock: steady,
    }

    def other(value: object) -> object:
        return instead.get(value, value) if callable(value) else value

    changed: list[str] = []
    for function in set(functions()):
        positional, named = function.__defaults__ or (), function.__kwdefaults__ or {}
        others = tuple(map(other, positional)), {name: other(named[name]) for name in named}
        if others != (positional, named):
            monkeypatch.setattr(function, "__defaults__", others[0] or None)
            monkeypatch.setattr(function, "__kwdefaults__", others[1] or None)
            changed.append(function.__qualname__)
    return sorted(changed)
