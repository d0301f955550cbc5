"""Computes how open interest changes over windows of time, and how unusual a change is.

The rule of this file: a change is the difference of two existing rows, one at each end of its
window. If one of them is missing, there is no change; we interpolate nothing. Differences are exact
decimals. Only ratios and statistics are floats. To say how unusual a change is, we compare it with
the changes of the same symbol and window that end in the 7 days before it. A *sample* is a value
that a poll has read; some samples become rows. Only in `ChangeTracker.latest` may a window end with
a sample that is not a row.

`changes_of` reads existing rows, and a `ChangeTracker` follows a poll. Both run the same code, so
from the same rows they compute the same values. The memory for a symbol has a fixed size.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Context, Decimal
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple, Protocol

from binance_oi.encoding import Encodable
from binance_oi.market.spread import Spread
from binance_oi.market.windows import WINDOWS, Length, label, length_ms, step_ms, windows_ms

USUAL_MS = 7 * 86_400_000  # ms; we compare a change with those that end in this time before it
LATE_MS = 60_000  # ms after an instant; we assume that by then every earlier sample has arrived
# A notional is the product of two numbers of 60 digits, so it has up to 120 digits. The difference
# of two may have one more.
_EXACTLY = Context(prec=150)


class Observation(Protocol):
    """A row of a series or of a history: open interest of a symbol at one instant."""

    @property
    def symbol(self) -> str:
        """The symbol."""
        ...

    @property
    def time(self) -> int:
        """The instant, Unix ms."""
        ...

    @property
    def open_interest(self) -> Decimal:
        """The open interest, in units of the base asset."""
        ...

    @property
    def notional(self) -> Decimal | None:
        """The open interest in units of the quote asset; None if it is unknown."""
        ...

    @property
    def circulating_supply(self) -> Decimal | None:
        """The circulating supply of the base asset; None if it is unknown."""
        ...


class _Change(NamedTuple):
    symbol: str
    """The symbol."""
    window: str
    """The length of the window in minutes or hours: ``5m``, ``24h``."""
    time: int
    """The end of the window, Unix ms."""
    open_interest: Decimal
    """The open interest at the end of the window, in units of the base asset."""
    absolute: Decimal
    """The exact change of the open interest, in units of the base asset."""
    percent: float | None
    """The change in percent of the open interest at the beginning of the window. None if that open
    interest was 0 or less, or if the result is too large for a float."""
    usd: Decimal | None
    """The exact change of the notional, in units of the quote asset. This includes the effect of a
    changed price. None if the notional is unknown at either end."""
    per_supply: float | None
    """The change as a share of the circulating supply; 0.01 is one percent. We take the supply at
    the end of the window or, if that is unknown or 0, the supply at the beginning. None if both
    supplies are unknown or 0."""
    z_score: float | None
    """How many standard deviations `percent` is above the mean of the compared changes. None if
    there are fewer than 200 of them, if all are equal, or if `percent` is None."""
    percentile: float | None
    """The percentage of compared changes that are smaller, from 0 to 100; equal ones count half.
    None if there are fewer than 200 compared changes, or if `percent` is None."""
    compared: int
    """The number of compared changes, which are the changes of this symbol and window that end in
    the 7 days before this change. 0 if `percent` is None."""


class Change(_Change, Encodable):
    """The change of one symbol's open interest over one window."""

    __slots__ = ()


class _Row(NamedTuple):
    time: int
    open_interest: Decimal
    notional: Decimal | None
    supply: Decimal | None
    is_live: bool = False


