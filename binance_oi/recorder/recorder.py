"""Polls into a store, for weeks.

The rule of this file: neither side stops the other. While the exchange cannot be read, the gap is
written; while the file cannot be written, polling goes on, and what was lost becomes a gap as soon
as there is a place for it.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from binance_oi.errors import RecordingError
from binance_oi.models import check_symbols
from binance_oi.polling import Reader, check, follows, next_slot, period_ms, sweeps
from binance_oi.recorder.recording import check_source, unix_ms
from binance_oi.recorder.store import CLOSE_WAIT, TIDY_EVERY, Kept, RecorderLock, Store
from binance_oi.snapshot import Gap, Snapshot

T = TypeVar("T")

logger = logging.getLogger("binance_oi")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a recorder has done since it was started."""

    sweeps: int = 0
    """Committed."""
    rows: int = 0
    """New samples committed."""
    failed: int = 0
    """Symbols that could not be read, in those sweeps."""
    missed: int = 0
    """Slots without a sweep."""
    lost: int = 0
    """Sweeps that were read and are in no file: they could not be written, and are part of
    `missed`; or they were written, and the file was removed before its log was emptied."""
    late: float = 0.0
    """Seconds after its slot at which the latest sweep began."""
    storage_error: str | None = None
    """Why the file cannot be written at present; None when it can."""


@runtime_checkable
class Sourced(Protocol):
    """A reader that knows which exchange it reads; `OpenInterestClient` does."""

    @property
    def source(self) -> str:
        """Its name; see `binance_oi.endpoints.source_name`."""
        ...


