"""Encodes, checks and merges a record: what all processes of a user know about one pool.

Pure. The rule of this file: a checksum proves that a record is complete, not that its numbers are
right. A wrong number could make a loop over minutes endless, or a wait last for years. So we
compare every number with a bound before we use it. `flaw` corrects some numbers that may come from
our own arithmetic. We do not trust a record in which another number breaks its bound. But we still
obey its cooldown, if an exchange may ask for one of that length.
"""

import math
from collections.abc import Callable
from itertools import accumulate
from operator import attrgetter

import msgspec

from binance_oi.budget import demand
from binance_oi.budget.knowledge import UNKNOWN, Known
from binance_oi.budget.ledger import Minute
from binance_oi.budget.others import Curve
from binance_oi.budget.server_clock import CORES_APART_S, MINUTE
from binance_oi.budget.tuning import FLIGHT, MEMORY, SLOT, UNDECIDED
from binance_oi.budget.window import MIN_SLOTTED_S, Window

MAX_WEIGHT = 10**12  # weight: 1000 times the largest count that we accept, which has nine digits
MAX_LIMIT = 10**9  # weight per minute: the largest that a user may set
MAX_COUNT = 2**53  # the largest value of any other count; a float represents it exactly
MAX_UNDECIDED = 4 * UNDECIDED  # entries of undecided weight in a minute, at most
MAX_WINDOWS = 8  # windows in a record, at most
MAX_WINDOW_S = 400 * 86_400  # s: the longest window in a record
MAX_PARTS = 200  # parts of a window, at most
MAX_SLOTS_PER_PART = 3 + math.ceil(FLIGHT / MIN_SLOTTED_S)  # slots in use for each part, at most
MAX_COOLDOWN_S = 3 * 86_400.0 + 3600.0  # s: the longest ban, and 1 h for the error of our clock
MAX_WAIT_S = 3.0 * MINUTE  # s: any other wait ends with the current minute, or soon after
MIN_CURVE_S = 0.25  # s into its minute: no curve ends earlier; see `Curve.draw`
COPY_TRIES = 8  # attempts to get the same bytes from two encodings in a row
SLOTS_IF_LONG = 4  # slots that each window keeps if the record would be too long
MINUTES_IF_LONG = 8  # minutes that stay if the record would be too long
OLD_S = 86_400.0  # s since a record's last use; after that, only its cooldowns and windows matter

_NAMES = (
    *("booked", "unconfirmed", "doubtful", "reported", "others"),
    *("single", "interactive"),
)
_COUNTS = attrgetter(*_NAMES)


class Record(msgspec.Struct, array_like=True):
    """The content of a record."""

    pool: str
    boot: str  # the boot of the machine; monotonic times of another boot mean nothing
    state: Known


encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode
_decode_state = msgspec.msgpack.Decoder(Known).decode


def decode(data: bytes) -> Record | None:
    """Decode the record in `data`; None if it is empty, damaged or of another version."""
    try:
        return _decode(data) if data else None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def copied(state: Known) -> Known:
    """Return a consistent copy of `state`, even while another thread changes it.

    Another thread runs during an encoding only if the garbage collector calls a finalizer. So we
    repeat the encoding until two results in a row are equal, or `COPY_TRIES` times. Two equal
    results come from one state.
    """
    data = encode(state)
    for _ in range(COPY_TRIES):
        again = encode(state)
        if again == data:
            break
        data = again
    return _decode_state(data)


def fitted(made: Record, most: int) -> bytes:
    """Encode a record in at most `most` bytes. Nearly every record fits unchanged.

    A record that is too long loses detail, but no weight that may still count.

    Args:
        made: The record; it stays unchanged. Its names have at most 400 characters.
        most: The largest length in bytes, at least 4,000.
    """
    data = encode(made)
    if len(data) <= most:
        return data
    slim = _decode(data)
    for shed in (_drop_demands, _drop_far_minutes, _coarsen_windows, _join_undecided, _drop_past):
        if len(data) > most:
            shed(slim.state)
            data = encode(slim)
    return data


