"""Polls into a store, for weeks.

The rule of this file: neither side stops the other. While the exchange cannot be read, the gap is
written. While the file cannot be written, polling goes on and the sweeps wait in memory; they are
written in order as soon as that is possible, and what had to be given up is a gap `storage`.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from binance_oi.errors import RecordingError, StorageError
from binance_oi.exchange.symbols import check_symbols
from binance_oi.market.gap import Gap
from binance_oi.market.plan import MisfitError
from binance_oi.market.polling import Plan, Reader, planned, sweeps
from binance_oi.market.schedule import STEP, next_slot, period_ms
from binance_oi.market.snapshot import Snapshot
from binance_oi.recorder.pending import Pending
from binance_oi.recorder.sink import Saved, Sink
from binance_oi.recorder.sqlite import SqliteSink
from binance_oi.recorder.store import TIDY_EVERY

RETRY = 2.0  # s after which to write again when no sweep comes before; with each one that does
LAST_RETRY = 0.2  # s between two tries then
LAST_TRY = 10.0  # s in which to write what is kept when a recorder ends

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("binance_oi")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a recorder has done since it was started."""

    sweeps: int = 0
    """Committed. A slot that comes a second time counts again; the file keeps its first sweep."""
    rows: int = 0
    """New samples committed."""
    failed: int = 0
    """Symbols that could not be read, in those sweeps."""
    missed: int = 0
    """Slots without a sweep."""
    lost: int = 0
    """The part of `missed` that was read: it could not be written in time, or the file was removed
    before its log was emptied. Each slot is in a gap `storage`, if there is a file to write it."""
    unwritten: int = 0
    """Sweeps in memory that are not in the file yet; see `Recorder`."""
    late: float = 0.0
    """Seconds after its slot at which the latest sweep began; 0.0 while there was none."""
    every: float | None = None
    """Seconds from slot to slot: as asked for, or as chosen; None before it was chosen."""
    trouble: str | None = None
    """Why the latest slot has no sweep, or why no list of symbols was read before the first one:
    one word, and a text. None when it has one."""
    storage_error: str | None = None
    """Why the file cannot be written at present; None when it can."""


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

    A sweep that cannot be written at once is kept in memory for 10 minutes, as long as all of them
    take less than 64 MiB. The recorder tries again with every sweep and every two seconds. It
    writes them in order, each once; what it gives up, the oldest first, is a gap `storage`.

    When somebody sets the clock back, slots come a second time. Recording goes on at once: a slot
    that has a sweep keeps it and gets the new observations, the others get their sweeps.

    Args:
        client: Reads the exchange.
        path: Of the recording; made when missing, and continued when it is there. Or a `Sink` that
            stores elsewhere; it knows its own source.
        every: Seconds from sweep to sweep; None takes the shortest schedule that fits, see
            `OpenInterestClient.poll`. In a recording that was begun, a schedule that does not fit
            goes on at the next one that does.
        symbols: None follows the exchange's list.
        notional: Record mark prices as well; each sweep costs 10 more.
        source: Which exchange it is, as the file shall say; a recording has one. None takes
            `client.source`: ``production``, ``testnet``, or ``local`` for any exchange on this
            machine. A file that does not say its source takes that of the recorder that continues
            it first.
        on_sweep: Called with each snapshot after its commit.
        clock: Unix seconds.

    Raises:
        TypeError: `path` is neither a path nor a sink.
        ValueError: `every` is no period.
        InvalidSymbolError: One of `symbols` cannot be a symbol, or it is one `str` and not a list.
    """

    def __init__(
        self,
        client: Reader,
        path: str | os.PathLike[str] | Sink,
        *,
        every: float | None = None,
        symbols: Iterable[str] | None = None,
        notional: bool = False,
        source: str | None = None,
        on_sweep: Callable[[Snapshot], object] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._period = 0 if every is None else period_ms(every)
        self._clock = clock
        names = None if symbols is None else check_symbols(symbols)
        self._plan = partial(planned, client, names, every=every, notional=notional)
        self._sweeps = partial(sweeps, client, clock=clock)
        named = client.source if isinstance(client, Sourced) else None
        source = named if source is None else source
        self.path: Path | None = Path(path) if isinstance(path, str | os.PathLike) else None
        """Of the recording; None when it is stored elsewhere."""
        self._sink = _sink_of(path, source)
        self._on_sweep = on_sweep
        self._status = Status()
        self._untidy = False
        self._pending = Pending(self._period)
        self._news = asyncio.Event()  # something is pending, or the end has come
        self._recording: asyncio.Task[None] | None = None
        self._losing = False  # since the latest write that failed
        self._in_hand = 0  # sweeps with the writing thread
        self._stopping = self._ending = self._is_running = False

    def __repr__(self) -> str:
        return f"<Recorder {self._sink} {self.status}>"

    @property
    def status(self) -> Status:
        """What it has done so far."""
        return replace(self._status, unwritten=len(self._pending) + self._in_hand)

    def stop(self) -> None:
        """Let `run` return, after a last try to write what is kept. It does not start again."""
        if self._recording is not None and not self._stopping:
            self._recording.cancel()
        self._stopping = True

    async def run(self) -> None:
        """Record until `stop` is called or this call is cancelled.

        Either way it takes up to ten seconds to write what is kept; what is left is lost, and
        counted in `Status.lost`.

        Raises:
            RecordingError: The file is recorded by another process or by this recorder already, is
                not ours, is of another source, or cannot be written at the start.
            ValueError: The schedule does not fit into the budget, and nothing was recorded yet.
            InvalidSymbolError: None of the symbols is listed.
            ClientClosedError: The client was closed.
        """
        if self._stopping:
            return
        if self._is_running:
            raise RecordingError(f"{self._sink} is being recorded by this recorder already")
        self._is_running = True
        with ThreadPoolExecutor(1, "binance-oi-recorder") as thread:
            self._thread = thread
            try:
                self._recording = asyncio.create_task(self._record())
                await self._recording
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self._stopping or (task is not None and task.cancelling()):
                    raise
            finally:
                try:
                    await self._in_thread(self._close)
                finally:
                    self._is_running = False
                    self._count_lost()

    async def _record(self) -> None:
        """Poll, write and look after the file side by side, until one of them ends."""
        clock = asyncio.get_running_loop().time
        await self._in_thread(partial(self._sink.claim, clock))
        plan = await self._plan()  # before a file is made
        try:
            await self._record_by(plan)
        finally:
            plan.end()

    async def _record_by(self, plan: Plan) -> None:
        self._news, self._ending = asyncio.Event(), False  # a recorder that was cancelled may go on
        self._period = self._pending.period = plan.period
        trouble = None if plan.trouble is None else f"outage: {plan.trouble}"
        self._status = replace(self._status, every=plan.period / 1000, trouble=trouble)
        begin = next_slot(self._clock, self._period)
        try:
            is_continued = await self._in_thread(partial(self._open, begin, plan.misfit))
        except StorageError as error:
            raise RecordingError(f"{self._sink} cannot be recorded into: {error}") from error
        if is_continued:
            plan.yield_room()
        polling = self._poll(begin, plan)
        writing = asyncio.create_task(self._write())
        others = [asyncio.create_task(job) for job in (polling, self._tidy_often())]
        try:
            await asyncio.wait([writing, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._end(writing, *others)

    async def _end(self, writing: asyncio.Task[None], *others: asyncio.Task[None]) -> None:
        """Stop the others, finish the commit under way, and try once more to write the rest.

        Raises what ended one of them.
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
        """Take what becomes of every slot; the disk is nobody's concern here."""
        async with aclosing(self._sweeps(begin=begin, plan=plan)) as outcomes:
            async for outcome in outcomes:
                trouble = None
                if isinstance(outcome, Gap):
                    slots = (outcome.last - outcome.first) // self._period + 1
                    self._count(missed=slots)
                    trouble = ": ".join(filter(None, (outcome.reason, outcome.detail)))
                self._status = replace(self._status, trouble=trouble)
                now = asyncio.get_running_loop().time()
                self._pending.add(outcome, now)
                self._give_up_excess(now)
                self._news.set()

    async def _tidy_often(self) -> None:
        """Look after the file also while no sweep ends: in a ban, or every hour."""
        while True:
            await asyncio.sleep(TIDY_EVERY)
            if self._sink.is_due():
                await self._in_thread(self._tidy)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Do it in the writing thread; it is finished also when this call is cancelled."""
        job = asyncio.get_running_loop().run_in_executor(self._thread, _done, work)
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            await asyncio.wait({job})
            raise

    async def _write(self) -> None:
        """Write what comes, and try again what could not be written."""
        while not self._ending:
            failing = self._status.storage_error is not None
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY if failing else None):
                    await self._news.wait()
            self._news.clear()
            while not self._ending and await self._write_oldest():
                pass
            self._give_up_excess(asyncio.get_running_loop().time())

    async def _write_oldest(self) -> bool:
        """Write the oldest sweep or gaps, acknowledge, and only then look after the file.

        False when there is nothing to write, or when it could not be written: then it is kept.
        """
        unit = self._pending.take()
        if unit is None:
            return False
        self._in_hand = int(unit.sweep is not None)
        try:
            save = partial(self._sink.save, unit.sweep, unit.gaps, self._period)
            saved = await self._in_thread(save)
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
        await self._in_thread(self._tidy)
        return True

    async def _write_what_is_left(self) -> None:
        """Try again and again until the time is over; the rest is lost."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LAST_TRY
        while loop.time() < until:
            if not await self._write_oldest():
                if self._status.storage_error is None:  # there is nothing left to write
                    break
                await asyncio.sleep(LAST_RETRY)
        if self._lose(self._pending.give_up_all(self._why())):
            await self._write_oldest()  # at least their gap

    def _give_up_excess(self, now: float) -> None:
        self._lose(self._pending.give_up(now, self._why()))

    def _why(self) -> str:
        return self._status.storage_error or "it was not written in time"

    def _lose(self, sweeps: int) -> int:
        """Count sweeps that were given up; log the first ones of a failure."""
        if sweeps:
            if not self._losing:
                logger.warning("%s: sweeps are lost: %s", self._sink, self._why())
            self._losing = True
            self._count(missed=sweeps, lost=sweeps)
        return sweeps

    def _failed(self, error: str) -> None:
        if self._status.storage_error is None:
            logger.warning(
                "%s cannot be written, polling goes on and sweeps are kept: %s", self._sink, error
            )
        self._status = replace(self._status, storage_error=error)

    def _written(self, sweep: Snapshot | None, saved: Saved) -> None:
        """Count what was committed; some slots of its gaps may have had their sweep before."""
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
        """Add to figures of the status."""
        sums = {name: getattr(self._status, name) + number for name, number in more.items()}
        self._status = replace(self._status, **sums)

    def _count_lost(self) -> None:
        """Count sweeps that were acknowledged, and that the sink has lost since."""
        if lost := self._sink.take_lost():
            self._count(missed=lost, lost=lost)

    # -- in the writing thread ---------------------------------------------------------------

    def _open(self, begin: int, misfit: MisfitError | None) -> bool:
        """Open the sink, and note what was missed since something was stored last.

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
        if last is not None and last - begin > STEP * 1000:
            detail = "the clock is before the last slot of the recording"
            gap = Gap(begin, begin - self._period, "clock", detail)
            logger.warning("%s goes on at %s", sink, gap)
            gaps.append(gap)
        if gaps:
            sink.save(None, gaps, self._period)
        return last is not None

    def _close(self) -> None:
        """Let others record. Whoever waits for the end learns why it came, and not of this."""
        try:
            self._sink.close()
        except StorageError as error:
            logger.warning("%s cannot be closed as it should be: %s", self._sink, error)

    def _tidy(self) -> None:
        try:
            self._sink.tidy()
        except StorageError as error:
            if not self._untidy:
                logger.warning("%s", error)
            self._untidy = True
        else:
            self._untidy = False


def _sink_of(path: str | os.PathLike[str] | Sink, source: str | None) -> Sink:
    if isinstance(path, str | os.PathLike):
        return SqliteSink(Path(path), source)
    if not hasattr(path, "claim"):
        raise TypeError(f"path must be a path or a Sink: {path!r}")
    return path


def _done(work: Callable[[], T]) -> T:
    """Do it. What another executor cancels within a sink has failed, and nobody cancelled us."""
    try:
        return work()
    except CancelledError as error:
        raise StorageError("a part of it was cancelled") from error
