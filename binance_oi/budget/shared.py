"""Leases, late settlements, going on alone and joining again: the pool that processes share.

The rule of this file: the shared record is read and changed only between `_enter` and `_leave`, and
no error of the file reaches a caller.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from operator import methodcaller

from binance_oi.budget import record
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.knowledge import Known
from binance_oi.budget.place import ADVICE
from binance_oi.budget.pool import (
    Change,
    Clock,
    Pool,
    apply_limit,
    apply_refusal,
    changing,
    steady_clock,
)
from binance_oi.budget.pool_file import ROOM, Left, PoolFile
from binance_oi.budget.usage import Reason, Receipt, Wait
from binance_oi.process import boot_identity, is_same_boot
from binance_oi.window import Limit

logger = logging.getLogger("binance_oi")

LOT = 8  # weight charged in advance
LEASE = 0.02  # s for which it may be sent; FLIGHT allows for far more
BRISK = 0.005  # s between two charges, below which the next ones are charged in advance
MANY = 64  # answers that wait to be told to others
BUSY = 0.001  # s after which to ask again for a bucket that another process has in its hands
RETRY = 1.0  # s after which a process that is alone tries to share again; doubled each time
RETRY_MOST = 30.0
CHECK = 60.0  # s between two looks at where the file has to be
NO_LINEAGE = -1  # of a record that is in no file any more

BOOT = boot_identity(time.time() - steady_clock())


def reason_to_doubt(found: record.Record, now: float) -> str:
    """Why a record is not believed; empty when it is."""
    if not is_same_boot(found.boot, BOOT):
        return "it is of another run of the machine"
    if record.is_old(found.state, now):
        return "it is old"
    return record.flaw(found.state, now)


class MachinePool(Pool):
    """The budget of one IP address, held in a file that all processes of a user share.

    Args:
        make_bucket: A bucket with our reserve and our share.
        state: What is known without the file.
        clock: Monotonic seconds, the same in every process.
        open_file: The file that a process which starts now would use, given the one we have.
    """

    def __init__(
        self,
        make_bucket: Callable[[Known], Bucket],
        state: Known,
        clock: Clock,
        open_file: Callable[[PoolFile | None], PoolFile],
    ) -> None:
        super().__init__(make_bucket, state, clock)
        self._open_file = open_file
        self._file: PoolFile | None = None
        self._late: list[Change] = []  # what others do not know yet, oldest first
        self._leased: list[Receipt] = []  # charged for the next few milliseconds
        self._charged_at = -math.inf
        self._changed = False  # whether entering has changed the bucket already
        # Sharing. What we charge alone is the difference between our books and `_base`.
        self._base = record.encode(record.Record("", BOOT, state))  # what all knew when we parted
        self._lineage: int | None = None  # of the record that we are part of
        self._is_untold = False  # our books hold what the file does not
        self._is_alone = False  # we have said that nothing is shared
        self._check_at = -math.inf  # monotonic s at which to look where the file has to be
        self._joined_at = -math.inf
        self._pause = RETRY
        self._has_doubted = False
        self._find_file(clock())

    @changing
    def close(self) -> None:
        """Book what is late, as far as others let us, and close the file."""
        if self._is_untold:
            self._check_at = -math.inf
        self.flush()
        self._check_at = math.inf
        if self._file is not None:
            self._file.close()
            self._file = None

    @changing
    def charge(self, weight: int) -> Receipt | Wait:
        """See `Bucket.charge`."""
        now = self._clock()
        leased = self._leased
        if leased and weight == 1 and now - leased[-1].sent < LEASE and not self._is_hold_new():
            return leased.pop()
        if not self._enter(now):
            return Wait(BUSY, Reason.STORE_BUSY)
        answer = self._bucket.charge(now, weight)
        if isinstance(answer, Receipt):
            if (
                now - self._charged_at < BRISK
                and answer.first > self._bucket.known.others.expected_until
            ):
                self._take_lease(now)
            self._charged_at = now
        self._leave(changed=self._changed or isinstance(answer, Receipt))
        return answer

    def _is_hold_new(self) -> bool:
        """What was charged in advance may not be sent once another process was refused.

        It is sent so soon that a file which others have left may still be asked.
        """
        file = self._file
        try:
            return file is not None and file.is_hold_new()
        except OSError:
            return True  # whoever takes the lock next says what is wrong

    def _is_hold_possible(self) -> bool:
        """Whether another process may have written a hold, here or in a file that replaced ours."""
        file = self._file
        try:
            return file is not None and (file.is_hold_new() or file.is_left())
        except OSError:
            return True

    def _take_lease(self, now: float) -> None:
        """Calls come in quick succession: charge for the next few, and lock the file once."""
        while len(self._leased) < LOT:
            more = self._bucket.charge(now, 1)
            if not isinstance(more, Receipt):
                return
            self._leased.append(more)

    @changing
    def sending(self, receipt: Receipt) -> Receipt | None:
        """See `Bucket.sending`; a hold that another process has written counts, too."""
        if self._clock() - receipt.sent >= LEASE and self._is_hold_possible():
            if not self._enter():
                return None
            self._leave(changed=self._changed)
        return super().sending(receipt)

    @changing
    def settle(self, receipt: Receipt, used: int | None, date: float | None) -> None:
        """See `Bucket.settle`. Told to others with the next charge, or with `flush`."""
        self._late.append(methodcaller("settle", receipt, self._clock(), used, date))
        if receipt.probe or len(self._late) >= MANY:  # others may be waiting for it
            self.flush()

    def lose(self, receipt: Receipt) -> None:
        """See `Bucket.lose`."""
        self._change(methodcaller("lose", receipt, self._clock()))

    def refund(self, receipt: Receipt) -> None:
        """See `Bucket.refund`."""
        self._change(methodcaller("refund", receipt))

    def hold(self, seconds: float, *, ban: bool = False) -> None:
        """See `Bucket.hold`."""
        self._hold(methodcaller("hold", self._clock(), seconds, ban=ban))

    def hold_until(self, until: float, *, ban: bool = False) -> None:
        """See `Pool.hold_until`."""
        self._hold(methodcaller("hold_until", until, ban=ban))

    def refused(self, seconds: float, *, ban: bool = False) -> None:
        """See `Bucket.refused`."""
        self._hold(methodcaller("refused", self._clock(), seconds, ban=ban))

    def settle_refused(
        self, receipt: Receipt, used: int | None, date: float | None, seconds: float, *, ban: bool
    ) -> None:
        """See `Pool.settle_refused`."""
        now = self._clock()
        self._hold(partial(apply_refusal, receipt, now, used, date, seconds, ban))

    def set_limit(self, limit: int) -> None:
        """See `Pool.set_limit`."""
        self._change(partial(apply_limit, limit))

    def set_limits(self, limit: int | None, others: Sequence[Limit]) -> None:
        """See `Pool.set_limits`."""
        self._change(methodcaller("set_limits", self._clock(), limit, tuple(others)))

    @property
    def banned_until(self) -> datetime | None:
        """See `Pool.banned_until`."""
        if self._is_hold_possible():
            return self.usage.banned_until
        return super().banned_until

    def _shown(self) -> tuple[Known, list[Change]]:
        """What others have written, and the changes that we have not told them yet.

        Reads the file without the lock, and changes neither the file nor the pool.
        """
        state = self._written()
        changes: list[Change] = [*self._late]
        changes += [methodcaller("refund", receipt) for receipt in self._leased]
        return state, changes

    def _written(self) -> Known:
        """A copy of what all processes know; of what we know, where nothing can be read."""
        file = self._file
        if file is not None and not self._is_untold:
            found, now = record.decode(file.peek()), self._clock()
            if found is not None:
                if not reason_to_doubt(found, now):
                    return found.state
                ours = record.copied(self._bucket.known)
                record.keep_holds(ours, found.state, now)
                return ours
        return record.copied(self._bucket.known)

    def _hold(self, change: Change) -> None:
        """Others have to know at once: try to share, also when we just tried."""
        if self._file is None and self._check_at < math.inf:
            self._check_at = -math.inf
        self._change(change)

    @changing
    def _change(self, change: Change) -> None:
        """Do it now, or with the next change when another process has the bucket in its hands."""
        # What was charged in advance was charged before this: it may not be sent after a hold.
        leased, self._leased = self._leased, []
        self._late += [methodcaller("refund", receipt) for receipt in leased]
        self._late.append(change)
        self.flush()

    @changing
    def flush(self) -> None:
        """See `Pool.flush`."""
        if (self._late or self._leased or self._is_untold) and self._enter():
            self._leave(changed=True)
        self._charged_at = -math.inf  # nothing is under way: the next charge is not one of many

    def _enter(self, now: float | None = None) -> bool:
        """Take the lock and put the shared state in place; without a file, just go on."""
        now = self._clock() if now is None else now
        if now >= self._check_at:
            self._find_file(now)
        file = self._file
        if file is not None:
            try:
                if not file.lock():
                    return False
                data, left = file.read(), file.take_left()
                if left is not None and data:
                    self._take_left(left)
                elif left is not None:  # nobody has gone on from it yet
                    file.go_on_from(left)
                    data = left.record
                if data is not None:
                    self._take(file, data)
                if left is not None:
                    self._is_untold = True
            except OSError as error:
                self._go_on_alone(error)
        late, self._late = self._late, []
        for change in late:
            change(self._bucket)
        leased, self._leased = self._leased, []
        for receipt in leased:
            self._bucket.refund(receipt)
        self._changed = bool(late or leased)
        return True

    def _take_left(self, left: Left) -> None:
        """Learn what others wrote into a file that is gone, before all of it is told anew."""
        found, now = record.decode(left.record), self._clock()
        if found is None:
            return
        if reason_to_doubt(found, now):
            record.keep_holds(self._bucket.known, found.state, now)
            return
        if self._is_untold:
            self._merge_into(found.state, now)
        self._bucket.known = found.state
        self._is_untold, self._base = True, left.record
        self._lineage = NO_LINEAGE

    def _merge_into(self, shared: Known, now: float) -> None:
        """Add to `shared` what only we know."""
        base = record.decode(self._base)
        ours = self._bucket.known
        record.merge(shared, ours, base.state if base is not None else None, now)

    def _take(self, file: PoolFile, data: bytes) -> None:
        """Go on from what is in the file; without a record, from what we know ourselves."""
        found, now = record.decode(data), self._clock()
        doubt = (
            reason_to_doubt(found, now)
            if found is not None
            else "it was written by another version"
        )
        if found is None or doubt:
            if data:
                self._say_doubt(doubt)
                file.begin_anew()
            if found is not None:  # its monotonic times mean nothing, but a ban goes on
                record.keep_holds(self._bucket.known, found.state, now)
            self._is_untold, self._base = True, b""
            return
        if self._lineage not in (None, file.lineage):  # begun without us: tell all that we know
            self._is_untold, self._base = True, b""
        if self._is_untold:
            self._merge_into(found.state, now)
        self._base, self._lineage = data, file.lineage
        self._bucket.known = found.state

    def _say_doubt(self, doubt: str) -> None:
        if not self._has_doubted:
            self._has_doubted = True
            logger.warning("the shared budget is not believed and starts anew: %s", doubt)

    def _leave(self, *, changed: bool) -> None:
        file = self._file
        if file is None:
            return
        try:
            if changed or self._is_untold:
                state = self._bucket.known
                data = record.fitted(record.Record(file.pool, BOOT, state), ROOM)
                file.write(data, state.cooldown_until)
                if file.is_left():  # while we had the lock: whoever followed may not have seen it
                    self._is_untold = True
                else:
                    self._base, self._lineage = data, file.lineage
                    if self._is_untold:
                        self._come_back()
            file.unlock()
        except (OSError, ValueError) as error:  # ValueError: more than fits into a page
            self._go_on_alone(error)

    # -- alone, and together again ---------------------------------------------------------------

    def _find_file(self, now: float) -> None:
        """Use the file that a process which starts now would use; try again if there is none."""
        file = self._file
        try:
            found = self._open_file(file)
        except OSError as error:
            self._go_on_alone(error)
            return
        if found is not file:
            if file is not None:
                file.leave_for(found)
            self._file, self._joined_at = found, now
        self._check_at = now + CHECK

    def _go_on_alone(self, error: Exception) -> None:
        """Say it once, and when to try again: later each time, unless it went well for long."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
            left = file.take_left()
            if left is not None:  # there is no other file to go on in
                self._take_left(left)
        now = self._clock()
        if file is not None and now - self._joined_at > CHECK:
            self._pause = RETRY
        self._is_untold = True
        self._check_at = now + self._pause
        self._pause = min(2 * self._pause, RETRY_MOST)
        if not self._is_alone:
            self._is_alone = True
            logger.warning(
                "the budget is not shared with other processes, until this ends: %s (%s)",
                error,
                ADVICE,
            )

    def _come_back(self) -> None:
        self._is_untold = False
        if self._is_alone:
            self._is_alone = False
            logger.warning("the budget is shared with other processes again")
