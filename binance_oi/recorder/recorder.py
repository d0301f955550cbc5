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
from typing import TypeVar

from binance_oi.errors import RecordingError
from binance_oi.models import check_symbols
from binance_oi.polling import Reader, check, sweeps
from binance_oi.recorder.recording import unix_ms
from binance_oi.recorder.store import RecorderLock, Store
from binance_oi.schedule import STEP, follows, next_slot, period_ms
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
    """The part of `missed` that was read and could not be written."""
    late: float = 0.0
    """Seconds after its slot at which the latest sweep began."""
    storage_error: str | None = None
    """Why the file cannot be written at present; None when it can."""


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
        on_sweep: Callable[[Snapshot], object] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path)
        self._period = period_ms(every)
        self._clock = clock
        names = None if symbols is None else check_symbols(symbols)
        self._check = partial(check, client, names, every=every, notional=notional)
        self._sweeps = partial(sweeps, client, names, every=every, notional=notional, clock=clock)
        self._on_sweep = on_sweep
        self._status = Status()
        self._store: Store | None = None
        self._unsaved: list[Gap] = []
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
            RecordingError: The file is recorded by another process, is not ours, or cannot be
                written at the start.
            ValueError: The schedule does not fit into the budget.
            InvalidSymbolError: One of the symbols is not listed.
            ClientClosedError: The client was closed.
        """
        if self._stopping:
            return
        lock = _lock(self.path)
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
                thread.submit(self._close).result()
                lock.close()

    async def _poll(self) -> None:
        await self._check()  # before a file is made
        begin = next_slot(self._clock, self._period)
        try:
            await self._in_thread(partial(self._open, begin))
        except (sqlite3.Error, OSError) as error:
            raise RecordingError(f"{self.path} cannot be recorded into: {error}") from error
        async with aclosing(self._sweeps(begin=begin)) as outcomes:
            async for outcome in outcomes:
                await self._keep(outcome)

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
        self._written(snapshot, new)
        with suppress(sqlite3.Error, OSError):
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

    # -- in the writing thread ---------------------------------------------------------------

    def _open(self, begin: int) -> None:
        """Open the file, and note what was missed since it was written last."""
        self._store = store = Store(self.path)
        gaps: list[Gap] = []
        last, before = store.last_slot(), store.last_slot(begin)
        if before is not None:
            missed = (before // self._period + 1) * self._period
            if missed < begin:
                gaps.append(Gap(missed, begin - self._period, "stopped", "no recorder was running"))
        if last is not None and last - begin > STEP * 1000:
            detail = "the clock is before the last slot of the recording"
            gap = Gap(begin, begin - self._period, "clock", detail)
            logger.warning("%s goes on at %s", self.path, gap)
            gaps.append(gap)
        if gaps:
            store.save(None, gaps, self._period)

    def _save(self, snapshot: Snapshot | None, gaps: tuple[Gap, ...]) -> int:
        """Write, or else open the file again: it may have been removed, or be whole again."""
        replaced = False
        if self._store is not None:
            try:
                return self._store.save(snapshot, gaps, self._period)
            except (sqlite3.Error, OSError) as error:
                logger.debug("%s is opened again: %s", self.path, error)
                replaced = isinstance(error, FileNotFoundError)
                self._close()
        self._store = Store(self.path)
        if replaced:
            logger.warning("%s was removed or replaced; recording goes on in a new file", self.path)
        return self._store.save(snapshot, gaps, self._period)

    def _tidy(self) -> None:
        if self._store is not None:
            self._store.tidy()

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


def _lock(path: Path) -> RecorderLock:
    if path.is_dir():
        raise RecordingError(f"{path} is a directory; a recording is a file")
    try:
        return RecorderLock(path)
    except OSError as error:
        raise RecordingError(
            f"{path} cannot be recorded into: {error.strerror or error}"
        ) from error