class _Plan(NamedTuple):
    """The windows to compute. Each length is a number of steps."""

    step: int
    """The step, ms."""
    windows: tuple[int, ...]
    """The length of each window."""
    usual: int
    """The length of 7 days; compared changes end within that time."""
    labels: Mapping[int, str]
    """The name of each window, such as ``5m``, by its length."""

    @classmethod
    def of(cls, windows: Sequence[Length], step: Length) -> "_Plan":
        ms = step_ms(step)
        slots = tuple(window // ms for window in windows_ms(windows, ms))
        return cls(ms, slots, USUAL_MS // ms, {slot: label(slot * ms) for slot in slots})


def changes_of(
    rows: Iterable[Observation], windows: Sequence[Length] = WINDOWS, *, step: Length = "5m"
) -> Iterator[Change]:
    """Yield the changes that end at each row, one for each window, in the order of `windows`.

    If there is no row at the beginning of a window, there is no change. Memory does not grow with
    the number of rows.

    Args:
        rows: The rows, sorted by symbol and time, with each instant once, such as a
            `Recording.series` or a `History`. The function ignores rows whose time is not a
            multiple of the step.
        windows: The lengths of the windows, multiples of the step.
        step: The time from row to row: 5 minutes or a multiple of them.

    Raises:
        TypeError: A length has another type.
        ValueError: A length is out of range, or is not a multiple. During iteration: the rows of a
            symbol are not sorted by time.
    """
    return _changes(rows, _Plan.of(windows, step))


def _changes(rows: Iterable[Observation], plan: _Plan) -> Iterator[Change]:
    for symbol, of_symbol in groupby(rows, attrgetter("symbol")):
        track = _Track(symbol, plan)
        for row in of_symbol:
            if row.time % plan.step == 0:
                track.add(_row(row))
                for window in plan.windows:
                    change = track.settled(window)
                    if change is not None:
                        yield change


def _row(row: Observation) -> _Row:
    return _Row(row.time, row.open_interest, row.notional, row.circulating_supply)


class ChangeTracker:
    """Follows the changes of many symbols during a poll.

    Call `fill` with the past of a symbol, then `observe` with each new sample. An instant is a
    multiple of the step. The row of an instant is the last sample at or before it, if that sample
    is at most one step old, as in `Recording.series`. Samples may arrive up to 60 s out of order.

    Each symbol needs memory for a row per step of the longest window. In addition, each of its
    windows needs 16 bytes for each step in 7 days (32 KiB with steps of 5 minutes).

    Args:
        windows: The lengths of the windows, multiples of the step.
        step: The time from row to row: 5 minutes or a multiple of them.

    Raises:
        TypeError: A length has another type.
        ValueError: A length is out of range, or is not a multiple.
    """

    def __init__(self, windows: Sequence[Length] = WINDOWS, *, step: Length = "5m") -> None:
        self._plan = _Plan.of(windows, step)
        self._tracks: dict[str, _Track] = {}

    @property
    def windows(self) -> tuple[str, ...]:
        """The windows, as `Change.window` names them."""
        return tuple(self._plan.labels.values())

    @property
    def step(self) -> int:
        """The time from row to row, ms."""
        return self._plan.step

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every symbol that the tracker follows."""
        return tuple(self._tracks)

    def fill(self, symbol: str, rows: Iterable[Observation]) -> None:
        """Set the past of a symbol. Samples that the tracker has observed already stay.

        Args:
            symbol: The symbol.
            rows: All known rows, in any order; 7 days plus the longest window are enough.
                The tracker ignores a row whose time is not a multiple of the step. It also ignores
                a row if a sample is the row of that instant already, or may still become it.
        """
        step = self._plan.step
        found = {row.time: _row(row) for row in rows if row.time % step == 0}
        track = _Track(symbol, self._plan)
        before = self._tracks.get(symbol)
        if before is not None:
            found = {time: row for time, row in found.items() if not before.is_open(time)}
            found |= {row.time: row for row in before.live_rows()}
        for time in sorted(found):
            track.add(found[time])
        self._tracks[symbol] = track
        if before is not None:
            track.take_samples(before)

    def observe(
        self,
        symbol: str,
        time: int,
        open_interest: Decimal,
        *,
        notional: Decimal | None = None,
        circulating_supply: Decimal | None = None,
    ) -> None:
        """Add one sample. The same sample again changes nothing.

        Args:
            symbol: The symbol.
            time: The exchange's transaction time, Unix ms.
            open_interest: The open interest, in units of the base asset.
            notional: The open interest in units of the quote asset; None if it is unknown.
            circulating_supply: The circulating supply of the base asset; None if it is unknown.
        """
        track = self._tracks.get(symbol)
        if track is None:
            track = self._tracks[symbol] = _Track(symbol, self._plan)
        track.observe(_Row(time, open_interest, notional, circulating_supply, is_live=True))

    def forget(self, symbol: str) -> None:
        """Drop a symbol, for example one that the exchange delisted."""
        self._tracks.pop(symbol, None)

    def settled(self, symbol: str, window: Length) -> Change | None:
        """Return the change that ends at the latest instant whose row no late sample can change.

        It equals the change that `changes_of` computes from the same rows. None if the row at one
        end of the window is missing.

        Raises:
            TypeError: `window` has another type.
            ValueError: The tracker does not have this window.
        """
        slots, track = self._slots(window), self._tracks.get(symbol)
        return None if track is None else track.settled(slots)

    def latest(self, symbol: str, window: Length) -> Change | None:
        """Return the change that ends with the latest sample, or with the latest row if newer.

        The change begins at the row of the latest instant that is at least one window before the
        sample. None if there is no such row.

        Raises:
            TypeError: `window` has another type.
            ValueError: The tracker does not have this window.
        """
        slots, track = self._slots(window), self._tracks.get(symbol)
        return None if track is None else track.latest(slots)

    def open_interest_at(self, symbol: str, time: int) -> Decimal | None:
        """Return the open interest of a row that the longest window still needs.

        None if there is no such row: at a hole, between two steps, or for an unknown symbol.

        Args:
            symbol: The symbol.
            time: The instant of the row, Unix ms.
        """
        slot, rest = divmod(time, self._plan.step)
        track = self._tracks.get(symbol)
        row = None if track is None or rest else track.row(slot)
        return row and row.open_interest

    def _slots(self, window: Length) -> int:
        slots, rest = divmod(length_ms("window", window), self._plan.step)
        if rest or slots not in self._plan.windows:
            raise ValueError(f"window must be one of {', '.join(self.windows)}: {window!r}")
        return slots


class _Track:
    """Keeps those rows of one symbol that the windows need.

    A slot is the number of an instant: its time divided by the step.
    """

    __slots__ = ("_plan", "_rows", "_samples", "_slot", "_spreads", "_symbol")

    def __init__(self, symbol: str, plan: _Plan) -> None:
        self._symbol, self._plan = symbol, plan
        self._rows: list[_Row | None] = [None] * (max(plan.windows) + 1)
        self._spreads = {window: Spread(plan.usual + 1) for window in plan.windows}
        self._slot: int | None = None  # the slot of the latest row or hole
        # The last sample of each step, by the slot at which the step ends. Only these samples can
        # become rows.
        self._samples: dict[int, _Row] = {}

    # -- rows ----------------------------------------------------------------------------------

    def add(self, row: _Row) -> None:
        """Add the row of a later instant. Instants between it and the last row then have no row.

        Raises:
            ValueError: The row is not later than the last row.
        """
        slot = row.time // self._plan.step
        if self._slot is not None and slot <= self._slot:
            raise ValueError(f"rows of {self._symbol} must be in the order of time: {row.time}")
        self._pass(slot - 1)
        self._put(slot, row)

    def _pass(self, last: int) -> None:
        """Note that the instants after the latest row, up to `last`, have no row."""
        first = last if self._slot is None else self._slot + 1
        kept = max(len(self._rows), self._plan.usual + 1)
        for slot in range(max(first, last - kept + 1), last + 1):
            self._put(slot, None)

    def _put(self, slot: int, row: _Row | None) -> None:
        self._slot = slot
        self._rows[slot % len(self._rows)] = row
        for window, spread in self._spreads.items():
            before = None if row is None else self.row(slot - window)
            if row is None or before is None:
                spread.put(slot, None)
            else:
                spread.put(slot, _percent(before.open_interest, row.open_interest))

    def row(self, slot: int) -> _Row | None:
        """Return the row of a slot; None if it is missing, or older than the rows that we keep."""
        if self._slot is None or not self._slot - len(self._rows) < slot <= self._slot:
            return None
        return self._rows[slot % len(self._rows)]

    # -- samples -------------------------------------------------------------------------------

    def observe(self, sample: _Row) -> None:
        """Add a sample, unless it is too late for any row."""
        step = self._plan.step
        slot = -(-sample.time // step)
        if self._slot is None:
            self._slot = (sample.time - LATE_MS - 1) // step  # an earlier sample may still come
        known = self._samples.get(slot)
        if sample.time >= self._slot * step and (known is None or known.time < sample.time):
            self._samples[slot] = sample
            self._settle()

    def _settle(self) -> None:
        """Make the rows of the instants for which no other sample can arrive."""
        step, newest = self._plan.step, self._samples[max(self._samples)].time
        last = (newest - LATE_MS - 1) // step
        first = -math.inf if self._slot is None else self._slot
        for slot in sorted({*self._samples, *(each + 1 for each in self._samples)}):
            sample = self._samples.get(slot) or self._samples.get(slot - 1)
            if first < slot <= last and sample is not None and slot * step - sample.time <= step:
                self._pass(slot - 1)
                self._put(slot, sample)
        if first < last:
            self._pass(last)
            self._samples = {slot: each for slot, each in self._samples.items() if slot >= last}

    def is_open(self, time: int) -> bool:
        """Whether a sample may still become the row of an instant."""
        if self._slot is None or not self._samples:
            return False
        step, newest = self._plan.step, self._samples[max(self._samples)].time
        return self._slot * step < time <= newest + step

    def live_rows(self) -> list[_Row]:
        """Return the rows that were made from samples, each with the time of its instant."""
        if self._slot is None:
            return []
        step, first = self._plan.step, self._slot - len(self._rows) + 1
        slots = ((slot, self.row(slot)) for slot in range(first, self._slot + 1))
        return [row._replace(time=slot * step) for slot, row in slots if row and row.is_live]

    def take_samples(self, other: "_Track") -> None:
        """Take those samples of `other`, a track of the same symbol, that are not rows yet."""
        for slot in sorted(other._samples):
            self.observe(other._samples[slot])

    # -- changes -------------------------------------------------------------------------------

    def settled(self, window: int) -> Change | None:
        """Return the change that ends at the latest slot."""
        if self._slot is None:
            return None
        row = self.row(self._slot)
        return row and self._change(window, self._slot, self._slot * self._plan.step, row)

    def latest(self, window: int) -> Change | None:
        """Return the change that ends with the latest sample, or at the latest slot if newer."""
        step = self._plan.step
        sample = self._samples[max(self._samples)] if self._samples else None
        if self._slot is None or sample is None or sample.time <= self._slot * step:
            return self.settled(window)
        return self._change(window, sample.time // step, sample.time, sample)

    def _change(self, window: int, slot: int, time: int, row: _Row) -> Change | None:
        """Return the change to `row` from the row that is `window` slots before `slot`."""
        before = self.row(slot - window)
        if before is None:
            return None
        absolute = _EXACTLY.subtract(row.open_interest, before.open_interest)
        percent = _percent(before.open_interest, row.open_interest)
        score, compared = None, 0
        if percent is not None:
            spread = self._spreads[window]
            score, compared = spread.score(percent, self._not_compared(spread, time))
        supply = row.supply or before.supply
        return Change(
            symbol=self._symbol,
            window=self._plan.labels[window],
            time=time,
            open_interest=row.open_interest,
            absolute=absolute,
            percent=percent,
            usd=_difference(before.notional, row.notional),
            per_supply=float(absolute) / float(supply) if supply else None,
            z_score=score and score.z_score,
            percentile=score and score.percentile,
            compared=compared,
        )

    def _not_compared(self, spread: Spread, time: int) -> list[float | None]:
        """Return the kept changes that do not end in the 7 days before `time`."""
        if self._slot is None:
            return []
        step, latest = self._plan.step, self._slot
        oldest = latest - self._plan.usual
        ends = [latest] if latest * step >= time else []
        ends += range(oldest, -(-(time - USUAL_MS) // step))
        return [spread.at(slot) for slot in ends]


def _percent(before: Decimal, after: Decimal) -> float | None:
    """Return the change in percent; None if that is not finite, or if `before` is 0 or less."""
    if before <= 0:
        return None
    share = float(_EXACTLY.subtract(after, before)) / float(before) * 100.0
    return share if math.isfinite(share) else None


def _difference(before: Decimal | None, after: Decimal | None) -> Decimal | None:
    if before is None or after is None:
        return None
    return _EXACTLY.subtract(after, before)
