"""The time of a shared record, which does not jump when the server's clock does.

Pure. The rule of this file: the time of a record is our steady clock plus a constant, `ahead`. The
first answer of the server sets it. When somebody sets the server's clock, or another server takes
over, `shift` changes and `ahead` does not, so no instant in the record moves.
"""

import math

from binance_oi.budget.knowledge import Known

JUMP = 0.1  # s beyond half a round trip: a larger difference means that the clock was set
FOLLOW = 0.02  # s of difference that stay: a round trip measures no better
STEP = 0.0005  # s by which one answer corrects a larger difference: clocks drift slowly
YOUNG = 60.0  # s after joining in which a contradiction means that we are wrong


class RecordTime:
    """Our steady clock, the server's clock, and the time of the record.

    Args:
        ahead: Seconds of the time of the record less our steady clock, until the first answer.
    """

    def __init__(self, ahead: float) -> None:
        self.ahead: float = ahead
        self.shift: float = 0.0
        """Seconds of the time of the record less those of the server's clock."""
        self._joined_at = math.inf

    @property
    def is_known(self) -> bool:
        """Whether the server has answered once."""
        return self._joined_at < math.inf

    def joined_for(self, steady: float) -> float:
        """Seconds since the first answer of the server, by our steady clock; negative before it."""
        return steady - self._joined_at

    def learn(self, server: float, sent: float, received: float, shift: float | None) -> float:
        """The server's clock showed `server` between two readings of our steady clock.

        Args:
            server: Unix s.
            sent: When it was asked.
            received: When its answer came.
            shift: What the record says; None when there is no record.

        Returns:
            Seconds by which `ahead` has jumped; 0.0 unless we joined in the last minute.
        """
        ahead, slack = server - (sent + received) / 2, JUMP + (received - sent) / 2
        if not self.is_known:
            self._joined_at = received
            return self._move(ahead, self.shift if shift is None else shift)
        if shift is not None and shift != self.shift:
            if abs(ahead + shift - self.ahead) <= slack:  # another member saw its clock jump
                self.shift = shift
            elif received < self._joined_at + YOUNG:
                return self._move(ahead, shift)
        error = ahead + self.shift - self.ahead
        if abs(error) > slack:
            self.shift -= error
        elif abs(error) > FOLLOW:
            self.ahead += math.copysign(STEP, error)
        return 0.0

    def _move(self, ahead: float, shift: float) -> float:
        moved = ahead + shift - self.ahead
        self.ahead, self.shift = ahead + shift, shift
        return moved


def move(known: Known, seconds: float) -> dict[tuple[int, bool], int]:
    """Add `seconds` to every instant of `known`, after our time has jumped by as much.

    Returns:
        Slots by which each window has moved; the key is its length and what it counts.
    """
    clock = known.clock
    clock.lo, clock.hi, clock.at = clock.lo - seconds, clock.hi - seconds, clock.at + seconds
    for name in ("counted_at", "probe_ends_at", "cautious_until"):
        if math.isfinite(moment := getattr(known, name)):
            setattr(known, name, moment + seconds)
    for minute in known.ledger.minutes.values():
        minute.undecided = [(second + math.ceil(seconds), w) for second, w in minute.undecided]
    slots: dict[tuple[int, bool], int] = {}
    for window in known.windows:
        slots[window.seconds, window.counts_requests] = window.move(seconds)
    known.demands.clear()  # pollers declare them again
    return slots
