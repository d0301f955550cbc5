"""Keeps the effects that a test's `Commands` will have on the next answers.

The rule of this file: no I/O and no clock. `Script.take` removes an effect that is used up.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["fail", "drop", "delay", "hide"]


@dataclass(eq=False)
class Effect:
    """An effect on the next answers."""

    kind: Kind
    left: int | None
    """How many more answers it affects; None for all."""
    symbol: str | None = None
    status: int = 0
    seconds: float = 0.0


class Script:
    """The pending effects, the oldest first."""

    def __init__(self) -> None:
        self._effects: list[Effect] = []

    @property
    def is_empty(self) -> bool:
        return not self._effects

    def add(self, effect: Effect) -> None:
        self._effects.append(effect)

    def take(self, kind: Kind, symbol: str | None) -> Effect | None:
        """Return the first effect of that kind for a request, and use it once; None without one."""
        for effect in self._effects:
            if effect.kind == kind and effect.symbol in (None, symbol):
                if effect.left is not None:
                    effect.left -= 1
                    if effect.left == 0:
                        self._effects.remove(effect)
                return effect
        return None

    def clear(self, kind: Kind | None = None) -> None:
        """Remove the effects of one kind, or all."""
        self._effects = [] if kind is None else [e for e in self._effects if e.kind != kind]