def _drop_demands(state: Known) -> None:
    """Drop all demands. They only serve plans, and each process writes its own again soon."""
    state.demands.clear()


def _drop_far_minutes(state: Known) -> None:
    """Drop minutes far from now, which every reader drops too; see `_live_minutes`."""
    _keep_minutes(state, *_live_minutes(state, state.clock.at))


def _coarsen_windows(state: Known) -> None:
    """Merge the slots of each window into a few. No weight leaves the window earlier."""
    for window in state.windows:
        slots = sorted(window.slots)
        size = math.ceil(len(slots) / SLOTS_IF_LONG)
        groups = [slots[i : i + size] for i in range(0, len(slots), size or 1)]
        window.slots = {group[-1]: sum(window.slots[slot] for slot in group) for group in groups}


def _join_undecided(state: Known) -> None:
    """Join the undecided weight of each minute in one entry, with the latest of the seconds."""
    for minute in state.ledger.minutes.values():
        if minute.undecided:
            weight = sum(weight for _, weight in minute.undecided)
            minute.undecided = [(minute.undecided[-1][0], weight)]


def _drop_past(state: Known) -> None:
    """Drop the curves of others, and each minute that is over except the newest of them.

    At most `MINUTES_IF_LONG` minutes stay. If more were possible, the clock would be so uncertain
    that no reader would trust the record.
    """
    state.others.curves.clear()
    clock = state.clock
    first, last = clock.earliest(clock.at) - 1, clock.latest(clock.at + FLIGHT + MAX_WAIT_S)
    last = min(
        last, max(first, clock.likeliest(clock.at) - MINUTES_IF_LONG // 2) + MINUTES_IF_LONG - 1
    )
    _keep_minutes(state, max(first, last - MINUTES_IF_LONG + 1), last)


def _live_minutes(state: Known, now: float) -> tuple[int, int]:
    """Return the first and the last minute that may matter at `now`, monotonic s."""
    return state.clock.earliest(now) - MEMORY - 1, state.clock.latest(now + FLIGHT + MAX_WAIT_S)


def _keep_minutes(state: Known, first: int, last: int) -> None:
    for by_minute in (state.ledger.minutes, state.others.curves):
        for k in [k for k in by_minute if not first <= k <= last]:
            del by_minute[k]


# -- bounds ----------------------------------------------------------------------------------


def flaw(state: Known, now: float) -> str:
    """Name the first impossible part of `state`; empty if we can trust all of it.

    Our own arithmetic may leave some wrong values that do no harm. The call corrects them: it drops
    minutes far from now, raises counts below 0 to 0, replaces a falling curve by one that stays at
    its height, bounds the numbers about others by the limit, and drops demands that have ended or
    are impossible.

    Args:
        state: The state as it was read; corrected in place.
        now: Monotonic s, read after `state`.
    """
    if not state.clock.is_possible(now):
        return "its clock"
    if not _are_instants_possible(state, now):
        return "an instant"
    if not _are_scalars_possible(state, now):
        return "a weight"
    if not _are_windows_possible(state.windows, now):
        return "a window"
    _bound_others(state)
    state.demands = demand.believed(state.demands, now)
    return "" if _are_minutes_possible(state, now) else "a minute"


def is_old(state: Known, now: float) -> bool:
    """Whether a record was unused for so long that only its cooldowns and windows matter."""
    return now - state.clock.at > OLD_S


def _are_instants_possible(state: Known, now: float) -> bool:
    latest = now + state.clock.hi + MAX_COOLDOWN_S
    return (
        0.0 <= state.cooldown_until <= latest
        and 0.0 <= state.banned_until <= latest
        and UNKNOWN <= state.probe_ends_at <= now + MAX_WAIT_S
        and UNKNOWN <= state.counted_at <= now + CORES_APART_S
        and (
            state.careful_since == math.inf or UNKNOWN <= state.careful_since <= now + CORES_APART_S
        )
    )


def _are_scalars_possible(state: Known, now: float) -> bool:
    minute = state.clock.latest(now)
    return (
        1 <= state.limit <= MAX_LIMIT
        and 0 <= state.announced <= MAX_LIMIT
        and max(state.lowered_until, state.rolling_until) <= minute + MAX_COOLDOWN_S // MINUTE
        and 0 <= state.others.expected_surge <= MAX_WEIGHT
        and 0 <= state.others.refused_count <= MAX_WEIGHT
        and 0 <= state.silent <= MAX_COUNT
        and 0 <= state.ledger.newest <= minute + 2
        and -1 <= state.others.expected_until <= minute + MAX_COOLDOWN_S // MINUTE + 2 * MEMORY
    )


def _bound_others(state: Known) -> None:
    """Bound the numbers about others by the limit, which the exchange may have lowered since."""
    others = state.others
    others.expected_surge = min(others.expected_surge, state.limit)
    others.refused_count = min(others.refused_count, state.limit)


def _are_windows_possible(windows: list[Window], now: float) -> bool:
    latest = now + FLIGHT + MAX_WAIT_S
    return len(windows) <= MAX_WINDOWS and all(
        1 <= window.seconds <= MAX_WINDOW_S
        and 1 <= window.most <= MAX_COUNT
        and window.since <= latest
        and 1 <= window.parts <= MAX_PARTS
        and 0.0 <= window.bulk_at <= latest
        and 0.0 <= window.kept_until <= latest + window.seconds
        and len(window.slots) <= MAX_SLOTS_PER_PART * window.parts
        and all(
            -MAX_COUNT <= slot <= latest * window.parts and 0 <= used <= MAX_WEIGHT
            for slot, used in window.slots.items()
        )
        for window in windows
    )


def _are_minutes_possible(state: Known, now: float) -> bool:
    """Whether every minute is possible; first drops those far from now.

    A process whose clock was a wrong guess may have left such minutes.
    """
    minutes, curves = state.ledger.minutes, state.others.curves
    _keep_minutes(state, *_live_minutes(state, now))
    for minute in minutes.values():
        counts = _COUNTS(minute)
        if max(counts) > MAX_WEIGHT or (min(counts) < 0 and not _corrected(minute, counts)):
            return False
        if minute.undecided and not _are_undecided_possible(minute.undecided, now):
            return False
    return all(_is_curve_possible(curve) for curve in curves.values())


def _corrected(minute: Minute, counts: tuple[int, ...]) -> bool:
    """Raise counts below 0 to 0; return whether they may come from our own arithmetic."""
    for name, count in zip(_NAMES, counts, strict=True):
        setattr(minute, name, max(0, count))
    return min(counts) >= -MAX_WEIGHT


def _are_undecided_possible(undecided: list[tuple[int, int]], now: float) -> bool:
    latest = now + FLIGHT + MAX_WAIT_S
    return len(undecided) <= MAX_UNDECIDED and all(
        -MAX_COUNT <= second <= latest and 0 <= weight <= MAX_WEIGHT for second, weight in undecided
    )


def _is_curve_possible(curve: Curve) -> bool:
    heights, until = curve.heights, curve.until
    if heights and sorted(heights) != heights:
        # Earlier versions of this library drew falling curves, but others cannot return weight.
        heights[:] = accumulate(heights, max)
    return (
        (until == 0.0 or MIN_CURVE_S <= until <= MINUTE)
        and len(heights) == math.ceil(until / SLOT)
        and (not heights or 0 <= heights[0] <= heights[-1] <= MAX_WEIGHT)
        and 0.0 <= curve.since <= MINUTE
        and 0.0 <= curve.fastest <= MAX_WEIGHT
        and _is_base_possible(curve)
    )


def _is_base_possible(curve: Curve) -> bool:
    """Whether the use before the first count is part of the use up to the slot of that count."""
    if not curve.base:
        return True
    slots = min(math.ceil(curve.since / SLOT), len(curve.heights))
    return slots > 0 and 0 < curve.base <= curve.heights[slots - 1]


def keep_cooldowns(ours: Known, found: Known, now: float) -> None:
    """Obey the cooldown and the ban in `found`, even if we do not trust the rest of it.

    But ignore an end that no exchange can have named, because it is too far away. Both ends are
    Unix s, so they have a meaning even after a reboot.
    """
    first, last = now + ours.clock.lo, now + ours.clock.hi + MAX_COOLDOWN_S
    if found.cooldown_until > 0.0 and first < found.cooldown_until <= last:
        ours.cooldown_until = max(ours.cooldown_until, found.cooldown_until)
        ours.counted_at = UNKNOWN
    if found.banned_until > 0.0 and first < found.banned_until <= last:
        ours.banned_until = max(ours.banned_until, found.banned_until)
        ours.cooldown_until = max(ours.cooldown_until, ours.banned_until)
        ours.careful_since, ours.after_ban = math.inf, True
        ours.counted_at = UNKNOWN


def keep_windows(ours: Known, found: Known, now: float) -> None:
    """Take over the weight in the windows of an old record, unless a window is impossible."""
    if not _are_windows_possible(found.windows, now):
        return
    known = {(window.seconds, window.counts_requests): window for window in ours.windows}
    for window in found.windows:
        mine = known.get((window.seconds, window.counts_requests))
        if mine is not None:  # our window may come from this record: a sum could count twice
            for slot, used in window.slots.items():
                mine.slots[slot] = max(used, mine.slots.get(slot, 0))
        elif window.used(now) > 0:
            ours.windows.append(window)
    _bound_windows(ours)


# -- merge -----------------------------------------------------------------------------------


def merge(shared: Known, ours: Known, base: Known | None, now: float) -> None:
    """Add to `shared` what `ours` has learned since both were equal to `base`.

    No weight is lost: the charges of either side stay charged, in every minute that may be the
    current one. If the clocks contradict each other, we drop the clock of one side. Then we no
    longer know to which minutes the weight of that side belongs, so we book its fullest live minute
    to each minute that may be the current one. Without a `base`, or if the clocks contradict each
    other, we add all of `ours`. Then weight that both sides know counts twice until its minute is
    over.

    Args:
        shared: The knowledge of the other processes; changed in place.
        ours: Our own knowledge.
        base: The knowledge of all processes when we last shared; None if it is unknown.
        now: Monotonic s.
    """
    is_one_time = _share_clock(shared, ours, now)
    _merge_minutes(shared, ours, base if is_one_time else None, now)
    _merge_others(shared, ours, now)
    _merge_windows(shared, ours, base)
    shared.demands = demand.merged(shared.demands, ours.demands)
    if base is None:  # we do not know which of the two limits is the later announcement
        shared.limit = min(shared.limit, ours.limit)
    elif ours.limit != base.limit:
        shared.limit, shared.announced = ours.limit, ours.announced
    is_held = ours.cooldown_until > shared.cooldown_until
    shared.counted_at = UNKNOWN if is_held else max(shared.counted_at, ours.counted_at)
    shared.cooldown_until = max(shared.cooldown_until, ours.cooldown_until)
    shared.banned_until = max(shared.banned_until, ours.banned_until)
    shared.probe_ends_at = max(shared.probe_ends_at, ours.probe_ends_at)
    shared.lowered_until = max(shared.lowered_until, ours.lowered_until)
    shared.rolling_until = max(shared.rolling_until, ours.rolling_until)
    shared.silent = min(shared.silent, ours.silent)
    # After a start, the side that began earlier decides. After a ban, the other one does.
    shared.after_ban |= ours.after_ban
    decisive = max if shared.after_ban else min
    shared.careful_since = decisive(shared.careful_since, ours.careful_since)


def _share_clock(shared: Known, ours: Known, now: float) -> bool:
    """Use one clock for both sides: `shared`'s, unless that is a guess and ours is not.

    Returns:
        Whether both clocks agreed. If not, one side's weight has moved to minutes of the other
        clock, so a comparison with `base` means nothing.
    """
    shared.clock.drift(now)
    ours.clock.drift(now)
    is_one_time = shared.clock.agrees(ours.clock.lo, ours.clock.hi)
    is_ours = ours.clock.dated and not shared.clock.dated
    if not is_one_time:
        behind, after = (shared, ours.clock) if is_ours else (ours, shared.clock)
        behind.start_again(after, now)
    elif is_ours:
        shared.ledger.newest = ours.ledger.newest
    if is_ours:
        shared.clock = ours.clock
    return is_one_time


def _merge_minutes(shared: Known, ours: Known, base: Known | None, now: float) -> None:
    """Merge each minute that may be the current one, or a later one."""
    minutes = shared.ledger.minutes
    for k in [k for k in ours.ledger.minutes if k >= shared.clock.earliest(now)]:
        if k in minutes:
            before = base.ledger.minute(k) if base is not None else Minute()
            _merge_minute(minutes[k], ours.ledger.minutes[k], before)
        else:
            minutes[k] = ours.ledger.minutes[k]
    begun = min(ours.ledger.newest, shared.clock.latest(now))
    shared.ledger.newest = max(shared.ledger.newest, begun)


def _merge_minute(shared: Minute, ours: Minute, before: Minute) -> None:
    """Add to `shared` the weight that our side has booked since `before`."""
    by_us, by_them = ours.booked - before.booked, shared.booked - before.booked
    under_way = max(0, shared.under_way + ours.under_way - before.under_way)
    lost = [each for each in ours.undecided if each not in before.undecided]
    shared.undecided = _gathered([*shared.undecided, *lost])
    shared.unconfirmed = under_way + sum(weight for _, weight in shared.undecided)
    # Since `before`, each side has counted the other side's weight as weight of others.
    theirs = shared.others - max(0, by_us), ours.others - max(0, by_them)
    shared.others = max(0, *theirs)
    shared.booked = max(0, shared.booked + by_us)
    shared.reported = max(shared.reported, ours.reported)
    shared.single = max(0, shared.single + ours.single - before.single)
    shared.interactive = max(shared.interactive, ours.interactive)


def _merge_others(shared: Known, ours: Known, now: float) -> None:
    """Expect all use that either side expects. Of two curves of a minute, keep the longer one."""
    theirs, seen = shared.others, ours.others
    theirs.expected_surge = max(theirs.expected_surge, seen.expected_surge)
    refused = [count for count in (theirs.refused_count, seen.refused_count) if count]
    theirs.refused_count = min(refused, default=0)
    theirs.expect_until(seen.expected_until)
    curves = theirs.curves
    for k, curve in seen.curves.items():
        known = curves.get(k)
        if k >= shared.clock.earliest(now) and (known is None or curve.until > known.until):
            curves[k] = curve


def _merge_windows(shared: Known, ours: Known, base: Known | None) -> None:
    """Add our use of the windows. Weight that we have moved to another slot counts twice."""
    theirs = {(window.seconds, window.counts_requests): window for window in shared.windows}
    before = {(w.seconds, w.counts_requests): w.slots for w in (base.windows if base else ())}
    for window in ours.windows:
        key = window.seconds, window.counts_requests
        if key not in theirs:
            shared.windows.append(window)
            continue
        shared_window = theirs[key]
        shared_window.bulk_at = max(shared_window.bulk_at, window.bulk_at)
        shared_window.kept_until = max(shared_window.kept_until, window.kept_until)
        slots, known = shared_window.slots, before.get(key, {})
        for slot, used in window.slots.items():
            slots[slot] = slots.get(slot, 0) + max(0, used - known.get(slot, 0))
    _bound_windows(shared)


def _bound_windows(state: Known) -> None:
    """Keep the tightest limits, if both sides together have too many."""
    if len(state.windows) > MAX_WINDOWS:
        state.windows.sort(key=lambda window: window.most / window.seconds)
        del state.windows[MAX_WINDOWS:]


def _gathered(undecided: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort undecided weight by time; merge the latest entries until `UNDECIDED` are left."""
    undecided.sort()
    while len(undecided) > UNDECIDED:
        (_, weight), (second, more) = undecided[-2:]
        undecided[-2:] = [(second, weight + more)]
    return undecided
