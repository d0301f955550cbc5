"""Finds the schedules that fit into a budget, for a number of symbols.

The rule of this file: pure arithmetic over its arguments. A schedule fits if its weight per minute,
plus the weight that all earlier pollers need, is within the budget. Example: 840 symbols every
60 s take 840 weight per minute. Every 20 s they take 2520, which does not fit into 2376.
"""

import math
from typing import NamedTuple

from binance_oi.budget.usage import Usage
from binance_oi.exchange.limits import WEIGHT
from binance_oi.exchange.routes import OPEN_INTEREST, PREMIUM_INDEX
from binance_oi.market.listing import LISTING_AGE

# The schedules from which we choose. The user may request any other.
AUTOMATIC = (5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # s from slot to slot
GROWTH = 0.1  # share of the symbols: we prefer a schedule with room for this many new ones
USUAL_SYMBOLS = 840  # symbols to plan for if we could not read the list: the number in 2026-11


class MisfitError(ValueError):
    """A schedule does not fit into the budget.

    Args:
        text: The message, with the numbers.
        possible: The shortest schedule that would fit, in whole seconds; None if none would.
    """

    def __init__(self, text: str, possible: int | None = None) -> None:
        super().__init__(text, possible)
        self.possible: int | None = possible

    def __str__(self) -> str:
        return str(self.args[0])


class Load(NamedTuple):
    """The symbols that one sweep reads, and whether it reads mark prices."""

    symbols: int
    notional: bool

    @property
    def weight(self) -> int:
        """The weight of one sweep.

        Source: [D] one request of weight 1 for each symbol, and one of 10 for all mark prices.
        """
        prices = PREMIUM_INDEX.weight if self.notional else 0
        return self.symbols * OPEN_INTEREST.weight + prices

    @property
    def grown(self) -> "Load":
        """The load with a tenth more symbols (`GROWTH`)."""
        return self._replace(symbols=math.ceil(self.symbols * (1.0 + GROWTH)))

    def rate(self, every: float) -> float:
        """Return the weight per minute, including the weight of reading the list of symbols."""
        return self.weight * WEIGHT.seconds / every + _listing(every)


class Room(NamedTuple):
    """The weight that pollers may use."""

    usage: Usage
    """The state of the budget."""
    others: float
    """Weight per minute that other pollers need."""

    @property
    def budget(self) -> int:
        """The weight per minute for all pollers together.

        Source: [D] 2400 weight per minute and IP.
        """
        usage = self.usage
        return int(min(usage.limit - usage.reserve, usage.share, usage.sustained))

    def fits(self, load: Load, every: float) -> bool:
        """Whether a sweep of `load` every `every` seconds fits into the budget."""
        return load.rate(every) <= self.budget - self.others

    def shortest(self, load: Load, above: float = 0.0) -> float | None:
        """Return the shortest schedule in `AUTOMATIC` that fits and is above `above` s, if any."""
        longer = (every for every in AUTOMATIC if every > above)
        return next((every for every in longer if self.fits(load, every)), None)

    def misfit(self, load: Load, every: float) -> MisfitError:
        """Return the error for a schedule that does not fit; it names one that would, if any."""
        usage, left = self.usage, self.budget - self.others - _listing(every)
        possible = math.ceil(load.weight * WEIGHT.seconds / left) if left > 0.0 else None
        rate = load.weight * WEIGHT.seconds / every
        others = f", other polls take {self.others:.0f}" if self.others else ""
        advice = f"every {possible} s is possible" if possible else "no schedule fits"
        text = (
            f"{load.symbols} symbols every {every:g} s take {rate:.0f} weight a minute, and the "
            f"budget is {self.budget} (limit {usage.limit}, reserve {usage.reserve}, "
            f"share {usage.share}{others}); {advice}"
        )
        return MisfitError(text, possible)


def _listing(every: float) -> float:
    """Return the weight per minute of reading the list of symbols."""
    return WEIGHT.seconds / max(LISTING_AGE, every)