class Recorder:
    """Records open interest into a file until it is stopped.

        async with OpenInterestClient() as client:
            await Recorder(client, "oi.db", every=20.0).run()

    Args:
        client: Reads the exchange.
        path: Of the recording; made when missing, and continued when it is there.
        every: Seconds from sweep to sweep; see `OpenInterestClient.poll`.
        symbols: None follows the exchange's list.
        notional: Record mark prices as well; each sweep costs 10 more.
        source: Which exchange it is, as the file shall say; a recording has one. None takes
            `client.source`: ``production``, ``testnet``, or ``local`` for any exchange on this
            machine. A file that does not say its source takes that of the recorder that continues
            it first.
        on_sweep: Called with each snapshot after its commit.
        clock: Unix seconds.

    Raises:
        ValueError: `every` is no period.
        InvalidSymbolError: One of `symbols` cannot be a symbol, or it is one `str` and not a list.
    """

    def __init__(
        self,
        client: Reader,
        path: str | Path,
        *,
        every: float,
        symbols: Iterable[str] | None = None,
        notional: bool = False,
        source: str | None = None,
        on_sweep: Callable[[Snapshot], object] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path)
        self._period = period_ms(every)
        self._clock = clock
        names = None if symbols is None else check_symbols(symbols)
        self._check = partial(check, client, names, every=every, notional=notional)
        self._sweeps = partial(sweeps, client, names, every=every, notional=notional, clock=clock)
        named = client.source if isinstance(client, Sourced) else None
        self._source = named if source is None else source
        self._on_sweep = on_sweep
        self._status = Status()
        self._store: Store | None = None
        self._unsaved: list[Gap] = []
        self._homeless: list[Kept] = []  # acknowledged, and in no file: theirs was removed
        self._vanished = 0  # the same, with no hope
        self._untidy = False
        self._polling: asyncio.Task[None] | None = None
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Recorder {self.path} {self._status}>"

    @property
    def status(self) -> Status:
        """What it has done so far."""
        return self._status

    def stop(self) -> None:
        """Let `run` return: at once, after a commit that is under way. It does not start again."""
        self._stopping = True
        if self._polling is not None:
            self._polling.cancel()

    async def run(self) -> None:
        """Record until `stop` is called or this call is cancelled.

        Raises:
            RecordingError: The file is recorded by another process, is not ours, is of another
                source, or cannot be written at the start.
            ValueError: The schedule does not fit into the budget.
            InvalidSymbolError: One of the symbols is not listed.
            ClientClosedError: The client was closed.
        """
        if self._stopping:
            return
        lock = _lock(self.path)
        self._now = asyncio.get_running_loop().time
        with ThreadPoolExecutor(1, "binance-oi-recorder") as thread:
            self._thread = thread
            try:
                self._polling = asyncio.create_task(self._poll())
                await self._polling
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self._stopping or (task is not None and task.cancelling()):
                    raise
            finally:
                try:
                    await self._in_thread(self._finish)
                    self._count_vanished()
                finally:
                    lock.close()

    async def _poll(self) -> None:
        await self._in_thread(partial(check_source, self.path, self._source))
        await self._check()  # before a file is made
        begin = next_slot(self._clock, self._period)
        try:
            await self._in_thread(partial(self._open, begin))
        except (sqlite3.Error, OSError) as error:
            raise RecordingError(f"{self.path} cannot be recorded into: {error}") from error
        tidying = asyncio.create_task(self._tidy_often())
        try:
            async with aclosing(self._sweeps(begin=begin)) as outcomes:
                async for outcome in outcomes:
                    await self._keep(outcome)
        finally:
            tidying.cancel()
            await asyncio.wait({tidying})

    async def _tidy_often(self) -> None:
        """Look after the file also while no sweep ends: in a ban, or every hour."""
        while True:
            await asyncio.sleep(TIDY_EVERY)
            if self._store is not None and self._store.is_due():
                await self._in_thread(self._tidy)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Do it in the writing thread; it is finished also when this call is cancelled."""
        job = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            await asyncio.wait({job})
            raise

    async def _keep(self, outcome: Snapshot | Gap) -> None:
        """Write it, acknowledge it, and only then look after the file."""
        snapshot = outcome if isinstance(outcome, Snapshot) else None
        if isinstance(outcome, Gap):
            self._miss(outcome)
        try:
            new = await self._in_thread(partial(self._save, snapshot, tuple(self._unsaved)))
        except (sqlite3.Error, OSError, RecordingError) as error:
            self._lose(snapshot, str(error))
            return
        self._unsaved.clear()
        self._count_vanished()
        self._written(snapshot, new)
        await self._in_thread(self._tidy)

    def _miss(self, gap: Gap) -> None:
        slots = (gap.last - gap.first) // self._period + 1
        self._status = replace(self._status, missed=self._status.missed + slots)
        if self._unsaved and follows(gap, self._unsaved[-1], self._period):
            gap = self._unsaved.pop()._replace(last=gap.last)
        self._unsaved.append(gap)

    def _lose(self, snapshot: Snapshot | None, error: str) -> None:
        """It stays in memory as a gap until it can be written."""
        if self._status.storage_error is None:
            logger.warning("%s cannot be written, polling goes on: %s", self.path, error)
        self._status = replace(self._status, storage_error=error)
        if snapshot is not None and snapshot.slot is not None:
            slot = unix_ms(snapshot.slot)
            self._miss(Gap(slot, slot, "storage", error))
            self._status = replace(self._status, lost=self._status.lost + 1)

    def _written(self, snapshot: Snapshot | None, new: int) -> None:
        if self._status.storage_error is not None:
            logger.warning("%s can be written again", self.path)
        self._status = status = replace(self._status, storage_error=None)
        if snapshot is None or snapshot.slot is None:
            return
        self._status = replace(
            status,
            sweeps=status.sweeps + 1,
            rows=status.rows + new,
            failed=status.failed + len(snapshot.errors),
            late=(snapshot.started - snapshot.slot).total_seconds(),
        )
        if self._on_sweep is not None:
            self._on_sweep(snapshot)

    def _count_vanished(self) -> None:
        self._status = replace(self._status, lost=self._status.lost + self._vanished)
        self._vanished = 0

    # -- in the writing thread ---------------------------------------------------------------

    def _open(self, begin: int) -> None:
        """Open the file, and note what was missed since it was written last."""
        self._store = store = self._opened()
        last = store.last_slot()
        if last is not None:
            missed = (last // self._period + 1) * self._period
            if missed < begin:
                gap = Gap(missed, begin - self._period, "stopped", "no recorder was running")
                store.save(None, [gap], self._period)

    def _opened(self) -> Store:
        return Store(self.path, self._source, clock=self._now)

    def _save(self, snapshot: Snapshot | None, gaps: tuple[Gap, ...]) -> int:
        """Write, or else open the file again: it may have been removed, or be whole again."""
        replaced = False
        if self._store is not None:
            try:
                return self._write(self._store, snapshot, gaps)
            except (sqlite3.Error, OSError) as error:
                logger.debug("%s is opened again: %s", self.path, error)
                replaced = isinstance(error, FileNotFoundError)
                self._close(wait=0.0)
        self._store = self._opened()
        if replaced:
            logger.warning("%s was removed or replaced; recording goes on in a new file", self.path)
        return self._write(self._store, snapshot, gaps)

    def _write(self, store: Store, snapshot: Snapshot | None, gaps: tuple[Gap, ...]) -> int:
        self._rehouse(store)
        return store.save(snapshot, gaps, self._period)

    def _rehouse(self, store: Store) -> None:
        """Write what the log of a removed file held, and no file has now."""
        while self._homeless:
            self._vanished += store.restore(self._homeless[0])
            del self._homeless[0]

    def _tidy(self) -> None:
        if self._store is None:
            return
        try:
            self._store.tidy()
        except (sqlite3.Error, OSError) as error:
            if not self._untidy:
                logger.warning("%s stays in its log, which is tried again: %s", self.path, error)
            self._untidy = True
        else:
            self._untidy = False

    def _finish(self) -> None:
        """Close the file; what is in no file yet gets one."""
        self._close()
        if self._homeless:
            with suppress(sqlite3.Error, OSError, RecordingError):
                self._store = self._opened()
                self._rehouse(self._store)
            self._close()
        if self._homeless:
            logger.warning("%s was removed with what its log held", self.path)
            self._vanished += sum(k.lost or k.snapshot is not None for k in self._homeless)

    def _close(self, *, wait: float = CLOSE_WAIT) -> None:
        store, self._store = self._store, None
        if store is not None:
            self._homeless += store.close(wait=wait)


def _lock(path: Path) -> RecorderLock:
    if path.is_dir():
        raise RecordingError(f"{path} is a directory; a recording is a file")
    try:
        return RecorderLock(path)
    except OSError as error:
        raise RecordingError(
            f"{path} cannot be recorded into: {error.strerror or error}"
        ) from error
