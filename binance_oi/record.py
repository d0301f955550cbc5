"""A record of the shared file: what all processes of a user know of one pool.

Pure, like `minutes`. The rule of this file: a checksum says that a record is whole, and nothing of
what it means. So every number is held against a bound before it decides anything: loops run over
the minutes of a clock, waits end at its instants. A record that breaks one is not believed; a hold
in it that an exchange can have asked for still is.
"""

import math
from itertools import accumulate
from operator import attrgetter

import msgspec

from binance_oi.minutes import DOUBTS, FLIGHT, MEMORY, UNKNOWN, Minute, State
from binance_oi.others import SLOT, Curve
from binance_oi.server_clock import AHEAD, MINUTE
from binance_oi.window import SHORTEST, SLOTS, Window

MOST = 10**12  # weight; a header has nine digits, and a limit may be none
COUNT = 2**53  # of anything that is only counted
MOST_DOUBTS = 4 * DOUBTS
MOST_WINDOWS = 8
LONGEST = 400 * 86_400  # s; no limit of the exchange has a longer window
MOST_SLOTS = 3 * SLOTS + math.ceil(FLIGHT / SHORTEST * SLOTS)
HOLD = 3 * 86_400.0 + 3600.0  # s: no ban is longer than three days; our clocks may be an hour off
TURN = 3.0 * MINUTE  # s: nobody is waited for longer than until the next minute has begun
SOON = 0.25  # s; no curve ends sooner, see `Curve.draw`
OLD = 86_400.0  # s after which a record tells nothing of the minute but its hold

_NAMES = ("charged", "open", "unsure", "seen", "others", "unheard")
_COUNTS = attrgetter(*_NAMES)


class Record(msgspec.Struct, array_like=True):
    """What is written."""

    pool: str
    boot: str  # names the run of the machine, and so the monotonic clock
    state: State


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode
_decode_state = msgspec.msgpack.Decoder(State).decode


def decode(data: bytes) -> Record | None:
    """The record in `data`; None when it is none, or one of another version."""
    try:
        return _decode(data) if data else None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def copied(state: State) -> State:
    """A copy of `state` as it is at one moment, also while another thread changes it."""
    return _decode_state(encode(state))  # one call that lets no other thread run


# -- bounds ----------------------------------------------------------------------------------


def flaw(state: State, now: float) -> str:
    """What in `state` cannot be so; empty when it can be believed.

    Corrects what our own arithmetic leaves behind: minutes that are far from now are dropped, and
    counts that were corrected below 0 are 0.

    Args:
        state: As it was read.
        now: Monotonic s, read after `state` was.
    """
    if not state.clock.is_possible(now):
        return "its clock"
    if not _are_instants_possible(state, now):
        return "an instant"
    if not _are_scalars_possible(state, now):
        return "a weight"
    if not _are_windows_possible(state.windows, now):
        return "a window"
    return "" if _are_minutes_possible(state, now) else "a minute"


def is_old(state: State, now: float) -> bool:
    """Whether nobody has used it for so long that only a hold in it may still matter."""
    return now - state.clock.at > OLD


def _are_instants_possible(state: State, now: float) -> bool:
    latest = now + state.clock.hi + HOLD
    return (
        0.0 <= state.held_until <= latest
        and 0.0 <= state.banned_until <= latest
        and UNKNOWN <= state.alone_until_at <= now + TURN
        and UNKNOWN <= state.looked_at <= now + AHEAD
    )


def _are_scalars_possible(state: State, now: float) -> bool:
    minute = state.clock.latest(now)
    return (
        1 <= state.limit <= MOST
        and 0 <= state.strike <= MOST
        and 0 <= state.refused_at <= MOST
        and 0 <= state.silent <= COUNT
        and 0 <= state.turned <= minute + 2
        and -1 <= state.wary <= minute + HOLD // MINUTE + 2 * MEMORY
    )


def _are_windows_possible(windows: list[Window], now: float) -> bool:
    latest = now + FLIGHT + TURN
    return len(windows) <= MOST_WINDOWS and all(
        1 <= window.seconds <= LONGEST
        and 1 <= window.most <= COUNT
        and window.since <= latest
        and len(window.slots) <= MOST_SLOTS
        and all(
            -COUNT <= slot <= latest * SLOTS and 0 <= used <= MOST
            for slot, used in window.slots.items()
        )
        for window in windows
    )


def _are_minutes_possible(state: State, now: float) -> bool:
    """Drops those that are far from now: a clock that was a guess leaves them behind."""
    minutes, clock = state.minutes, state.clock
    first, last = clock.earliest(now) - MEMORY - 1, clock.latest(now + FLIGHT + TURN)
    for k in list(minutes):
        if not first <= k <= last:
            del minutes[k]
            continue
        minute = minutes[k]
        counts = _COUNTS(minute)
        if max(counts) > MOST or (min(counts) < 0 and not _corrected(minute, counts)):
            return False
        if minute.doubts and not _are_doubts_possible(minute.doubts, now):
            return False
        if not _is_curve_possible(minute.curve):
            return False
    return True


def _corrected(minute: Minute, counts: tuple[int, ...]) -> bool:
    """Whether what is below 0 is small enough to be of our own making; makes it 0."""
    for name, count in zip(_NAMES, counts, strict=True):
        setattr(minute, name, max(0, count))
    return min(counts) >= -MOST


