"""How often so many symbols can be read: what fits into a budget, beside other pollers.

The rule of this file: pure arithmetic over what somebody else has found out. A schedule fits when
its weight in a minute, and that of all pollers that were there before, is within the budget.
"""

import math
from typing import NamedTuple

from binance_oi.budget.usage import Usage
from binance_oi.exchange.limits import WEIGHT
from binance_oi.exchange.routes import OPEN_INTEREST, PREMIUM_INDEX
from binance_oi.market.listing import LISTING_AGE

AUTOMATIC = (5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # s
GROWTH = 0.1  # the part by which the market may grow before a schedule that we choose is too fast
USUAL = 840  # symbols that trade (2026-11): the plan while no list of them could be read


class MisfitError(ValueError):
    """A schedule does not fit into the budget.

    Args:
        text: The numbers.
        possible: The shortest schedule that would fit, whole seconds; None when none does.
    """

    def __init__(self, text: str, possible: int | None = None) -> None:
        super().__init__(text, possible)
        self.possible: int | None = possible

    def __str__(self) -> str:
        return str(self.args[0])


class Load(NamedTuple):
    """What one sweep reads."""

    symbols: int
    notional: bool

    @property
    def weight(self) -> int:
        """Of one sweep.

        Source: [D] one request of weight 1 for each symbol, and one of 10 for all mark prices.
        """
        prices = PREMIUM_INDEX.weight if self.notional else 0
        return self.symbols * OPEN_INTEREST.weight + prices

    @property
    def grown(self) -> "Load":
        """With room for more symbols."""
        return self._replace(symbols=math.ceil(self.symbols * (1.0 + GROWTH)))

    def rate(self, every: float) -> float:
        """Weight a minute, with what the list of symbols costs."""
        return self.weight * WEIGHT.seconds / every + _listing(every)


class Room(NamedTuple):
    """What pollers may use."""

    usage: Usage
    others: float
    """Weight a minute that other pollers need."""

    @property
    def budget(self) -> int:
        """Weight a minute, of all pollers together.

        Source: [D] 2400 weight per minute and IP.
        """
        usage = self.usage
        return int(min(usage.limit - usage.reserve, usage.share, usage.sustained))

    def fits(self, load: Load, every: float) -> bool:
        """Whether `load` can be read every so many seconds."""
        return load.rate(every) <= self.budget - self.others

    def shortest(self, load: Load, above: float = 0.0) -> float | None:
        """The shortest of the automatic schedules longer than `above` s that fits; None if none."""
        longer = (every for every in AUTOMATIC if every > above)
        return next((every for every in longer if self.fits(load, every)), None)

    def misfit(self, load: Load, every: float) -> MisfitError:
        """Why `load` cannot be read every so many seconds, and what could be done."""
        usage, left = self.usage, self.budget - self.others - _listing(every)
        possible = math.ceil(load.weight * WEIGHT.seconds / left) if left > 0.0 else None
        rate = load.weight * WEIGHT.seconds / every
        others = f", other polls take {self.others:.0f}" if self.others else ""
        advice = f"every {possible} s is possible" if possible else "that is too little for any"
        text = (
            f"{load.symbols} symbols every {every:g} s take {rate:.0f} weight a minute, and the "
            f"budget is {self.budget} (limit {usage.limit}, reserve {usage.reserve}, "
            f"share {usage.share}{others}); {advice}"
        )
        return MisfitError(text, possible)


def _listing(every: float) -> float:
    """Weight a minute of the list of symbols."""
    return WEIGHT.seconds / max(LISTING_AGE, every)
