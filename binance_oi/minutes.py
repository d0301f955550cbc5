"""The token bucket of one IP address: arithmetic of exchange minutes.

Pure: no I/O, no clock of its own (`now` is always an argument, in monotonic
seconds). What it decides, `governor` waits for and `client` sends.

**The guarantee.** No request is sent unless, in every exchange minute in which it may be counted,
all weight that may be in that minute stays within limit less reserve. It rests on three facts:
the exchange counts per minute of *its* clock; an answer's header holds the weight of the whole IP
in the minute of that request, this request included; and a request that is counted at all is
counted within `TRAVEL` of being sent. Clocks only say *when to look*; the count says what is so.

**What is booked is booked for a time.** A charge covers the minutes of the next `FLIGHT` seconds.
`PATIENCE` of them may pass before the request is sent; the rest is `TRAVEL`. Whoever writes a
request asks `sending` immediately before: after `PATIENCE` it says no, unless every minute of the
next `TRAVEL` is booked as well. A request that comes too late (a slow connection, a stalled event
loop, a suspended process) is refunded and charged again. That it is counted within `TRAVEL` is an
assumption about the network and the exchange, and the only one. The wait for its answer has no
part in it: an answer may come later, and then its `Date` and its count tell which minute counted
the request; where they do not, it is booked to every minute up to the answer. An answer can reveal
a count after `TRAVEL` only when it is too late to keep room for it.

**How.** Each live minute keeps `charged` (our weight that may be in it), `open` (the part of it not
known to be inside `seen`) and `seen` (its largest header). Others are `seen - charged` at its
largest. Then ``used = max(charged + others, seen + open)``: the left side stands when a header
lags, the right side when others are quicker than our books.

**Which minute.** The exchange's clock is an interval around ours (`server_clock`). A request is
booked to each minute it may land in; its answer gives the others back. A minute is over only when
an answer proved it, or the interval does: when it *may* be over and we are short of room, one
request goes alone, inside the reserve, and its count tells (a fallen count is a new minute). So a
clock that is off costs one round trip, never a refusal.

**Others.** What they may still use before the minute is over is forecast (`others`) and kept free,
but for a small part that is always ours. While only that forecast is in the way, single requests
look at the count now and then. Close to the limit, what is in flight shrinks with what is left, so
that several programs which all do this stop together, before the limit. In a minute before which
we saw nothing, room is kept for others who would not have been seen yet.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from binance_oi.others import Curve, expected
from binance_oi.server_clock import EDGE, MINUTE, ServerClock
from binance_oi.window import Limit, Window

FLIGHT = 10.0  # s: a request can be counted this long after its charge
PATIENCE = 2.0  # s: it is sent this long after its charge; later only if more is booked
TRAVEL = FLIGHT - PATIENCE  # s: it is counted this long after it was sent, if at all
LAG = 1.0  # s: an answer sent this long after another one contains its weight for certain
ALONE = 1.0  # s: how long the others wait for the answer to a request that goes alone
CLOSING = 0.25  # s before its end that a full minute is looked at once more
LOOK = 1.0  # s between looks at the count while only the forecast is in the way, at the least
LOOKS = 0.01  # share of the limit that these looks may use in a minute
STALE = 0.25  # s for which what is expected of others is not reckoned again, if they rest
POLL = 0.02  # s: how soon another process may have changed the answer
SIGMA = 4  # standard deviations kept free: we ask many times a minute
DOUBTS = 8  # moments that a minute keeps apart
MEMORY = 5  # minutes for which others are remembered
LIES = 3  # answers in a row whose `Date` contradicts all that is known, before they are believed
FIRST = 0.33  # share of the limit for who has just come near a turn: a market; three fit in
UNHEARD = 1 / 1200  # share of the limit that others may have used and nobody sees it
OURS = 0.05  # share of the limit that others are expected to leave us, whatever they used before
BLIND_AFTER = 10  # answers in a row without a usable header, then we rely on our books alone
BLIND_RESERVE = 0.1  # share of the limit kept free while relying on our books alone
UNKNOWN = -math.inf


class Receipt(NamedTuple):
    """What `charge` booked, to be given back with the answer."""

    weight: int
    sent: float  # monotonic s: when it was charged; when it was sent if that is `PATIENCE` later
    first: int  # the earliest and the latest minute it may be counted in
    last: int
    before: int  # `seen` of `first` when it was sent: an answer counted there shows no less
    alone: bool  # everyone waits for its answer


@dataclass(slots=True)
class Minute:
    """What is known of one exchange minute, in weight."""

    curve: Curve  # of others
    charged: int = 0
    open: int = 0
    unsure: int = 0  # the part of `charged` that no answer has confirmed and that may not count
    seen: int = 0
    others: int = 0
    unheard: int = 0  # kept free for others who may be there: nothing is known from before it
    refused: bool = False
    doubts: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Weight with no answer or no header, by the second from which a count contains it if any."""

    @property
    def used(self) -> int:
        """The most that the exchange may have counted."""
        ours, theirs = self.charged + self.others, self.seen + self.open
        return ours if ours > theirs else theirs


