"""Polls the exchange and stores the sweeps, for weeks. A sweep reads all symbols once.

The rule of this file: neither trouble with the exchange nor trouble with the store ends a recorder.
While the exchange cannot be read, the recorder writes gaps. While the store cannot be written,
polling continues and sweeps wait in memory. The recorder writes them in order as soon as it can. If
it has to drop a sweep, it writes a gap with the reason `storage` in its place.
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
from binance_oi.recorder.sink import Saved, Sink, as_unusable
from binance_oi.recorder.standby import stand_by
from binance_oi.recorder.store import TIDY_EVERY
from binance_oi.recorder.stored import SinkOptions, make_sink
from binance_oi.recorder.writing_thread import WritingThread

RETRY_AFTER_S = 2.0  # s from a failed write to the next try, unless a new sweep comes earlier
LAST_RETRY_PAUSE_S = 0.2  # s between two tries at the end
LAST_WRITES_WITHIN_S = 10.0  # s for which a recorder that ends tries to write what is left

logger: logging.Logger = logging.getLogger("binance_oi")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Encodable):
    """The state of a recorder, and its counts since it started."""

    sweeps: int = 0
    """How many sweeps are committed. If someone sets the clock back and a slot occurs twice, both
    sweeps count; the recording keeps the first."""
    rows: int = 0
    """How many new samples are committed."""
    failed: int = 0
    """How many times the committed sweeps could not read a symbol."""
    missed: int = 0
    """How many slots have no sweep."""
    lost: int = 0
    """How many of the `missed` slots had a sweep that the recorder lost: the store could not be
    written in time, another recorder took over, or another program removed the file while the sweep
    was only in its log. If the recorder still can, it writes a gap with the reason `storage` for
    the slot."""
    unwritten: int = 0
    """How many sweeps wait in memory to be written; see `Recorder`."""
    late: float = 0.0
    """Seconds from the slot of the latest sweep to its start; 0.0 before the first sweep."""
    every: float | None = None
    """Seconds from slot to slot, as given or as chosen; None until the recorder has chosen."""
    backfilled: int = 0
    """How many rows of the past the recorder has stored for gaps; see `Recorder`."""
    trouble: str | None = None
    """Why the latest slot has no sweep: a reason and its details. Before the first slot, why the
    list of symbols could not be read, or why a standby waits. None if the latest slot has a
    sweep."""
    storage_error: str | None = None
    """Why the store cannot be written now; None if it can."""


@runtime_checkable
class Sourced(Protocol):
    """A reader that knows which exchange it reads; `OpenInterestClient` does."""

    @property
    def source(self) -> str:
        """The name of the exchange; see `binance_oi.exchange.hosts.source_name`."""
        ...


class Recorder:
    """Records open interest into a file or a database until it is stopped.

        async with OpenInterestClient() as client:
            await Recorder(client, "oi.db").run()

    Sweeps that cannot be written wait in memory: each for at most 10 minutes, and all together in
    at most 64 MiB. The recorder tries to write them with every new sweep, and every two seconds. It
    writes them in order, each once. If it must drop sweeps, it drops the oldest first, and writes a
    gap with the reason `storage` for each.

    If someone sets the clock back, slots occur a second time. Recording continues at once. If such
    a slot has a sweep, that sweep stays, and the recorder adds only the samples of the new sweep.
    Otherwise the new sweep becomes the sweep of the slot.

    Args:
        client: Reads the exchange.
        path: The recording: a file, or the URL of a PostgreSQL database (``postgresql://...``,
            which needs the extra `postgres`). The recorder creates a missing file, and missing
            tables of the database. Or a `Sink` that stores elsewhere; a sink has its own source.
        every: Seconds from sweep to sweep. None chooses the shortest schedule that fits into the
            budget; see `OpenInterestClient.poll`. If a given schedule does not fit, a recording
            that already has sweeps continues at the next longer schedule that fits.
        symbols: The symbols to record; None follows the exchange's list.
        notional: Whether to record mark prices too; each sweep then costs 10 more weight.
        source: The name of the exchange in the recording; a recording has only one. None takes
            `client.source`: ``production``, ``testnet``, ``local`` for any exchange on this
            machine, or another base URL. A recording without a source gets that of the next
            recorder.
        on_sweep: Called with each snapshot after its commit. An error that it raises ends `run`.
        backfill: Whether to read the 5-minute instants of gaps from the exchange's history, gaps of
            earlier runs included. History has a limit of its own, so this delays no sweep. The gaps
            remain in the recording.
        standby: Whether to wait while another recorder records there, and to take over when that
            one ends. If this recorder loses the database, and another standby takes over meanwhile,
            this one waits again.
        keep_days: The number of days to keep, besides the current one; older days become a summary.
            None keeps all.
        rotate: Record into one file for each ``day`` or ``month``: ``oi.db`` becomes
            ``oi.2026-11-26.db``.
        clock: Returns Unix seconds.

    Raises:
        TypeError: `path` is neither a path nor a sink, `symbols` is not iterable, `every` is not a
            number, or `keep_days` is not an integer. Or `backfill` is set and the client cannot
            read history.
        ValueError: `every` cannot be a period. Or `path` is empty, or a URL that names no
            PostgreSQL database. Or `keep_days` or `rotate` is not valid, or does not fit `path`.
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
        """The file; None if a database or a `Sink` stores the recording."""
        options = SinkOptions(source, keep_days, rotate, clock)
        self.path, self._sink = make_sink(path, options)
        self._on_sweep = on_sweep
        if backfill and not isinstance(client, PastReader):
            raise TypeError(f"a {type(client).__name__} reads no history to backfill gaps from")
        self._past = client if backfill and isinstance(client, PastReader) else None
        self._filler: GapFiller | None = None
        self._status = Status()
        self._untidy = False
        self._pending = Pending(self._period)
        self._news = asyncio.Event()  # set when a sweep or a gap is pending, or recording ends
        self._recording: asyncio.Task[None] | None = None
        self._losing = False  # whether sweeps were lost since the latest write that succeeded
        self._in_hand = 0  # number of sweeps that the writing thread is storing
        self._stopping = self._ending = self._is_running = False

    def __repr__(self) -> str:
        return f"<Recorder {self._sink} {self.status}>"

    @property
    def status(self) -> Status:
        """The state of the recorder, and its counts so far."""
        backfilled = 0 if self._filler is None else self._filler.new
        waiting = len(self._pending) + self._in_hand
        return replace(self._status, unwritten=waiting, backfilled=backfilled)

    def stop(self) -> None:
        """End `run`, after a last try to write the sweeps in memory. `run` does not start again."""
        if self._recording is not None and not self._stopping:
            self._recording.cancel()
        self._stopping = True

    async def run(self) -> None:
        """Record until `stop` is called or this call is cancelled.

        At the end the recorder tries for up to ten seconds to write the sweeps in memory. It loses
        those that it cannot write, and counts them in `Status.lost`.

        Raises:
            RecordingError: Another process, or this recorder, records there already. Or the file or
                database is not a recording, has another source, or cannot be written at the start.
            ValueError: The schedule does not fit into the budget, and the recording is empty.
            InvalidSymbolError: The exchange lists none of the symbols.
            ClientClosedError: The client was closed.
            ModuleNotFoundError: `path` is the URL of a database, and psycopg is not installed.
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
        """Claim the sink and record; a standby repeats both after another recorder took over."""
        clock = asyncio.get_running_loop().time
        claim = partial(self._thread.run, partial(self._sink.claim, clock))
        if not self._standby:
            with as_unusable(self._sink, "recorded into"):
                await claim()
            await self._record_once()
        else:
            await stand_by(claim, self._record_once, self._give_way, self._sink, self._set_trouble)

    async def _give_way(self) -> None:
        """Close the sink and drop what is pending, because another recorder took over."""
        await self._thread.run(self._close)
        self._lose(self._pending.give_up_all("another recorder took over"))
        self._pending = Pending(self._period)

    def _set_trouble(self, trouble: str | None) -> None:
        self._status = replace(self._status, trouble=trouble)

    async def _record_once(self) -> None:
        """Choose the schedule, then poll, write and tidy concurrently, until one of these ends."""
        plan = await self._plan()  # first, so that an error leaves no empty file
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
        with as_unusable(self._sink, "recorded into"):
            is_continued = await self._thread.run(partial(self._open, begin, plan.misfit))
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
        """Stop all tasks, let the current commit finish, and try to write the rest.

        If a task has failed, raise its error.
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
        """Put the outcome of every slot into the queue, without waiting for the disk."""
        async with aclosing(self._sweeps(begin=begin, plan=plan)) as outcomes:
            async for outcome in outcomes:
                trouble = None
                if isinstance(outcome, Gap):
                    slots = (outcome.last - outcome.first) // self._period + 1
                    self._count(missed=slots)
                    trouble = ": ".join(filter(None, (outcome.reason, outcome.detail)))
                self._set_trouble(trouble)
                if self._filler is not None:
                    self._filler.note(outcome, self._period)
                now = asyncio.get_running_loop().time()
                self._pending.add(outcome, now)
                self._give_up_excess(now)
                self._news.set()

    async def _tidy_often(self) -> None:
        """Tidy the file even while no sweep ends: during a ban, or with a long period."""
        while True:
            await asyncio.sleep(TIDY_EVERY)
            if self._sink.is_due():
                await self._thread.run(self._tidy)

    async def _write(self) -> None:
        """Write the queue as it fills, and try again after a failed write."""
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
        """Write the oldest sweep or gaps, count them, and then tidy the file.

        Returns:
            False if the queue is empty, or if the write failed and the sweep is in the queue again.
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
        """Write the queue at the end, for `LAST_WRITES_WITHIN_S` at most; the rest is lost."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LAST_WRITES_WITHIN_S
        while loop.time() < until:
            if not await self._write_oldest():
                if self._status.storage_error is None:  # nothing is left to write
                    break
                await asyncio.sleep(LAST_RETRY_PAUSE_S)
        if self._lose(self._pending.give_up_all(self._why())):
            await self._write_oldest()  # the lost sweeps are gaps now: try once to write these

    def _give_up_excess(self, now: float) -> None:
        self._lose(self._pending.give_up(now, self._why()))

    def _why(self) -> str:
        return self._status.storage_error or "it was not written in time"

    def _lose(self, sweeps: int) -> int:
        """Count dropped sweeps; warn once until a write succeeds again."""
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
        """Count a committed write. Slots of its gaps that have a sweep do not count as missed."""
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
        """Count sweeps that the sink has lost after it acknowledged them."""
        if lost := self._sink.take_lost():
            self._count(missed=lost, lost=lost)

    # -- in the writing thread ---------------------------------------------------------------

    def _open(self, begin: int, misfit: MisfitError | None) -> bool:
        """Open the sink, and store a gap for the time since its last slot.

        Args:
            begin: The first slot of this run, Unix ms.
            misfit: The error about a schedule that does not fit into the budget; None if it fits.

        Returns:
            Whether the recording had sweeps or gaps before.

        Raises:
            MisfitError: The recording had none, and the schedule does not fit into the budget.
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
        """Close the sink. If that fails, only log the error: another error may have ended `run`,
        and the caller should get that one."""
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