def _are_doubts_possible(doubts: list[tuple[int, int]], now: float) -> bool:
    latest = now + FLIGHT + TURN
    return len(doubts) <= MOST_DOUBTS and all(
        -COUNT <= second <= latest and 0 <= weight <= MOST for second, weight in doubts
    )


def _is_curve_possible(curve: Curve) -> bool:
    heights, until = curve.heights, curve.until
    if heights and sorted(heights) != heights:
        # A count that falls is drawn as a fall; others cannot give back what they have used.
        heights[:] = accumulate(heights, max)
    return (
        (until == 0.0 or SOON <= until <= MINUTE)
        and len(heights) == math.ceil(until / SLOT)
        and (not heights or 0 <= heights[0] <= heights[-1] <= MOST)
        and 0.0 <= curve.since <= MINUTE
        and 0.0 <= curve.fastest <= MOST
        and 0 <= curve.base <= MOST
    )


def keep_holds(ours: State, found: State, now: float) -> None:
    """Obey what a record says that is not believed otherwise: its holds, which are in Unix s."""
    first, last = now + ours.clock.lo, now + ours.clock.hi + HOLD
    if first < found.held_until <= last:
        ours.held_until = max(ours.held_until, found.held_until)
        ours.looked_at = UNKNOWN
    if first < found.banned_until <= last:
        ours.banned_until = max(ours.banned_until, found.banned_until)
        ours.held_until = max(ours.held_until, ours.banned_until)
        ours.looked_at = UNKNOWN


# -- together again --------------------------------------------------------------------------


def merge(shared: State, ours: State, base: State | None, now: float) -> None:
    """Add to `shared` what `ours` has learned since both were `base`.

    No weight is lost: what either side has charged stays charged in each minute that may still be
    on. Without a `base` all of `ours` is added, and what both knew counts twice until the minute
    is over.

    Args:
        shared: What the others know; changed in place.
        ours: What we know.
        base: What all knew when we parted; None when that is unknown.
        now: Monotonic s.
    """
    if ours.clock.dated and not shared.clock.dated:
        shared.clock, shared.turned = ours.clock, ours.turned
    shared.clock.drift(now)
    for k in [k for k in ours.minutes if k >= shared.clock.earliest(now)]:
        if k in shared.minutes:
            before = base.minutes.get(k) if base is not None else None
            _merge_minute(shared.minutes[k], ours.minutes[k], before or Minute(Curve(0.0)))
        else:
            shared.minutes[k] = ours.minutes[k]
    _merge_windows(shared, ours, base)
    if base is not None and ours.limit != base.limit:
        shared.limit = ours.limit
    is_held = ours.held_until > shared.held_until
    shared.looked_at = UNKNOWN if is_held else max(shared.looked_at, ours.looked_at)
    shared.held_until = max(shared.held_until, ours.held_until)
    shared.banned_until = max(shared.banned_until, ours.banned_until)
    shared.turned = max(shared.turned, min(ours.turned, shared.clock.latest(now)))
    shared.strike = max(shared.strike, ours.strike)
    refused = [count for count in (shared.refused_at, ours.refused_at) if count]
    shared.refused_at = min(refused, default=0)
    shared.alone_until_at = max(shared.alone_until_at, ours.alone_until_at)
    shared.wary = max(shared.wary, ours.wary)
    shared.silent = min(shared.silent, ours.silent)


def _merge_minute(shared: Minute, ours: Minute, before: Minute) -> None:
    """What was flying, lost or charged on either side since `before` is so for both."""
    by_us, by_them = ours.charged - before.charged, shared.charged - before.charged
    flying = max(0, _flying(shared) + _flying(ours) - _flying(before))
    lost = [doubt for doubt in ours.doubts if doubt not in before.doubts]
    shared.doubts = _gathered([*shared.doubts, *lost])
    shared.open = flying + sum(weight for _, weight in shared.doubts)
    # Each side has taken the other's weight for that of others.
    theirs = shared.others - max(0, by_us), ours.others - max(0, by_them)
    shared.others = max(0, *theirs)
    shared.charged = max(0, shared.charged + by_us)
    shared.seen = max(shared.seen, ours.seen)
    shared.refused |= ours.refused
    if ours.curve.until > shared.curve.until:
        shared.curve = ours.curve


def _merge_windows(shared: State, ours: State, base: State | None) -> None:
    """Add what we used of other limits; what moved to another slot meanwhile counts in both."""
    theirs = {(window.seconds, window.counts_requests): window for window in shared.windows}
    before = {(w.seconds, w.counts_requests): w.slots for w in (base.windows if base else ())}
    for window in ours.windows:
        key = window.seconds, window.counts_requests
        if key not in theirs:
            shared.windows.append(window)
            continue
        slots, known = theirs[key].slots, before.get(key, {})
        for slot, used in window.slots.items():
            slots[slot] = slots.get(slot, 0) + max(0, used - known.get(slot, 0))


def _flying(minute: Minute) -> int:
    return minute.open - sum(weight for _, weight in minute.doubts)


def _gathered(doubts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """In order, and as many as a minute keeps apart."""
    doubts.sort()
    while len(doubts) > DOUBTS:
        (_, weight), (second, more) = doubts[-2:]
        doubts[-2:] = [(second, weight + more)]
    return doubts
