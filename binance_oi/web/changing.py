"""Answers questions about changes of open interest, from the poll and from a recording.

The rule of this file: it sends the exchange no requests. The past takes much memory (some 200 kB
for each symbol), so we read it only after a visitor asks the first question.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import Final, NamedTuple

from binance_oi.arguments import StrPath
from binance_oi.encoding import Decimals, json_text
from binance_oi.errors import RecordingError
from binance_oi.market.changes import USUAL_MS, Change, ChangeTracker
from binance_oi.market.rows import notional
from binance_oi.market.windows import WINDOWS, length_ms
from binance_oi.recorder.recording import Recording
from binance_oi.sending.shared_calls import SharedCalls
from binance_oi.web.events import Cell
from binance_oi.web.hub import Hub
from binance_oi.web.limits import Limits
from binance_oi.web.messages import Body
from binance_oi.web.queries import Query

logger: logging.Logger = logging.getLogger("binance_oi")

PARAMETERS: Final = ("symbols", "window", "sort", "top", "decimal", "trend")
ORDERS: Final = ("symbol", "percent", "usd", "z_score")
SYMBOLS_PER_STEP: Final = 50  # symbols whose changes are computed before other work runs
TREND_STEP: Final = 3_600_000  # ms between the values of a trend
TREND_VALUES: Final = 25  # values of a trend: one day, with both ends
KEPT_BODIES: Final = 64  # answers that we keep until the next event
# A change needs this much of the past: 7 days of changes to compare it with, and their window.
USUAL: Final = timedelta(milliseconds=USUAL_MS + max(length_ms("window", w) for w in WINDOWS))

EARLIEST: Final = datetime.min.replace(tzinfo=UTC)


class ChangesQuestion(NamedTuple):
    """A question about changes."""

    names: tuple[str, ...] | None
    window: str
    order: str
    top: int | None
    decimals: Decimals
    trend: bool = False
    """Whether the answer also has the values of the last day."""


def changes_question(query: Query, limits: Limits) -> ChangesQuestion:
    """Read the question of a visitor.

    Raises:
        ProblemError: A parameter is wrong.
    """
    return ChangesQuestion(
        query.symbols(limits.symbols),
        query.one_of("window", WINDOWS, "1h"),
        query.one_of("sort", ORDERS, "symbol"),
        query.count("top", limits.symbols),
        query.decimals(),
        query.flag("trend"),
    )


class Changes:
    """Follows a hub, and computes changes of its values.

    Args:
        recording: The recording that covers the time before this server started; None if there is
            none.
    """

    def __init__(self, recording: StrPath | None) -> None:
        self._recording = recording
        self._tracker: ChangeTracker | None = None
        self._filling: asyncio.Task[None] | None = None
        # New values that came while we read the past; None if we do not read it now.
        self._meanwhile: list[Mapping[str, Cell]] | None = None
        self._bodies: dict[ChangesQuestion, Body] = {}
        self._bodies_of: object = None
        self._running: SharedCalls[Body] = SharedCalls()

    @property
    def is_filling(self) -> bool:
        """Whether we are reading the past."""
        return self._meanwhile is not None

    def observe(self, cells: Mapping[str, Cell]) -> None:
        """Take the new values of a sweep."""
        if self._tracker is None:
            return
        if self._meanwhile is not None:
            self._meanwhile.append(cells)
        _feed(self._tracker, cells)

    async def read(self, hub: Hub, question: ChangesQuestion) -> Body:
        """Answer a question. Until the next event of the hub, equal questions get the same body."""
        self._begin(hub)
        key = hub.number, self._tracker
        if self._bodies_of != key:
            self._bodies_of, self._bodies = key, {}
        body = self._bodies.get(question)
        if body is None:
            answer = partial(self._answer, hub, question)
            body = await self._running.join((question, key), answer)
            if self._bodies_of == key and len(self._bodies) < KEPT_BODIES:
                self._bodies[question] = body
        return body

    async def aclose(self) -> None:
        """Stop reading the past. A second call does nothing."""
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait([self._filling])

    def _begin(self, hub: Hub) -> None:
        if self._tracker is None:
            self._tracker = ChangeTracker()
            _feed(self._tracker, hub.cells)
            if self._recording is not None:
                self._meanwhile = [dict(hub.cells)]
                self._filling = asyncio.create_task(self._fill(self._recording))

    async def _fill(self, place: StrPath) -> None:
        """Replace the tracker with one that has the past of the recording."""
        try:
            tracker = await asyncio.to_thread(_filled, place)
        except (RecordingError, OverflowError, ValueError) as error:
            logger.warning("changes are computed without the past of the recording: %s", error)
        else:
            for cells in self._meanwhile or ():
                _feed(tracker, cells)
                await asyncio.sleep(0)
            self._tracker = tracker
        finally:
            self._meanwhile = None

    async def _answer(self, hub: Hub, question: ChangesQuestion) -> Body:
        found, without = await self._found(hub, question)
        if question.order != "symbol":
            found.sort(key=_largest_first(question.order))
        encoded = list[str]()
        for count, change in enumerate(found[: question.top], 1):
            encoded.append(change.to_json(decimals=question.decimals))
            if not count % SYMBOLS_PER_STEP:
                await asyncio.sleep(0)
        rest = "".join(f',"{why}":{json_text(names)}' for why, names in without.items() if names)
        head = f'{{"window":"{question.window}","filling":{str(self.is_filling).lower()}'
        if question.trend and hub.latest is not None:
            last = hub.latest.slot // TREND_STEP * TREND_STEP
            head += f',"trend":{await self._trend(_names(hub, question), last)}'
        return Body(f'{head},"changes":[{",".join(encoded)}]{rest}}}'.encode())

    async def _found(
        self, hub: Hub, question: ChangesQuestion
    ) -> tuple[list[Change], Mapping[str, Sequence[str]]]:
        """Return the changes, and the named symbols without a change, by the reason.

        The reason is ``absent`` if the market lacks the symbol, or ``short`` if we know too little
        of its past. While we read the past, both lists are empty.
        """
        tracker, found = self._tracker, list[Change]()
        absent, short = list[str](), list[str]()
        assert tracker is not None
        for count, name in enumerate(_names(hub, question), 1):
            change = tracker.latest(name, question.window)
            if change is not None:
                found.append(change)
            elif question.names is not None and not self.is_filling:
                (short if name in hub.cells else absent).append(name)
            if not count % SYMBOLS_PER_STEP:
                await asyncio.sleep(0)
        return found, {"absent": absent, "short": short}

    async def _trend(self, names: Sequence[str], last: int) -> str:
        """Open interest of the last day, every full hour up to `last`, as JSON; null for a hole."""
        tracker, first = self._tracker, last - (TREND_VALUES - 1) * TREND_STEP
        assert tracker is not None
        trends = dict[str, list[float | None]]()
        for count, name in enumerate(names, 1):
            times = range(first, last + 1, TREND_STEP)
            found = [tracker.open_interest_at(name, time) for time in times]
            # Six significant digits are enough to draw a picture.
            trends[name] = [None if value is None else float(f"{value:.6g}") for value in found]
            if not count % SYMBOLS_PER_STEP:
                await asyncio.sleep(0)
        return json_text({"first": first, "step": TREND_STEP, "values": trends})


def _names(hub: Hub, question: ChangesQuestion) -> tuple[str, ...]:
    return tuple(hub.cells) if question.names is None else question.names


def _largest_first(order: str) -> Callable[[Change], tuple[bool, object]]:
    """A sort key: the largest change, up or down, comes first, and one without a value last."""
    read = attrgetter(order)

    def key(change: Change) -> tuple[bool, object]:
        value = read(change)
        return value is None, 0 if value is None else -abs(value)

    return key


def _feed(tracker: ChangeTracker, cells: Mapping[str, Cell]) -> None:
    for name, cell in cells.items():
        value, price = cell.value, cell.mark_price
        usd = None if price is None else notional(value.open_interest, price)
        tracker.observe(name, value.time, value.open_interest, notional=usd)


def _filled(place: StrPath) -> ChangeTracker:
    """A tracker with the past of a recording, as far as changes need it."""
    tracker = ChangeTracker()
    with Recording(place) as recording:
        span = recording.span()  # None if the recording has rows of a backfill, but no sweep
        newest = datetime.now(UTC) if span is None else span[1]
        since = newest - min(USUAL, newest - EARLIEST)
        recording.series(since=since).fill(tracker)
    return tracker
