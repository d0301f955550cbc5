"""Polls into a store, for weeks.

The rule of this file: neither side stops the other. While the exchange cannot be read, the recorder
writes the gap. While the file cannot be written, polling continues and sweeps wait in memory. The
recorder writes them in order as soon as it can; a sweep that it gives up becomes a gap `storage`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from binance_oi.arguments import StrPath
from binance_oi.encoding import Encodable
from binance_oi.errors import RecordingError, StorageError
from binance_oi.exchange.symbols import check_symbols
from binance_oi.market.gap import Gap
from binance_oi.market.plan import MisfitError
from binance_oi.market.polling import Plan, Reader, begin_plan, sweeps
from binance_oi.market.schedule import TOLERATED_STEP, next_slot, period_ms
from binance_oi.market.snapshot import Snapshot
from binance_oi.recorder.backfill import Filler, PastReader
from binance_oi.recorder.gap_filler import GapFiller
from binance_oi.recorder.pending import Pending
from binance_oi.recorder.rotating import Rotation
from binance_oi.recorder.sink import Saved, Sink
from binance_oi.recorder.standby import stand_by
from binance_oi.recorder.store import TIDY_EVERY
from binance_oi.recorder.stored import Storing, stored
from binance_oi.recorder.writing_thread import WritingThread

RETRY_AFTER_S = 2.0  # after a failed write, when no sweep comes before
LAST_RETRY_PAUSE_S = 0.2  # between the tries of a recorder that ends
LAST_WRITES_WITHIN_S = 10.0  # how long a recorder that ends tries to write what is in memory

logger: logging.Logger = logging.getLogger("binance_oi")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Encodable):
    """What a recorder has done since it started."""

    sweeps: int = 0
    """Committed sweeps. A slot that occurs again counts again; the file keeps its first sweep."""
    rows: int = 0
    """New samples committed."""
    failed: int = 0
    """Symbols that could not be read, in those sweeps."""
    missed: int = 0
    """Slots without a sweep."""
    lost: int = 0
    """The part of `missed` that was read but not kept: the file could not be written in time, or
    was removed before it took in its log. A gap `storage` names each slot, if it can be written."""
    unwritten: int = 0
    """Sweeps in memory that are not in the file yet; see `Recorder`."""
    late: float = 0.0
    """Seconds after its slot at which the latest sweep began; 0.0 while there was none."""
    every: float | None = None
    """Seconds from slot to slot: as asked for, or as chosen; None before it was chosen."""
    backfilled: int = 0
    """Instants of the past stored for gaps; see `Recorder`."""
    trouble: str | None = None
    """Why the latest slot has no sweep, or why no list of symbols was read before the first one: a
    word and a text. None when the latest slot has a sweep."""
    storage_error: str | None = None
    """Why the file cannot be written now; None when it can."""


@runtime_checkable
class Sourced(Protocol):
    """A reader that knows which exchange it reads; `OpenInterestClient` does."""

    @property
    def source(self) -> str:
        """Its name; see `binance_oi.exchange.hosts.source_name`."""
        ...


class Recorder:
    """Records open interest into a file until it is stopped.

        async with OpenInterestClient() as client:
            await Recorder(client, "oi.db").run()

    Sweeps that cannot be written wait in memory, each for up to 10 minutes, and all of them in up
    to 64 MiB. The recorder tries again with every sweep and every two seconds, and writes them in
    order, each once. It gives up the oldest first; each becomes a gap `storage`.

    When somebody sets the clock back, slots occur a second time. Recording continues at once: a
    slot that has a sweep keeps it and gets the new observations, the others get their sweeps.

    Args:
        client: Reads the exchange.
        path: The recording: a file, or the URL of a PostgreSQL database (``postgresql://...``,
            the extra `postgres`); made when missing, continued when present. Or a `Sink` that
            stores elsewhere; it knows its own source.
        every: Seconds from sweep to sweep; None takes the shortest schedule that fits, see
            `OpenInterestClient.poll`. A recording that has begun continues at the next schedule
            that fits when this one does not.
        symbols: None follows the exchange's list.
        notional: Record mark prices as well; each sweep costs 10 more weight.
        source: The exchange's name in the file; a recording has one source. None takes
            `client.source`: ``production``, ``testnet``, or ``local`` for any exchange on this
            machine. A file without a source takes that of the first recorder that continues it.
        on_sweep: Called with each snapshot after its commit.
        backfill: Read the 5-minute instants of its gaps from the exchange's history, also of gaps
            in earlier runs. That has a limit of its own, and delays no sweep. The gaps remain.
        standby: While another recorder records there, wait until it ends, and take over. One that
            was itself taken over from (its database was out of reach) waits again.
        keep_days: Days that stay, besides the current one; older ones become a summary. None keeps
            all.
        rotate: Record into one file for each ``day`` or ``month``: ``oi.db`` becomes
            ``oi.2026-11-26.db``.
        clock: Unix seconds.

    Raises:
        TypeError: `path` is neither a path nor a sink, or the client reads no history to backfill.
        ValueError: `every` cannot be a period.
        InvalidSymbolError: One of `symbols` cannot be a symbol, or `symbols` is a single `str`.
    """

    def __init__(
        self,
        client: Reader,
        path: StrPath | Sink,
        *,
        every: float | None = None,
        symbols: Iterable[str] | None = None,
        notional: bool = False,
        source: str | None = None,
        on_sweep: Callable[[Snapshot], object] | None = None,
        backfill: bool = False,
        standby: bool = False,
        keep_days: int | None = None,
        rotate: Rotation | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._standby = standby
        self._period = 0 if every is None else period_ms(every)
        self._clock = clock
        names = None if symbols is None else check_symbols(symbols)
        self._plan = partial(begin_plan, client, names, every=every, notional=notional)
        self._sweeps = partial(sweeps, client, clock=clock)
        named = client.source if isinstance(client, Sourced) else None
        source = named if source is None else source
        self.path: Path | None
        """The file; None when the recording is in a database, or a `Sink` stores it."""
        store = Storing(source, keep_days, rotate, clock)
        self.path, self._sink = stored(path, store)
        self._on_sweep = on_sweep
        if backfill and not isinstance(client, PastReader):
            raise TypeError(f"a {type(client).__name__} reads no history to backfill gaps from")
        self._past = client if backfill and isinstance(client, PastReader) else None
        self._filler: GapFiller | None = None
        self._status = Status()
        self._untidy = False
        self._pending = Pending(self._period)
        self._news = asyncio.Event()  # something is pending, or the recorder ends
        self._recording: asyncio.Task[None] | None = None
        self._losing = False  # sweeps were lost since the latest write that succeeded
        self._in_hand = 0  # sweeps that the writing thread has taken
        self._stopping = self._ending = self._is_running = False

    def __repr__(self) -> str:
        return f"<Recorder {self._sink} {self.status}>"

    @property
    def status(self) -> Status:
        """What the recorder has done so far."""
        backfilled = 0 if self._filler is None else self._filler.new
        waiting = len(self._pending) + self._in_hand
        return replace(self._status, unwritten=waiting, backfilled=backfilled)

    def stop(self) -> None:
        """End `run`, after a last try to write what is in memory. It does not start again."""
        if self._recording is not None and not self._stopping:
            self._recording.cancel()
        self._stopping = True

    async def run(self) -> None:
        """Record until `stop` is called or this call is cancelled.

        Either way the recorder tries for up to ten seconds to write what is in memory. It loses
        the rest, and counts it in `Status.lost`.

        Raises:
            RecordingError: Another process or this recorder already records into the file, or the
                file is not a recording, has another source, or cannot be written at the start.
            ValueError: The schedule does not fit into the budget, and nothing was recorded yet.
            InvalidSymbolError: None of the symbols is listed.
            ClientClosedError: The client was closed.
        """
        if self._stopping:
            return
        if self._is_running:
            raise RecordingError(f"this recorder already records into {self._sink}")
        self._is_running = True
        with WritingThread() as self._thread:
            try:
                self._recording = asyncio.create_task(self._record())
                await self._recording
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self._stopping or (task is not None and task.cancelling()):
                    raise
            finally:
                try:
                    await self._thread.run(self._close)
                finally:
                    self._is_running = False
                    self._count_lost()

    async def _record(self) -> None:
        """Claim the sink and record into it; as a standby, again and again."""
        clock = asyncio.get_running_loop().time
        claim = partial(self._thread.run, partial(self._sink.claim, clock))
        if not self._standby:
            await claim()
            await self._record_once()
        else:
            await stand_by(claim, self._record_once, self._give_way, self._sink, self._say)

    async def _give_way(self) -> None:
        await self._thread.run(self._close)
        self._lose(self._pending.give_up_all("another recorder took over"))
        self._pending = Pending(self._period)

    def _say(self, trouble: str | None) -> None:
        self._status = replace(self._status, trouble=trouble)

    async def _record_once(self) -> None:
        """Poll, write and tidy side by side, until one of them ends."""
        plan = await self._plan()  # before a file is made
        try:
            await self._record_by(plan)
        finally:
            plan.end()

    async def _record_by(self, plan: Plan) -> None:
        self._news, self._ending = asyncio.Event(), False  # a cancelled recorder may run again
        self._period = self._pending.period = plan.period
        trouble = None if plan.trouble is None else f"outage: {plan.trouble}"
        self._status = replace(self._status, every=plan.period / 1000, trouble=trouble)
        begin = next_slot(self._clock, self._period)
        try:
            is_continued = await self._thread.run(partial(self._open, begin, plan.misfit))
        except StorageError as error:
            raise RecordingError(f"{self._sink} cannot be recorded into: {error}") from error
        if is_continued:
            plan.yield_room()
        polling = self._poll(begin, plan)
        writing = asyncio.create_task(self._write())
        others = [asyncio.create_task(job) for job in (polling, self._tidy_often())]
        if self._past is not None:
            filler = Filler(self._past, self._sink, self._thread, self._clock)
            self._filler = GapFiller(filler, self._sink, self._thread, self._clock)
            others.append(asyncio.create_task(self._filler.run()))
        try:
            await asyncio.wait([writing, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._end(writing, *others)

    async def _end(self, writing: asyncio.Task[None], *others: asyncio.Task[None]) -> None:
        """Stop the others, finish the current commit, and try once more to write the rest.

        Raises what ended one of the tasks.
        """
        for task in others:
            task.cancel()
        self._ending = True
        self._news.set()
        await asyncio.gather(writing, *others, return_exceptions=True)
        await self._write_what_is_left()
        for task in (writing, *others):
            if not task.cancelled():
                task.result()

    async def _poll(self, begin: int, plan: Plan) -> None:
        """Queue the outcome of every slot; never wait for the disk."""
        async with aclosing(self._sweeps(begin=begin, plan=plan)) as outcomes:
            async for outcome in outcomes:
                trouble = None
                if isinstance(outcome, Gap):
                    slots = (outcome.last - outcome.first) // self._period + 1
                    self._count(missed=slots)
                    trouble = ": ".join(filter(None, (outcome.reason, outcome.detail)))
                self._say(trouble)
                if self._filler is not None:
                    self._filler.note(outcome, self._period)
                now = asyncio.get_running_loop().time()
                self._pending.add(outcome, now)
                self._give_up_excess(now)
                self._news.set()

    async def _tidy_often(self) -> None:
        """Tidy the file also while no sweep ends: during a ban, or with a long period."""
        while True:
            await asyncio.sleep(TIDY_EVERY)
            if self._sink.is_due():
                await self._thread.run(self._tidy)

    async def _write(self) -> None:
        """Write what comes, and retry what could not be written."""
        while not self._ending:
            failing = self._status.storage_error is not None
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_AFTER_S if failing else None):
                    await self._news.wait()
            self._news.clear()
            while not self._ending and await self._write_oldest():
                pass
            self._give_up_excess(asyncio.get_running_loop().time())

    async def _write_oldest(self) -> bool:
        """Write the oldest sweep or gaps, acknowledge them, and only then tidy the file.

        Returns False when there is nothing to write, or when the write failed and the sweep is
        back in the queue.
        """
        unit = self._pending.take()
        if unit is None:
            return False
        self._in_hand = int(unit.sweep is not None)
        try:
            save = partial(self._sink.save, unit.sweep, unit.gaps, self._period)
            saved = await self._thread.run(save)
        except StorageError as error:
            self._pending.put_back(unit)
            self._failed(str(error))
            return False
        except Exception:
            self._pending.put_back(unit)
            raise
        finally:
            self._in_hand = 0
            self._count_lost()
        self._written(unit.sweep, saved)
        await self._thread.run(self._tidy)
        return True

    async def _write_what_is_left(self) -> None:
        """Retry until the time is up; the rest is lost."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LAST_WRITES_WITHIN_S
        while loop.time() < until:
            if not await self._write_oldest():
                if self._status.storage_error is None:  # nothing is left to write
                    break
                await asyncio.sleep(LAST_RETRY_PAUSE_S)
        if self._lose(self._pending.give_up_all(self._why())):
            await self._write_oldest()  # at least the gap that names them

    def _give_up_excess(self, now: float) -> None:
        self._lose(self._pending.give_up(now, self._why()))

    def _why(self) -> str:
        return self._status.storage_error or "it was not written in time"

    def _lose(self, sweeps: int) -> int:
        """Count sweeps that were given up; warn once for each failure."""
        if sweeps:
            if not self._losing:
                logger.warning("%s: sweeps are lost: %s", self._sink, self._why())
            self._losing = True
            self._count(missed=sweeps, lost=sweeps)
        return sweeps

    def _failed(self, error: str) -> None:
        if self._status.storage_error is None:
            logger.warning(
                "%s cannot be written, polling continues and sweeps wait in memory: %s",
                self._sink,
                error,
            )
        self._status = replace(self._status, storage_error=error)

    def _written(self, sweep: Snapshot | None, saved: Saved) -> None:
        """Count what was committed; a slot of its gaps may have had a sweep before."""
        if self._status.storage_error is not None:
            logger.warning("%s can be written again", self._sink)
        self._losing = False
        self._status = replace(self._status, storage_error=None)
        self._count(missed=-saved.swept)
        if sweep is None or sweep.slot is None:
            return
        self._count(sweeps=1, rows=saved.new, failed=len(sweep.errors))
        late = (sweep.started - sweep.slot).total_seconds()
        self._status = replace(self._status, late=late)
        if self._on_sweep is not None:
            self._on_sweep(sweep)

    def _count(self, **more: int) -> None:
        """Add to counts of the status."""
        sums = {name: getattr(self._status, name) + number for name, number in more.items()}
        self._status = replace(self._status, **sums)

    def _count_lost(self) -> None:
        """Count sweeps that the sink had acknowledged and has lost since."""
        if lost := self._sink.take_lost():
            self._count(missed=lost, lost=lost)

    # -- in the writing thread ---------------------------------------------------------------

    def _open(self, begin: int, misfit: MisfitError | None) -> bool:
        """Open the sink, and store a gap for the time since its last slot.

        Returns:
            Whether something was stored before.

        Raises:
            MisfitError: Nothing was, and the schedule does not fit.
        """
        sink = self._sink
        if misfit is not None and self.path is not None and not self.path.exists():
            raise misfit
        sink.open()
        gaps: list[Gap] = []
        last, before = sink.last_slot(), sink.last_slot(begin)
        if misfit is not None and last is None:
            raise misfit
        if before is not None:
            missed = (before // self._period + 1) * self._period
            if missed < begin:
                gaps.append(Gap(missed, begin - self._period, "stopped", "no recorder was running"))
        if last is not None and last - begin > TOLERATED_STEP * 1000:
            detail = "the clock is before the last slot of the recording"
            gap = Gap(begin, begin - self._period, "clock", detail)
            logger.warning("%s continues at %s", sink, gap)
            gaps.append(gap)
        if gaps:
            sink.save(None, gaps, self._period)
        return last is not None

    def _close(self) -> None:
        """Close the sink; only log its errors, so that `run` raises why recording ended."""
        try:
            self._sink.close()
        except StorageError as error:
            logger.warning("%s cannot be closed properly: %s", self._sink, error)

    def _tidy(self) -> None:
        try:
            self._sink.tidy()
        except StorageError as error:
            if not self._untidy:
                logger.warning("%s", error)
            self._untidy = True
        else:
            self._untidy = False
