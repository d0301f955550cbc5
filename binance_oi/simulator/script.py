"""What is still to happen to answers, in the order of the commands that asked for it.

The rule of this file: no I/O and no clock; an effect that is used up is forgotten.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["fail", "drop", "delay", "hide"]


@dataclass(eq=False)
class Effect:
    """Something that happens to the next answers."""

    kind: Kind
    left: int | None
    """To how many; None: to all."""
    symbol: str | None = None
    status: int = 0
    seconds: float = 0.0


class Script:
    """Effects that are still to come, in the order of their commands."""

    def __init__(self) -> None:
        self._effects: list[Effect] = []

    @property
    def is_empty(self) -> bool:
        return not self._effects

    def add(self, effect: Effect) -> None:
        self._effects.append(effect)

    def take(self, kind: Kind, symbol: str | None) -> Effect | None:
        """The first effect of that kind for a request; it is used up by one."""
        for effect in self._effects:
            if effect.kind == kind and effect.symbol in (None, symbol):
                if effect.left is not None:
                    effect.left -= 1
                    if effect.left == 0:
                        self._effects.remove(effect)
                return effect
        return None

    def clear(self, kind: Kind | None = None) -> None:
        """Forget effects: those of one kind, or all."""
        self._effects = [] if kind is None else [e for e in self._effects if e.kind != kind]