@dataclass(slots=True)
class State:
    """All that is known of one IP address: plain numbers, so that processes can share it.

    Times with `_at` are monotonic seconds, those with `_until` are Unix seconds of the exchange.
    """

    limit: int
    clock: ServerClock
    minutes: dict[int, Minute] = field(default_factory=dict[int, Minute])
    turned: int = 0  # the latest minute that an answer proved to have begun
    held_until: float = 0.0
    banned_until: float = 0.0
    strike: int = 0  # the surge by others that a refusal makes us expect; fades
    refused_at: int = 0  # count at which we were refused below the limit: above it, one at a time
    alone_until_at: float = UNKNOWN
    looked_at: float = UNKNOWN  # the latest usable header; unknown: nothing is known
    wary: int = -1  # others are expected up to this minute
    silent: int = 0  # answers in a row without a usable header
    windows: list[Window] = field(default_factory=list[Window])  # of the other limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The budget at one moment, as far as we know it; weight unless said otherwise."""

    limit: int
    """Weight the exchange allows in a minute."""
    used: int
    """The most it may have counted in this minute, for the whole IP address."""
    remaining: int
    """What we may still send in this minute: limit less reserve less used, never negative; not
    more than is left of `share`, and not more than any other limit of the exchange leaves now."""
    charged: int
    """The part of `used` that is ours (of everyone who shares this budget)."""
    others: int
    """The part of `used` that is not ours."""
    in_flight: int
    """Ours that no answer has confirmed yet."""
    reserve: int
    """What we leave unused."""
    share: int
    """The most of the limit that we use ourselves; the reserve is not taken off."""
    resets_at: datetime
    """When the exchange's minute turns (aware UTC, by the exchange's clock)."""
    held_until: datetime | None
    """Nothing is sent before this instant; None when nothing is held."""
    banned_until: datetime | None
    """The end of a ban of this IP address; None when there is none."""
    sustained: float = math.inf
    """What we may use in a minute, minute after minute, by the exchange's limits for other spans
    of time (per 10 s, per day), less reserve; infinite without such a limit."""


