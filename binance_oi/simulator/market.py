"""Computes open interest and mark prices that move over time.

The rule of this file: the same seed, symbol and moment always give the same answer, so runs can be
repeated and two processes agree. A test can change later answers: it can fix a value, or make the
value jump.
"""

from decimal import Decimal
from math import pi, sin
from random import Random
from typing import NamedTuple

from binance_oi.simulator.universe import Symbol

# Open interest near the values of the exchange, in units of the base asset: BTCUSDT 94,792 to
# 106,312, and ETHUSDT 2,273,930 (seen in 2026-09 and 2026-10).
_KNOWN = {"BTCUSDT": 97_000.0, "ETHUSDT": 2_270_000.0}
_SWINGS = ((0.0007, 660.0), (0.012, 18_000.0), (0.05, 260_000.0))  # share of the mean, period s
_GRAIN = 0.0004  # share of the mean by which one observation may differ from the next


class _Step(NamedTuple):
    """A change that a test makes to open interest, from an instant on."""

    since_ms: int
    factor: float = 1.0
    """The product of all jumps so far."""
    fixed: str | None = None


class Market:
    """One contract: its open interest and its mark price over time."""

    __slots__ = (
        "_age_s",
        "_decimals",
        "_every_s",
        "_name",
        "_open_interest",
        "_price",
        "_prices",
        "_salt",
        "_steps",
        "_swings",
    )

    def __init__(self, seed: int, symbol: Symbol) -> None:
        # Unlike `hash`, `Random` makes the same numbers from a text in every process.
        draw = Random(f"{seed}/{symbol.name}")
        notional = 10 ** draw.uniform(5.7, 8.2)
        self._name = symbol.name
        self._decimals = symbol.quantity_precision
        self._price = symbol.price
        self._open_interest = _KNOWN.get(symbol.name, notional / symbol.price)
        self._every_s = draw.uniform(1.0, 3.0)
        self._age_s = draw.uniform(2.0, 5.9 - self._every_s)
        self._salt = draw.getrandbits(32)
        self._steps = [_Step(0)]
        self._prices: list[tuple[float, str]] = []  # fixed prices, each with its first instant
        self._swings = tuple(
            (share, 2 * pi / (period * draw.uniform(0.8, 1.25)), draw.uniform(0, 2 * pi))
            for share, period in _SWINGS
        )

    def __repr__(self) -> str:
        return f"<Market {self._name}>"

    def open_interest(self, now: float) -> tuple[str, int]:
        """Open interest in the base asset, and the Unix ms of its observation.

        The time is 2 to 6 s before `now` (Unix s) and differs between symbols. It stays the same
        for 1 to 3 s (Source: observed 2026-09). After `fix`, it stays that of `fix` until the next
        change. The same time means the same value.
        """
        return self._value(int((now - self._age_s) / self._every_s), self._steps[-1])

    def open_interest_at(self, moment: float) -> str:
        """Open interest at `moment` (Unix s): the latest value observed by then."""
        ms = moment * 1000
        step = next(step for step in reversed(self._steps) if step.since_ms <= ms)
        return self._value(int(moment / self._every_s), step)[0]

    def _value(self, turn: int, step: _Step) -> tuple[str, int]:
        if step.fixed is not None:
            return step.fixed, step.since_ms
        moment = turn * self._every_s
        time = int(moment * 1000)
        if time < step.since_ms:
            time, moment = step.since_ms, step.since_ms / 1000
            turn = int(moment / self._every_s)
        # Take the upper half of the product: its lower bits repeat after few turns.
        grain = ((turn * 2_654_435_761 + self._salt) & 0xFFFF_FFFF) >> 16
        value = self._open_interest * (self._swing(moment) + _GRAIN * (grain / 65_536 - 0.5))
        value *= step.factor
        return f"{value:.{self._decimals}f}", time

    def fix(self, value: str, now: float) -> None:
        """Fix open interest at `value`, as an observation of `now` (Unix s)."""
        self._steps.append(_Step(self._later_than_before(now), self._steps[-1].factor, value))

    def jump(self, share: float, now: float) -> None:
        """Change open interest by a share of itself, as an observation of `now` (Unix s)."""
        time, before = self._later_than_before(now), self._steps[-1]
        fixed = None
        if before.fixed is not None:
            jumped = Decimal(before.fixed) * Decimal(repr(1.0 + share))
            fixed = f"{jumped:.{self._decimals}f}"
        self._steps.append(_Step(time, before.factor * (1.0 + share), fixed))

    def fix_price(self, price: str, now: float) -> None:
        """Fix the mark price at `price` from `now` (Unix s) on."""
        self._prices.append((now, price))

    def _later_than_before(self, now: float) -> int:
        """Unix ms of `now`, but at least 1 ms after the current observation.

        So no two values have the same time.
        """
        return max(int(now * 1000), self.open_interest(now)[1] + 1)

    def mark_price_text(self, moment: float) -> str:
        """Mark price in the quote asset at `moment` (Unix s), as the exchange writes it."""
        fixed = next((price for since, price in reversed(self._prices) if since <= moment), None)
        return fixed or f"{self.mark_price(moment):.8f}"

    def mark_price(self, now: float) -> float:
        """Mark price in the quote asset at `now` (Unix s), without regard to `fix_price`."""
        return self._price * self._swing(now + self._salt)

    def _swing(self, moment: float) -> float:
        factor = 1.0
        for share, speed, phase in self._swings:
            factor += share * sin(speed * moment + phase)
        return factor
