"""Keeps the books: the most that the exchange may have counted in each live minute.

Pure. The rule of this file: the exchange cannot have counted more than `Minute.used`, apart from
what other clients used since the last count (`others` forecasts that use). Before we send a
request, we book its weight to each minute that may count it. If its answer shows which minute
counted it, we take the weight out of the other minutes. A higher count raises `reported` at once. A
lower count of the same minute does not lower it, because nodes of the exchange differ. We never
refund a request that may have been sent.

Example: a request of weight 5, sent 3 s before the rollover, is booked to both minutes. Its answer
shows that the old minute counted it. The new minute then has 5 less.

`Ledger.minute` only reads. `Ledger.open_minute` makes a minute, and `Ledger.forget` drops old ones.
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

    Each entry is a second, by the monotonic clock, and a weight. If the exchange counted the weight
    at all, then the count of every request that we send at that second or later contains it.
    """
    doubtful: int = 0
    """Weight that is no longer undecided: a count came that contains it if the exchange counted it
    at all. It stays in `booked` until `absorb` compares the books with a count."""
    reported: int = 0
    """The largest count of this minute that a header reported."""
    others: int = 0
    """Weight of other clients on this IP address: the most by which a count exceeded `booked` when
    the count came."""
    single: int = 0
    """The part of `booked` that belongs to single calls."""
    interactive: int = 0
    """The most that bulk work leaves for single calls. Budgets that share this minute may differ in
    this setting; we keep the largest one with which a request was booked."""

    @property
    def used(self) -> int:
        """The most that the exchange may have counted."""
        ours, theirs = self.booked + self.others, self.reported + self.unconfirmed
        return ours if ours > theirs else theirs

    @property
    def under_way(self) -> int:
        """The weight of our requests whose answers are still to come."""
        return self.unconfirmed - sum(weight for _, weight in self.undecided)

    def book(self, weight: int, bulk: bool, interactive: int = 0) -> None:
        """Book the weight of bulk work or a single call; a negative weight takes it out again."""
        self.booked += weight
        self.unconfirmed += weight
        if not bulk:
            self.single += weight
        if interactive > self.interactive:
            self.interactive = interactive

    def absorb(self, sent: float, used: int, counted_at: float) -> None:
        """Use a later count to decide whether the exchange counted undecided weight.

        If the count does not contain the weight, the exchange never counted it, and we take it out
        of the books. We do so only if `sent` is at least `LAG` seconds after `counted_at`: a header
        that lags behind may omit counted weight.

        Args:
            sent: When we sent the request whose answer has the count, monotonic s.
            used: The count.
            counted_at: When we sent the request whose answer had the previous count, monotonic s.
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
    """The latest minute that has certainly begun: an answer proved it."""

    def minute(self, k: int) -> Minute:
        """Return what we know about minute `k`; an empty minute if we know nothing."""
        return self.minutes.get(k) or Minute()

    def open_minute(self, k: int) -> Minute:
        """Return minute `k`, and make it if it is new."""
        return self.minutes.setdefault(k, Minute())

    def forget(self, earliest: int) -> None:
        """Forget old minutes. In a minute long over, forget which weight is undecided.

        That weight stays booked.

        Args:
            earliest: The first minute that may be the current one.
        """
        for k in list(self.minutes):
            if k < earliest - MEMORY - 1:
                del self.minutes[k]
            elif k < earliest - 1:
                self.minutes[k].undecided.clear()  # no further count of minute `k` comes

    def held(self, since: float) -> tuple[int, int]:
        """Return our confirmed and our unconfirmed weight in several minutes.

        Args:
            since: Unix s. The call adds up the minutes that end later.
        """
        held = [minute for k, minute in self.minutes.items() if MINUTE * (k + 1) > since]
        unconfirmed = sum(minute.unconfirmed for minute in held)
        return sum(minute.booked for minute in held) - unconfirmed, unconfirmed

    def book(self, receipt: Receipt, interactive: int = 0) -> None:
        """Book a receipt to each minute that may count it. A new minute makes us forget old ones.

        Args:
            receipt: The receipt.
            interactive: The most that bulk work leaves for single calls.
        """
        if receipt.last not in self.minutes:
            self.forget(receipt.first)
        for k in range(receipt.first, receipt.last + 1):
            self.open_minute(k).book(receipt.weight, receipt.bulk, interactive)

    def give_back(self, receipt: Receipt) -> None:
        """Take a receipt's weight out of each minute to which it is booked."""
        for k in range(receipt.first, receipt.last + 1):
            if k in self.minutes:  # `forget` may have dropped the minute
                self.minutes[k].book(-receipt.weight, receipt.bulk)

    def move(self, receipt: Receipt, first: int, last: int) -> Receipt:
        """Book a receipt to the minutes from `first` to `last` instead; return it as booked now."""
        self.give_back(receipt)
        moved = receipt._replace(first=first, last=last, reported=0)
        self.book(moved)
        return moved

    def leave_undecided(self, receipt: Receipt, certain: float) -> None:
        """Leave open whether the exchange counted a request, until a later count decides it.

        Args:
            receipt: The receipt of the request. No answer came, or an answer without a count.
            certain: Monotonic s. If the exchange counted the request at all, then the counts of all
                requests that we send at that time or later contain its weight.
        """
        second = math.ceil(certain)
        for k in range(receipt.first, receipt.last + 1):
            undecided = self.open_minute(k).undecided
            if undecided and (undecided[-1][0] >= second or len(undecided) >= UNDECIDED):
                later, weight = undecided.pop()
                undecided.append((max(later, second), weight + receipt.weight))
            else:
                undecided.append((second, receipt.weight))
