"""Open interest and mark prices that move, as pure functions of seed, symbol and time.

Nothing is stored and nothing is drawn at random later on: the same seed, symbol and moment
always give the same answer, so that a run can be repeated and two processes agree.
"""

from math import pi, sin
from random import Random

from binance_oi.simulator.universe import Symbol

# What the exchange reported: BTCUSDT 94,792-106,312 and ETHUSDT 2,273,930 (seen 2026-09/10).
_KNOWN = {"BTCUSDT": 97_000.0, "ETHUSDT": 2_270_000.0}
_SWINGS = ((0.0007, 660.0), (0.012, 18_000.0), (0.05, 260_000.0))  # share of the whole, period s
_GRAIN = 0.0004  # share of the whole by which one observation may differ from the next


class Market:
    """One contract: its open interest and its mark price over time."""

    __slots__ = (
        "_age_s",
        "_decimals",
        "_every_s",
        "_name",
        "_open_interest",
        "_price",
        "_salt",
        "_swings",
    )

    def __init__(self, seed: int, symbol: Symbol) -> None:
        # Seeded with text: hash() differs from process to process.
        draw = Random(f"{seed}/{symbol.name}")
        notional = 10 ** draw.uniform(5.7, 8.2)
        self._name = symbol.name
        self._decimals = symbol.quantity_precision
        self._price = symbol.price
        self._open_interest = _KNOWN.get(symbol.name, notional / symbol.price)
        self._every_s = draw.uniform(1.0, 3.0)
        self._age_s = draw.uniform(2.0, 5.9 - self._every_s)
        self._salt = draw.getrandbits(32)
        self._swings = tuple(
            (share, 2 * pi / (period * draw.uniform(0.8, 1.25)), draw.uniform(0, 2 * pi))
            for share, period in _SWINGS
        )

    def __repr__(self) -> str:
        return f"<Market {self._name}>"

    def open_interest(self, now: float) -> tuple[str, int]:
        """Open interest in the base asset, and the Unix ms at which it was so.

        The time is 2 to 6 s before `now` (Unix s), differs from symbol to symbol, and stands
        still for 1 to 3 s (Source: observed 2026-09). The same time means the same value.
        """
        turn = int((now - self._age_s) / self._every_s)
        return self._value(turn), int(turn * self._every_s * 1000)

    def open_interest_at(self, moment: float) -> str:
        """Open interest as it was at `moment` (Unix s): the latest value that is not later."""
        return self._value(int(moment / self._every_s))

    def _value(self, turn: int) -> str:
        moment = turn * self._every_s
        # The upper half of a product: the lower bits of a multiple hardly vary.
        grain = ((turn * 2_654_435_761 + self._salt) & 0xFFFF_FFFF) >> 16
        value = self._open_interest * (self._swing(moment) + _GRAIN * (grain / 65_536 - 0.5))
        return f"{value:.{self._decimals}f}"

    def mark_price(self, now: float) -> float:
        """Mark price in the quote asset at `now` (Unix s)."""
        return self._price * self._swing(now + self._salt)

    def _swing(self, moment: float) -> float:
        factor = 1.0
        for share, speed, phase in self._swings:
            factor += share * sin(speed * moment + phase)
        return factor
