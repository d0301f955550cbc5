"""The books: for every live minute, the most that the exchange may have counted.

Pure. The rule of this file: `Minute.used` is never below what the exchange may have counted. Our
weight is booked to each minute in which a request may land, before the request is sent. An answer
gives the other minutes back. A higher count of the exchange raises `used` at once; a count never
lowers it within its minute. What may have been sent is never refunded.

`minute` is a question. `open_minute` makes a minute, and `forget` drops old ones.
"""

import math
from dataclasses import dataclass, field

from binance_oi.budget.server_clock import MINUTE
from binance_oi.budget.tuning import LAG, MEMORY, UNDECIDED
from binance_oi.budget.usage import Receipt


@dataclass(slots=True)
class Minute:
    """What is known of one minute of the exchange, in weight."""

    booked: int = 0
    """Ours that the exchange may count in it."""
    unconfirmed: int = 0
    """The part of `booked` that no count is known to contain."""
    undecided: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """The part of `unconfirmed` that had no answer, or one without a count, as pairs. Second and
    weight: the count of a request that is sent then, or later, contains the weight if the exchange
    counted it at all."""
    doubtful: int = 0
    """Of `booked`: had no answer, and a later count has come. What that count does not contain was
    never counted."""
    reported: int = 0
    """The largest count in a header."""
    others: int = 0
    """Of other clients on this IP address: the most by which a count exceeded `booked`."""
    newcomer_reserve: int = 0
    """Kept free for other clients that nothing has shown yet: we know nothing from before."""
    refused: bool = False
    single: int = 0
    """The part of `booked` that is of single calls."""
    interactive: int = 0
    """What bulk work leaves them at the most: the most that anyone who charged asks for."""

    @property
    def used(self) -> int:
        """The most that the exchange may have counted."""
        ours, theirs = self.booked + self.others, self.reported + self.unconfirmed
        return ours if ours > theirs else theirs

    @property
    def under_way(self) -> int:
        """Ours whose answers are still to come."""
        return self.unconfirmed - sum(weight for _, weight in self.undecided)

    def absorb(self, sent: float, used: int, counted_at: float) -> None:
        """Learn from a count, `used`: it contains all that was undecided before `sent`.

        What `used` does not contain was never counted, and goes back: but only after `LAG` without
        a count, because a header that lags would give back too much.
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
    """The latest minute that an answer proved to have begun."""

    def minute(self, k: int) -> Minute:
        """What is known of minute `k`; an empty one when nothing is."""
        return self.minutes.get(k) or Minute()

    def open_minute(self, k: int) -> Minute:
        """Minute `k`, made when it is new."""
        if k not in self.minutes:
            self.minutes[k] = Minute()
        return self.minutes[k]

    def forget(self, earliest: int) -> None:
        """Forget what lies too far before minute `earliest`, in which it may be there."""
        for k in list(self.minutes):
            if k < earliest - MEMORY - 1:
                del self.minutes[k]
            elif k < earliest - 1:
                self.minutes[k].undecided.clear()  # no later count can decide it

    def keep(self, first: int, last: int) -> None:
        """Keep these minutes, made when they are new, and forget all others."""
        self.minutes = {k: self.minutes.get(k) or Minute() for k in range(first, last + 1)}

    def held(self, since: float) -> tuple[int, int]:
        """Ours in all minutes that end after `since`, Unix s: confirmed, and not."""
        held = [minute for k, minute in self.minutes.items() if MINUTE * (k + 1) > since]
        unconfirmed = sum(minute.unconfirmed for minute in held)
        return sum(minute.booked for minute in held) - unconfirmed, unconfirmed

    def book(self, weight: int, first: int, last: int, single: int = 0) -> None:
        """Book `weight` to each minute that may count it; opening a new one forgets old ones.

        `single` is the part of it that is of a single call.
        """
        if last not in self.minutes:
            self.forget(first)
        for k in range(first, last + 1):
            minute = self.open_minute(k)
            minute.booked += weight
            minute.unconfirmed += weight
            minute.single += single

    def give_back(self, receipt: Receipt, but: int | None = None) -> None:
        """Take it out of each minute it was booked to, `but` for one."""
        for k in range(receipt.first, receipt.last + 1):
            if k != but and k in self.minutes:  # it may be forgotten by now
                self.minutes[k].booked -= receipt.weight
                self.minutes[k].unconfirmed -= receipt.weight
                self.minutes[k].single -= receipt.single

    def move(self, receipt: Receipt, k: int) -> None:
        """The exchange counted it in minute `k`, and in no other."""
        self.give_back(receipt, but=k)
        if not receipt.first <= k <= receipt.last:
            self.book(receipt.weight, k, k, receipt.single)

    def leave_undecided(self, receipt: Receipt, k: int | None, certain: float) -> None:
        """It stays unconfirmed until the count of a request that was sent after `certain`.

        Args:
            receipt: What had no answer, or an answer without a count.
            k: The minute that counted it; None: any it is booked to.
            certain: Monotonic s.
        """
        second = math.ceil(certain)
        for j in range(receipt.first, receipt.last + 1) if k is None else (k,):
            undecided = self.open_minute(j).undecided
            if undecided and (undecided[-1][0] >= second or len(undecided) >= UNDECIDED):
                later, weight = undecided.pop()
                undecided.append((max(later, second), weight + receipt.weight))
            else:
                undecided.append((second, receipt.weight))
