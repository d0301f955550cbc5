"""The time of a shared record. It does not jump when the server's clock is set.

Pure. The rule of this file: the time of a record is our steady clock plus `ahead`. It is also the
server's clock plus `shift`, which the record contains. The first answer of the server sets `ahead`.
In the first minute, a `shift` that another member wrote may set it again. After that, answers
correct `ahead` only for drift. When the server's clock is set, or another server takes over,
`shift` changes and `ahead` stays. So no instant in the record moves.
"""

import math

from binance_oi.budget.knowledge import Known

CLOCK_SET_S = 0.1  # s, plus half a round trip: a larger error shows that a clock was set
MIN_DRIFT_S = 0.02  # s; `learn` ignores a smaller difference: it may be an error of measurement
DRIFT_STEP_S = 0.0005  # s by which one answer corrects `ahead` for drift
CORRECTABLE_S = 60.0  # s after our first answer; until then, the record may correct our time


class RecordTime:
    """Compares the time of the record with our steady clock and with the server's clock.

    Args:
        ahead: The time of the record minus our steady clock, in s; a guess until the first answer.
    """

    def __init__(self, ahead: float) -> None:
        self.ahead: float = ahead
        self.shift: float = 0.0
        """The time of the record minus the server's clock, in seconds."""
        self._former = math.nan  # `shift` in the record when we noticed that the clock was set
        self._joined_at = math.inf

    @property
    def is_known(self) -> bool:
        """Whether the server has answered at least once."""
        return self._joined_at < math.inf

    def joined_for(self, steady: float) -> float:
        """Seconds since the first answer of the server, by our steady clock; negative before it."""
        return steady - self._joined_at

    def learn(self, server: float, sent: float, received: float, shift: float | None) -> float:
        """Learn from one answer: the server's clock showed `server` between `sent` and `received`.

        Args:
            server: Unix s, by the server's clock.
            sent: When we sent the call, by our steady clock.
            received: When the answer came, by our steady clock.
            shift: The `shift` in the record; None if the server has no record.

        Returns:
            Seconds by which `ahead` has jumped. It jumps only at the first answer and in the
            `CORRECTABLE_S` seconds after it; otherwise the result is 0.0.
        """
        ahead, slack = server - (sent + received) / 2, CLOCK_SET_S + (received - sent) / 2
        if not self.is_known:
            self._joined_at = received
            return self._move(ahead, self.shift if shift is None else shift)
        if shift is not None and shift != self.shift:
            if abs(ahead + shift - self.ahead) <= slack:  # another member noticed the jump first
                self.shift = shift
            elif shift != self._former and received < self._joined_at + CORRECTABLE_S:
                return self._move(ahead, shift)
        error = ahead + self.shift - self.ahead
        if abs(error) > slack:
            self._former = self.shift if shift is None else shift  # until the next write
            self.shift -= error
        elif abs(error) > MIN_DRIFT_S:
            self.ahead += math.copysign(DRIFT_STEP_S, error)
        return 0.0

    def _move(self, ahead: float, shift: float) -> float:
        moved = ahead + shift - self.ahead
        self.ahead, self.shift = ahead + shift, shift
        return moved


def move(known: Known, seconds: float) -> dict[tuple[int, bool], int]:
    """Our time has jumped by `seconds`: move every instant of `known` that is in our time.

    Returns:
        The number of slots by which each window has moved. The key is the length of the window in
        seconds, and whether it counts requests.
    """
    clock = known.clock
    clock.lo, clock.hi, clock.at = clock.lo - seconds, clock.hi - seconds, clock.at + seconds
    for name in ("counted_at", "probe_ends_at", "careful_since"):
        if math.isfinite(moment := getattr(known, name)):
            setattr(known, name, moment + seconds)
    for minute in known.ledger.minutes.values():
        minute.undecided = [(second + math.ceil(seconds), w) for second, w in minute.undecided]
    slots: dict[tuple[int, bool], int] = {}
    for window in known.windows:
        slots[window.seconds, window.counts_requests] = window.move(seconds)
    known.demands.clear()  # pollers declare them again
    return slots