class Bucket:
    """Decides whether a request may be sent now. One per IP address.

    `charge` answers with a receipt (send it now), or with the seconds after which the answer could
    change (not now), or with infinity (never). Every receipt goes back exactly once: to `settle`
    when an answer came, `lose` when it may have been counted, `refund` when it was never sent.

    Args:
        state: What is known so far; shared state is put in place before every call.
        reserve: Left unused: weight when `int`, share of the limit when `float`.
        share: The most of the limit that we use ourselves, 0 to 1.
    """

    __slots__ = (
        "_asked",
        "_cap",
        "_kept",
        "_limit",
        "_need",
        "_own",
        "_reserve",
        "_share",
        "state",
    )

    def __init__(self, state: State, *, reserve: float = 0.01, share: float = 1.0) -> None:
        self.state = state
        self._reserve = reserve
        self._share = share
        self._asked: tuple[int, float, int] | None = None  # and what was expected of others then
        self._need = 0.0
        self._resize(state.limit)

    # -- decide ------------------------------------------------------------------------------

    def charge(self, now: float, weight: int) -> Receipt | float:
        """Book `weight` if it may be sent now; otherwise say for how many seconds not."""
        state = self.state
        clock = state.clock
        if now - clock.at > 1.0:
            clock.drift(now)
        if state.held_until > now + clock.lo:
            return state.held_until - now - clock.lo
        if state.alone_until_at > now:
            return min(state.alone_until_at - now, POLL)
        if self._limit != state.limit:
            self._resize(state.limit)
        if state.windows and (wait := self._wait_for_windows(now, weight)) > 0.0:
            return wait
        first, guess, last = self._span(now)
        minute = state.minutes.get(guess)
        if (
            first == last > state.wary
            and not state.windows
            and minute is not None
            and minute.seen
            and state.looked_at != UNKNOWN
            and state.silent < BLIND_AFTER
            and minute.used + minute.unheard + weight <= self._cap
            and minute.charged + weight <= self._own
        ):
            # The ordinary case, short because it is nearly every case: one minute, its count is
            # known, and we are alone in it.
            minute.charged += weight
            minute.open += weight
            return Receipt(weight, now, first, last, minute.seen, False)
        cap = self._cap - self._blindness()
        if weight > min(cap, self._own):
            return math.inf
        for k in range(first, last + 1):
            minute = self._minute(k)
            if minute.used + weight > cap or minute.charged + weight > self._own:
                return self._when_full(now, weight, k, (first, guess, last))
            if k < guess and not self._bearable(now, k, weight):
                return POLL
        alone = self._asks_first(now, guess)
        careful = guess <= state.wary or (state.minutes[guess].unheard and not self._blind())
        if careful and not alone:
            wait = self._courtesy(now, weight, guess, cap)
            if wait > 0.0:
                return wait
            alone = wait < 0.0
        return self._book(now, weight, first, last, alone)

    def sending(self, receipt: Receipt, now: float) -> Receipt | None:
        """May its request be written now? Ask with nothing between the answer and the write.

        Returns:
            The receipt to go on with. None when a hold has begun since, or when the request might
            be counted in a minute to which it is not booked: `refund` it and charge again.
        """
        state, clock = self.state, self.state.clock
        if state.held_until > now + clock.lo:
            return None
        if now - receipt.sent <= PATIENCE:
            return receipt
        if now - clock.at > 1.0:
            clock.drift(now)
        last = int((now + clock.hi + TRAVEL) // MINUTE)
        minute = state.minutes.get(receipt.first)
        if last > receipt.last or minute is None or state.windows:
            return None
        return receipt._replace(sent=now, before=minute.seen)

    def room_in(self, now: float, weight: int) -> float:
        """Seconds until `weight`, which was refused now, may find room; changes nothing.

        `charge` says when the queue asks again, which answers to others can make sooner. This is
        for a caller who comes back only once: the end of what is in the way.
        """
        state = self.state
        held = state.held_until - now - state.clock.lo
        if held > 0.0:
            return held
        if state.alone_until_at > now:
            return state.alone_until_at - now
        window = self._wait_for_windows(now, weight)
        if window > 0.0:
            return window
        first, _, last = self._span(now)
        cap = self._cap - self._blindness()
        for k in range(first, last + 1):
            minute = state.minutes.get(k)
            if minute is not None:
                lack = max(minute.used - cap, minute.charged - self._own) + weight
                if lack > 0:
                    return self._until_room(now, weight, k, lack)
        return LOOK

    def _until_room(self, now: float, weight: int, k: int, lack: int) -> float:
        """Minute `k` is full by `lack`: seconds until its end, or until answers may make room."""
        minute = self.state.minutes[k]
        turn = MINUTE * (k + 1) - now - self.state.clock.lo
        if self._flying(minute) >= lack:
            return min(turn, LOOK)
        if minute.doubts and self._affordable(now, k, weight):
            return min(turn, max(LOOK, minute.doubts[0][0] - now))
        return turn

    def _wait_for_windows(self, now: float, weight: int) -> float:
        """Seconds until every other limit of the exchange has room for `weight`."""
        waits = (w.wait(now, weight, self._cap_of(w)) for w in self.state.windows)
        return max(waits, default=0.0)

    def _cap_of(self, window: Window) -> int:
        """What we may use of such a limit: less the same share of it that is reserved of the
        minute's."""
        kept = math.ceil(window.most * self._kept / self._limit)
        return min(window.most - kept, int(self._share * window.most))

    def _resize(self, limit: int) -> None:
        """What the limit means for us: the most a minute may reach, and the most of it ours."""
        self._limit = limit
        kept = self._reserve
        self._kept = kept if isinstance(kept, int) else math.ceil(kept * limit)
        self._cap = limit - self._kept
        self._own = int(self._share * limit)

    def _blindness(self) -> int:
        """Weight left unused on top of the reserve while we see no count."""
        more = math.ceil(BLIND_RESERVE * self._limit) - self._kept
        return max(0, more) if self._blind() else 0

    def _blind(self) -> bool:
        return self.state.silent >= BLIND_AFTER

    def _span(self, now: float) -> tuple[int, int, int]:
        """The minutes in which a request sent now may be counted: earliest, likeliest, latest."""
        clock = self.state.clock
        first, last = int((now + clock.lo) // MINUTE), int((now + clock.hi + FLIGHT) // MINUTE)
        if self.state.turned > first:
            first = self.state.turned
        if first >= last:
            return first, first, first
        return first, min(max(first, clock.likeliest(now)), last), last

    def _asks_first(self, now: float, guess: int) -> bool:
        """After a start, long idleness, a refusal, or beside others: the first one goes alone."""
        state = self.state
        if self._blind() or (state.looked_at != UNKNOWN and state.minutes[guess].seen):
            return False
        before = state.minutes.get(guess - 1)
        if state.looked_at == UNKNOWN or before is None or not before.seen:
            for k in range(guess, state.clock.latest(now) + 1):
                self._minute(k).unheard = max(0, self._cap - int(FIRST * self._limit))
            return True
        return guess <= state.wary

    def _when_full(
        self, now: float, weight: int, k: int, span: tuple[int, int, int]
    ) -> Receipt | float:
        """Minute `k` is full. If it may be over by now, send one alone and see; otherwise wait."""
        state, (first, _, last) = self.state, span
        minute = state.minutes[k]
        turn = MINUTE * (k + 1) - now - state.clock.lo
        if self._affordable(now, k, weight):
            left = state.clock.left(now, k)
            since = now - state.looked_at
            decided = minute.doubts[0][0] - now if minute.doubts else left
            look = min(0.0 if minute.unsure else decided, self._closing(now, k))
            if 2 * (minute.charged + weight - 1 - self._cap) < self._kept - 1:  # rest: for the end
                look = min(look, (left - since) / 2)
            turn = min(max(LOOK - since, look), left)
            if turn <= 0.0:
                return self._book(now, weight, first, last, alone=True)
        return max(min(turn, POLL) if minute.open else turn, 1e-3)

    def _affordable(self, now: float, k: int, weight: int) -> bool:
        """May one request go into the reserve, to look at the count of a full minute?"""
        state, minute = self.state, self.state.minutes[k]
        if self._blind() or minute.charged + weight > self._own:
            return False
        if k > state.wary:  # we are alone, and `seen + open` holds answered doubts twice
            return minute.charged + weight <= state.limit
        return self._bearable(now, k, weight)

    def _bearable(self, now: float, k: int, weight: int) -> bool:
        """Would minute `k` bear it, after what others may have used of it since we looked?"""
        minute = self.state.minutes[k]
        theirs = self._unseen(now, k) if minute.others else 0.0
        return minute.used + theirs + weight <= self.state.limit

    def _unseen(self, now: float, k: int) -> float:
        """Weight that others may have used of minute `k` since we looked, if nothing special
        happened."""
        gap = max(0.0, min(now - self.state.looked_at, self.state.clock.into(now, k)))
        curves = [self.state.minutes[k].curve, *self._past(k)]
        most = gap * max(curve.calm for curve in curves)
        return most + SIGMA * math.sqrt(most)

    def _past(self, k: int) -> list[Curve]:
        """The others' curves of the minutes before `k`, where there are any."""
        minutes = self.state.minutes
        return [m.curve for j, m in minutes.items() if k - MEMORY <= j < k and m.curve.heights]

    def _courtesy(self, now: float, weight: int, k: int, cap: int) -> float:
        """Room for others: seconds to wait, 0 to go ahead, below 0 to go alone and look."""
        state, minute = self.state, self.state.minutes[k]
        room, since = cap - minute.used - weight, max(0.0, now - state.looked_at)
        most = max(weight, (cap - minute.seen) // 8)
        crowded = k <= state.wary and minute.seen and self._flying(minute) + weight > most
        if crowded and since < LOOK:
            return POLL
        need, margin = self._forecast(now, k)
        fits = not crowded and room >= need + margin
        if not fits and self._unseen(now, k) > room:
            return LOOK
        if fits or (not crowded and self._is_our_part(weight, k)):
            return -1.0 if 0 < state.refused_at < minute.used + weight else 0.0
        wait = self._until_look(now, weight, k, need - room)
        return wait if wait > 0.0 else -1.0

    def _is_our_part(self, weight: int, k: int) -> bool:
        """Is it of the part that others leave us, as they did in the minute before? Without one,
        whoever has little would get ever less. It grows by our looks, slowly enough for others."""
        state, minute, before = self.state, self.state.minutes[k], self.state.minutes.get(k - 1)
        if state.strike or before is None or not self._past(k):
            return False
        return minute.charged + weight <= min(OURS * self._limit, before.charged)

    def _until_look(self, now: float, weight: int, k: int, lack: float) -> float:
        """Seconds until `weight` may look at the count of minute `k`, of which others are expected
        to need `lack` more than there is.

        A look is paid for with what is kept free for others: where that is not enough already, all
        looks of a minute may use `LOOKS`; a quarter of it where we have just come and even the
        reserve is not enough. Where only the margin is in the way, one more may come after a third
        of the time that is left then.
        """
        state = self.state
        left, since = state.clock.left(now, k), max(0.0, now - state.looked_at)
        wait = LOOK - since
        if k <= state.wary:
            look = MINUTE * weight / (LOOKS * state.limit)
            if lack > self._kept and not self._past(k):
                look *= 4
            look -= since
            if lack <= 0.0:
                look = min(look, (left - 3 * since) / 4)
            wait = min(max(wait, look), left)
        closing = self._closing(now, k)
        return min(wait, closing) if closing + since > 0.0 else wait

    def _closing(self, now: float, k: int) -> float:
        """Seconds until the last look at minute `k`: sooner or later from minute to minute, for its
        end is not known exactly, and what others use after the last look is never seen."""
        clock = self.state.clock
        return clock.left(now, k) - CLOSING - clock.doubt * (k % 3) / 2

    def _forecast(self, now: float, k: int) -> tuple[float, float]:
        """Weight that others are expected to use before minute `k` is over, and a margin for
        chance and for our looks at it."""
        state, minute = self.state, self.state.minutes[k]
        if k > state.wary:
            return minute.unheard, 0.0
        past = self._past(k)
        # Ours under way may hide as many of theirs, which matters while they are but a rate.
        others = minute.others + (0 if past else self._flying(minute))
        into = state.clock.into(min(now, state.looked_at), k)
        question = k, into // STALE, others
        if question != self._asked:
            self._asked, self._need = question, expected(past, minute.curve, into, others)
        need = self._need
        # Of a rate that was seen for a tenth of a minute, ten times the variance is to be feared.
        unsure = 1.0 if past else MINUTE / max(1.0, minute.curve.until)
        looks = LOOKS * state.limit * state.clock.left(now, k) / MINUTE / 2
        margin = SIGMA * math.sqrt(need * unsure) + looks
        return max(need, state.strike - minute.others, minute.unheard), margin

    def _book(self, now: float, weight: int, first: int, last: int, alone: bool) -> Receipt:
        minutes = self.state.minutes
        for k in range(first, last + 1):
            minute = self._minute(k)
            minute.charged += weight
            minute.open += weight
        for window in self.state.windows:
            window.charge(now, now + FLIGHT, weight)
        if alone:
            self.state.alone_until_at = now + ALONE
        return Receipt(weight, now, first, last, minutes[first].seen, alone)

    def _minute(self, k: int) -> Minute:
        minutes = self.state.minutes
        if k not in minutes:
            for j in list(minutes):
                if j < k - MEMORY - 1:
                    del minutes[j]
                elif j < k - 1:
                    minutes[j].doubts.clear()  # nothing will decide them any more
            minutes[k] = Minute(Curve(self.state.limit / MINUTE))
        return minutes[k]

    # -- learn -------------------------------------------------------------------------------

    def settle(
        self, receipt: Receipt, now: float, used: int | None, date: float | None
    ) -> int | None:
        """The answer came: `used` is its header, `date` its `Date` in Unix s (None: not usable).

        Returns:
            The minute that counted the request; None when that cannot be told.
        """
        state = self.state
        clock = state.clock
        if now - clock.at > 1.0:
            clock.drift(now)
        if receipt.alone:
            state.alone_until_at = UNKNOWN
        for window in state.windows:
            window.settle(receipt.sent + FLIGHT, now, receipt.weight)
        if date is not None and not self._narrow(*clock.interval(date, receipt.sent, now), now):
            date = None
        if now > receipt.sent + FLIGHT:
            receipt = self._extend(receipt, now)
        k = self._which(receipt, now, used, date)
        if k is not None and not receipt.first == k == receipt.last:
            self._move(receipt, k)
        if used is None:
            state.silent += 1
            self._doubt(receipt, k, now + LAG)
        elif k is None:
            self._guess(receipt, now, used)
        else:
            self._learn(receipt, k, used)
        return k

    def _extend(self, receipt: Receipt, now: float) -> Receipt:
        """Its answer is so late that it may have been counted in a later minute than it is booked
        to: book it to each one up to now that is not over for certain."""
        clock = self.state.clock
        first = max(receipt.last + 1, clock.earliest(now))
        last = clock.latest(now)
        for k in range(first, last + 1):
            minute = self._minute(k)
            minute.charged += receipt.weight
            minute.open += receipt.weight
        if first > receipt.last + 1:  # the minutes in between are over, and those it is booked to
            return receipt._replace(first=first, last=last, before=0)
        return receipt._replace(last=max(receipt.last, last))

    def _learn(self, receipt: Receipt, k: int, used: int) -> None:
        """`used` is what minute `k` had counted when this request came."""
        state = self.state
        state.silent = 0
        # Shared books may have begun anew since the request was charged.
        minute, before = self._minute(k), state.minutes.get(k - 1)
        if k > state.turned:
            self._forgive(k)
            state.turned = k
            if minute.unheard and before is not None and used > before.seen:  # see `_guess`
                before.others, before.curve = 0, Curve(state.limit / MINUTE)
        minute.open -= receipt.weight
        if minute.doubts or minute.unsure:
            self._absorb(minute, receipt.sent, used)
        if used > minute.charged + minute.others or k <= state.wary:
            self._others(receipt.sent, k, used)
        if used > minute.seen:
            minute.seen = used
        if minute.unheard:
            into, left = state.clock.into(receipt.sent, k), state.clock.left(receipt.sent, k)
            most = UNHEARD * state.limit / max(into, 0.1) * left  # a higher rate would show by now
            minute.unheard = min(minute.unheard, max(0, int(most) - self._kept))
        if receipt.sent > state.looked_at:
            state.looked_at = receipt.sent

    def _forgive(self, k: int) -> None:
        """Minute `k` begins; a whole minute that went well makes a refusal matter less."""
        state, before = self.state, self.state.minutes.get(k - 1)
        was_whole = state.held_until <= MINUTE * (k - 1)
        if before is not None and before.seen and not before.refused and was_whole:
            state.strike //= 2
            if before.seen > state.refused_at + self._few():
                state.refused_at = 0
        if state.refused_at:
            state.wary = max(state.wary, k + MEMORY)

    def _guess(self, receipt: Receipt, now: float, used: int) -> None:
        """Too close to the turn to tell: `used` is safely taken for the old minute's, which it
        fills more than the new one's would; in the new one the request stays open."""
        state, old = self.state, self._minute(receipt.first)
        theirs = used - receipt.weight
        if state.looked_at == UNKNOWN and theirs > self._few():
            # Others were here before us, in one minute or the other: ask again when it is clear,
            # if there is room to ask.
            old.others, old.seen = max(old.others, theirs), max(old.seen, used)
            shown = receipt.first
            if used >= state.limit:
                shown += 1
                self._minute(shown).others = theirs
            self._minute(shown).curve.draw(state.clock.into(receipt.sent, shown), theirs)
            state.wary = receipt.first + 1 + MEMORY
            clear = MINUTE * (receipt.first + 1) - state.clock.lo
            state.alone_until_at = max(receipt.sent + LOOK, clear)
            self._doubt(receipt, None, now + LAG)
            return
        old.open -= receipt.weight
        old.unsure += receipt.weight
        old.seen = max(old.seen, used)
        self._doubt(receipt._replace(first=receipt.first + 1), None, now + LAG)
        state.looked_at = max(state.looked_at, receipt.sent)

    def lose(self, receipt: Receipt, now: float) -> None:
        """No answer: it may have been counted, in any minute it may have landed in."""
        if receipt.alone:
            self.state.alone_until_at = UNKNOWN
        self._doubt(receipt, None, max(now, receipt.sent + FLIGHT))

    def refund(self, receipt: Receipt) -> None:
        """It was never sent: as if it had not been charged."""
        if receipt.alone:
            self.state.alone_until_at = UNKNOWN
        for window in self.state.windows:
            window.refund(receipt.sent + FLIGHT, receipt.weight)
        for k in range(receipt.first, receipt.last + 1):
            self._unbook(k, receipt.weight)

    def _unbook(self, k: int, weight: int) -> None:
        """It is not in minute `k`, which may be forgotten by now."""
        minute = self.state.minutes.get(k)
        if minute is not None:
            minute.charged -= weight
            minute.open -= weight

    def _move(self, receipt: Receipt, k: int) -> None:
        """It was counted in minute `k` and in no other."""
        for j in range(receipt.first, receipt.last + 1):
            if j != k:
                self._unbook(j, receipt.weight)
        if not receipt.first <= k <= receipt.last:
            minute = self._minute(k)
            minute.charged += receipt.weight
            minute.open += receipt.weight

    def _doubt(self, receipt: Receipt, k: int | None, certain: float) -> None:
        """It stays open, until a count of a request sent after `certain` contains it."""
        second = math.ceil(certain)
        for j in range(receipt.first, receipt.last + 1) if k is None else (k,):
            doubts = self._minute(j).doubts
            if doubts and (doubts[-1][0] >= second or len(doubts) >= DOUBTS):
                later, weight = doubts.pop()
                doubts.append((max(later, second), weight + receipt.weight))
            else:
                doubts.append((second, receipt.weight))

    def _absorb(self, minute: Minute, sent: float, used: int) -> None:
        """`used` contains all that was decided before `sent`: close it, and un-charge what is not
        in it. Only when it was quiet for `LAG`, or a lagging header would un-charge too much."""
        while minute.doubts and minute.doubts[0][0] <= sent:
            weight = minute.doubts.pop(0)[1]
            minute.open -= weight
            minute.unsure += weight
        if minute.unsure and sent >= self.state.looked_at + LAG:
            minute.charged -= max(0, min(minute.unsure, minute.charged - used - minute.open))
            minute.unsure = 0

    def _others(self, now: float, k: int, used: int) -> None:
        """How much others have used, and by when."""
        state, minute = self.state, self.state.minutes[k]
        minute.others = max(minute.others, used - minute.charged)
        if minute.others > self._few():
            state.wary = max(state.wary, k + MEMORY)
        if k > state.wary:
            return
        into, curve = state.clock.into(now, k), minute.curve
        if not curve.heights and state.looked_at != UNKNOWN:
            curve.draw(state.clock.into(state.looked_at, k), 0)  # until then there was nobody
        # Ours under way, and those that a header lags behind, may hide as many of theirs. Drawn too
        # low they are a use that is still to come; but where there is no past, a rate too low.
        is_exact = now >= state.looked_at + LAG and not self._flying(minute)
        if is_exact or self._past(k) or minute.others >= curve.rate * into:
            curve.draw(into, minute.others)

    def _flying(self, minute: Minute) -> int:
        """Weight in flight whose answers are to come."""
        return minute.open - sum(weight for _, weight in minute.doubts)

    def _few(self) -> int:
        """Weight of others that means nothing: a look at the listing, a ping."""
        return max(2, self.state.limit // 1000)

    # -- which minute it was ------------------------------------------------------------------

    def _which(
        self, receipt: Receipt, now: float, used: int | None, date: float | None
    ) -> int | None:
        """The minute that counted this request; None when it cannot be told."""
        clock = self.state.clock
        if date is not None and receipt.first == receipt.last:  # nearly always
            second = date - MINUTE * receipt.first
            if EDGE <= second < MINUTE - 1 - EDGE:  # far from any turn
                return receipt.first
        first = max(receipt.first, clock.earliest(receipt.sent))
        last = clock.latest(now)
        if date is not None:
            first = max(first, int((date - EDGE) // MINUTE))
            last = min(last, int((date + 1 + EDGE) // MINUTE))
        if first == last:
            return first
        if used is None or last != first + 1:
            return None
        k = self._by_count(receipt, used, first)
        if k is not None:
            self._narrow(MINUTE * k - now, MINUTE * (k + 1) - receipt.sent, now)
        return k

    def _by_count(self, receipt: Receipt, used: int, k: int) -> int | None:
        """Minute `k` or the next? A count far below what was seen before is the next one's."""
        before = receipt.before if receipt.first == k else 0
        slack = self.state.limit // 50
        if used < before - slack:
            return k + 1
        if (
            k == self.state.turned
            and used >= before > slack
            and used > 2 * self._minute(k + 1).charged + slack
        ):
            return k
        return None

    def _narrow(self, lo: float, hi: float, now: float) -> bool:
        """One more interval that holds the exchange's clock. When several in a row contradict what
        is known, start again from the newest; a single one is not believed."""
        state, clock = self.state, self.state.clock
        if clock.narrow(lo, hi):
            return True
        if clock.odd < LIES and state.looked_at != UNKNOWN:
            return False
        carried = max((m.used for k, m in state.minutes.items() if k >= state.turned), default=0)
        clock.start_again(lo, hi)
        state.looked_at, state.turned = UNKNOWN, clock.earliest(now)
        for k in range(state.turned, clock.latest(now) + 1):
            minute = self._minute(k)
            minute.charged = max(minute.charged, carried)
        return True

    # -- limits ------------------------------------------------------------------------------

    def set_limits(self, now: float, limit: int | None, others: Sequence[Limit]) -> None:
        """The exchange announced its limits: of the minute (None: not), and of other spans.

        A limit that is new begins with what the minutes hold, which is more than it may hold.
        """
        state = self.state
        if limit is not None:
            state.limit = limit
        known = {(window.seconds, window.counts_requests): window for window in state.windows}
        windows = list[Window]()
        for each in others:
            window = known.get((each.seconds, each.counts_requests)) or self._begin(each, now)
            window.most = each.most
            windows.append(window)
        state.windows = windows

    def _begin(self, limit: Limit, now: float) -> Window:
        since = now + self.state.clock.lo - limit.seconds
        held = [m for k, m in self.state.minutes.items() if MINUTE * (k + 1) > since]
        charged, flying = sum(m.charged for m in held), sum(m.open for m in held)
        return Window.begin(limit, now, now + FLIGHT, counted=charged - flying, flying=flying)

    # -- hold --------------------------------------------------------------------------------

    def hold(self, now: float, seconds: float, *, ban: bool = False) -> None:
        """Send nothing for `seconds` from now. Holds only ever extend."""
        self.hold_until(now + self.state.clock.hi + seconds, ban=ban)

    def hold_until(self, until: float, *, ban: bool = False) -> None:
        """Send nothing before `until`, Unix s of the exchange's clock. Holds only ever extend."""
        state = self.state
        state.held_until = max(state.held_until, until)
        if ban:
            state.banned_until = max(state.banned_until, until)
        state.looked_at = UNKNOWN

    def refused(
        self,
        now: float,
        seconds: float,
        *,
        ban: bool = False,
        minute: int | None = None,
        used: int | None = None,
    ) -> None:
        """429 or 418: hold to the next minute, or for `seconds` if longer, and reserve more.

        `minute` is the one that counted the request; None: any that is not over for certain.
        `used` is the count at which it was refused: what is above it is not ours to use.
        """
        state = self.state
        clock = state.clock
        state.wary = clock.latest(now + seconds) + MEMORY
        if minute is None:
            minute = clock.latest(now)
        turn = MINUTE * (minute + 1)
        if turn > state.held_until and now + clock.lo >= state.held_until:
            more = state.strike if ban else 2 * state.strike  # a ban may be somebody else's doing
            state.strike = min(max(more, state.limit // 4), state.limit // 2)
        self._minute(minute).refused = True
        if used is not None and used < state.limit:
            state.refused_at = min(state.refused_at or used, used)
            state.strike = max(state.strike, state.limit - used)
        until = now + clock.hi + seconds if seconds > 0.0 else turn
        self.hold_until(max(turn, until), ban=ban)

    # -- tell --------------------------------------------------------------------------------

    def usage(self, now: float) -> Usage:
        """The budget at this moment; changes nothing."""
        state = self.state
        guess = self._span(now)[1]
        minute = state.minutes.get(guess, Minute(Curve(0.0)))
        self._resize(state.limit)
        reserve = self._kept + self._blindness()
        left = [self._cap_of(window) - window.used(now) for window in state.windows]
        sustained = [self._cap_of(w) * MINUTE / w.seconds for w in state.windows]
        left += [state.limit - reserve - minute.used, self._own - minute.charged]
        return Usage(
            limit=state.limit,
            used=minute.used,
            remaining=max(0, min(left)),
            charged=minute.charged,
            others=minute.used - minute.charged,
            in_flight=minute.open,
            reserve=reserve,
            share=self._own,
            resets_at=datetime.fromtimestamp(MINUTE * (guess + 1), UTC),
            held_until=self._instant(now, state.held_until),
            banned_until=self._instant(now, state.banned_until),
            sustained=min(sustained, default=math.inf),
        )

    def _instant(self, now: float, until: float) -> datetime | None:
        return datetime.fromtimestamp(until, UTC) if until > now + self.state.clock.lo else None
