"""The books: for every live minute, the most that the exchange may have counted.

Pure. The rule of this file: `Minute.used` is never below what the exchange may have counted. Before
we send a request, we book its weight to each minute that may count it. When its answer shows the
minute, we take the weight out of the others. A higher count of the exchange raises `used` at once;
a lower count of the same minute never lowers it. We never refund a request that may have been sent.

`minute` only reads. `open_minute` makes a minute, and `forget` drops old ones.
"""

import math
from dataclasses import dataclass, field

from binance_oi.budget.server_clock import MINUTE
from binance_oi.budget.tuning import LAG, MEMORY, UNDECIDED
from binance_oi.budget.usage import Receipt


@dataclass(slots=True)
class Minute:
    """What we know about one minute of the exchange, in weight."""

    booked: int = 0
    """Our weight that the exchange may count in this minute."""
    unconfirmed: int = 0
    """The part of `booked` that no count is known to contain."""
    undecided: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """The part of `unconfirmed` that got no answer, or an answer without a count.

    Each entry is a second and a weight. If the exchange counted the weight at all, then the count
    of a request that we send at that second, or later, contains it.
    """
    doubtful: int = 0
    """The part of `booked` that got no answer, after a later count came. If that count does not
    contain it, the exchange never counted it."""
    reported: int = 0
    """The largest count in a header."""
    others: int = 0
    """Weight of other clients on this IP address: the most by which a count exceeded `booked`."""
    refused: bool = False
    """Whether the exchange refused a request in this minute."""
    single: int = 0
    """The part of `booked` that belongs to single calls."""
    interactive: int = 0
    """The most that bulk work leaves single calls: the largest value among all who charged."""

    @property
    def used(self) -> int:
        """The most that the exchange may have counted."""
        ours, theirs = self.booked + self.others, self.reported + self.unconfirmed
        return ours if ours > theirs else theirs

    @property
    def under_way(self) -> int:
        """Our weight whose answers are still to come."""
        return self.unconfirmed - sum(weight for _, weight in self.undecided)

    def book(self, weight: int, single: int, interactive: int) -> None:
        """Book `weight`, of which `single` belongs to a single call."""
        self.booked += weight
        self.unconfirmed += weight
        self.single += single
        if interactive > self.interactive:
            self.interactive = interactive

    def absorb(self, sent: float, used: int, counted_at: float) -> None:
        """Decide undecided weight by a later count, `used`.

        Weight that `used` does not contain was never counted, so it is taken out again. That
        happens only after `LAG` seconds without a count, because a lagging header omits weight that
        was counted.
        """
        while self.undecided and self.undecided[0][0] <= sent:
            weight = self.undecided.pop(0)[1]
            self.unconfirmed -= weight
            self.doubtful += weight
        if self.doubtful and sent >= counted_at + LAG:
            uncounted = self.booked - used - self.unconfirmed
            self.booked -= max(0, min(self.doubtful, uncounted))
            self.doubtful = 0


@dataclass(slots=True)
class Ledger:
    """The live minutes of one IP address."""

    minutes: dict[int, Minute] = field(default_factory=dict[int, Minute])
    newest: int = 0
    """The latest minute of which an answer proved that it has begun."""

    def minute(self, k: int) -> Minute:
        """What we know about minute `k`; an empty minute if we know nothing."""
        return self.minutes.get(k) or Minute()

    def open_minute(self, k: int) -> Minute:
        """Minute `k`; makes it if it is new."""
        if k not in self.minutes:
            self.minutes[k] = Minute()
        return self.minutes[k]

    def forget(self, earliest: int) -> None:
        """Forget minutes that lie too far before `earliest`, the first possible current minute."""
        for k in list(self.minutes):
            if k < earliest - MEMORY - 1:
                del self.minutes[k]
            elif k < earliest - 1:
                self.minutes[k].undecided.clear()  # no later count can decide it

    def keep(self, first: int, last: int) -> None:
        """Keep these minutes, make the new ones, and forget all others."""
        self.minutes = {k: self.minutes.get(k) or Minute() for k in range(first, last + 1)}

    def held(self, since: float) -> tuple[int, int]:
        """Our confirmed and unconfirmed weight in all minutes that end after `since`, Unix s."""
        held = [minute for k, minute in self.minutes.items() if MINUTE * (k + 1) > since]
        unconfirmed = sum(minute.unconfirmed for minute in held)
        return sum(minute.booked for minute in held) - unconfirmed, unconfirmed

    def book(
        self, weight: int, first: int, last: int, single: int = 0, interactive: int = 0
    ) -> None:
        """Book `weight` to each minute that may count it; a new minute makes old ones go."""
        if last not in self.minutes:
            self.forget(first)
        for k in range(first, last + 1):
            self.open_minute(k).book(weight, single, interactive)

    def give_back(self, receipt: Receipt, but: int | None = None) -> None:
        """Take a receipt's weight out of each minute to which it is booked, except `but`."""
        for k in range(receipt.first, receipt.last + 1):
            if k != but and k in self.minutes:  # `forget` may have dropped it
                self.minutes[k].booked -= receipt.weight
                self.minutes[k].unconfirmed -= receipt.weight
                self.minutes[k].single -= receipt.single

    def move(self, receipt: Receipt, k: int) -> None:
        """Book a receipt to minute `k` alone: the exchange counted it there."""
        self.give_back(receipt, but=k)
        if not receipt.first <= k <= receipt.last:
            self.book(receipt.weight, k, k, receipt.single)

    def leave_undecided(self, receipt: Receipt, k: int | None, certain: float) -> None:
        """Keep a request unconfirmed until the count of a request that we send after `certain`.

        Args:
            receipt: The receipt of a request without an answer, or with an answer without a count.
            k: The minute that counted it; None if any minute to which it is booked may have.
            certain: Monotonic s from which a count certainly contains the request's weight.
        """
        second = math.ceil(certain)
        for j in range(receipt.first, receipt.last + 1) if k is None else (k,):
            undecided = self.open_minute(j).undecided
            if undecided and (undecided[-1][0] >= second or len(undecided) >= UNDECIDED):
                later, weight = undecided.pop()
                undecided.append((max(later, second), weight + receipt.weight))
            else:
                undecided.append((second, receipt.weight))
