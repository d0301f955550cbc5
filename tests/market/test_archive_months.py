"""Months of rows, cut into archive files with every known kind of fault, are read exactly.

Rule of this file: it draws the faults at random, and computes the expected holes without the code
that it tests. The environment variable BINANCE_OI_MONTHS may name a gzipped CSV file of real rows,
with a header and the columns `timestamp,sum_open_interest,sum_open_interest_value,...`. Without it,
and in the run of 40 days, the rows are made up.
"""

import csv
import gzip
import hashlib
import os
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from binance_oi import Archive, ArchiveDay
from support.archive_files import (
    DAY_MS,
    HEADER,
    STEP,
    ArchiveServer,
    line,
    midnight,
    pack,
    path_of,
    text,
)
from support.lanes import thorough

pytestmark = pytest.mark.virtual_time

MONTHS = os.environ.get("BINANCE_OI_MONTHS", "")
FIRST = midnight(date(2025, 7, 1))
FORMS = ("usual", "no header", "CRLF", "mark", "other columns")

Rows = dict[int, tuple[str, str]]
"""Open interest (empty if unknown) and notional, by instant."""


class Cut(NamedTuple):
    """Archive files, and their expected rows and holes."""

    files: dict[str, bytes]
    rows: Rows
    reasons: dict[int, str]
    """For each instant without a row, the reason."""


def real_rows(path: Path) -> Rows:
    with gzip.open(path, "rt", encoding="ascii") as file:
        return {int(row[0]): (row[1], row[2]) for row in list(csv.reader(file))[1:]}


def made_up_rows(days: int) -> Rows:
    draw, value = random.Random(7), 97_000.0
    rows: Rows = {}
    for number in range(days * 288):
        value *= 1.0 + draw.gauss(0.0, 0.0004)
        known = f"{value:.3f}" if draw.random() > 0.0002 else ""
        rows[FIRST + number * STEP] = (known, f"{value * 60_000:.8f}")
    return rows


def day_of(time: int) -> date:
    return datetime.fromtimestamp(time / 1000, UTC).date()


class Cutter:
    """Cuts rows into archive days, and adds faults at random."""

    def __init__(self, symbol: str, rows: Rows, seed: int) -> None:
        self._symbol, self._source, self._draw = symbol, rows, random.Random(seed)
        self.cut = Cut({}, {}, dict.fromkeys(range(min(rows), max(rows) + 1, STEP), "no_row"))

    def run(self) -> Cut:
        days = sorted({day_of(time) for time in self._source})
        is_there = {day: self._draw.random() > 0.03 for day in days}
        is_late = {day: self._draw.random() < 0.4 for day in days}
        for day in days:
            first = midnight(day) + (STEP if is_late[day] else 0)
            if is_there[day]:
                self._publish(day, first)
                continue
            for at in range(midnight(day), midnight(day) + DAY_MS, STEP):
                if at not in self.cut.rows and self.cut.reasons.get(at) != "no_value":
                    self.cut.reasons[at] = "no_file"
        for at in self.cut.rows:
            self.cut.reasons.pop(at, None)
        return self.cut

    def _publish(self, day: date, first: int) -> None:
        draw, lines = self._draw, list[str]()
        for at in range(first, first + DAY_MS, STEP):
            if at not in self._source or draw.random() < 0.004:
                continue
            value, notional = self._source[at]
            if draw.random() < 0.004:
                value = draw.choice(["", "0", "0.0000000000000000", "-3.5"])
            if not value or float(value) <= 0.0:
                if at not in self.cut.rows:
                    self.cut.reasons[at] = "no_value"
            else:
                self.cut.rows[at] = value, notional
            ratios = ",,," if draw.random() < 0.05 else "1,2,3,4"
            lines.append(line(self._symbol, at, value, notional, ratios))
        self._pack(day, lines)

    def _pack(self, day: date, lines: list[str]) -> None:
        draw = self._draw
        if draw.random() < 0.1:
            lines = lines * 2
        if draw.random() < 0.1:
            lines = [one for one in lines for _ in range(2)]
        if draw.random() < 0.2:
            draw.shuffle(lines)
        if draw.random() < 0.1:
            lines.insert(draw.randrange(len(lines)), f"{day} 00:00:00,OTHERUSDT,9,9,1,2,3,4")
        if draw.random() < 0.1:
            lines.append(f"{day} 00:0")
        name, path = f"{self._symbol}-metrics-{day}", path_of(self._symbol, day)
        data = pack(f"{name}.csv", _in_form(draw.choice(FORMS), lines))
        said = f"{hashlib.sha256(data).hexdigest()}  {name}.zip\n".encode()
        self.cut.files.update({path: data, f"{path}.CHECKSUM": said})


def _in_form(form: str, lines: list[str]) -> bytes:
    match form:
        case "no header":
            return text(lines, None)
        case "CRLF":
            return text(lines).replace(b"\n", b"\r\n")
        case "mark":
            return b"\xef\xbb\xbf" + text(lines)
        case "other columns":
            return text([f"new,{one}" for one in lines], f"more,{HEADER}")
        case _:
            return text(lines)


def found_in(days: list[ArchiveDay]) -> tuple[Rows, dict[int, str]]:
    rows: Rows = {}
    reasons: dict[int, str] = {}
    for day in days:
        rows |= {at: (value, notional or "") for _, at, _, value, notional, _ in day.written}
        for hole in day.holes:
            reasons |= dict.fromkeys(range(hole.first, hole.last + 1, STEP), hole.reason)
    return rows, reasons


def numbered(days: int) -> Iterator[tuple[str, int]]:
    yield "BTCUSDT", days
    yield "龙虾USDT", days


@pytest.mark.parametrize("days", [40, *thorough(426)])
async def test_all_rows_of_the_archive_are_read_exactly_and_each_hole_has_its_reason(
    days: int, tmp_path: Path
) -> None:
    source = real_rows(Path(MONTHS)) if MONTHS and days > 40 else made_up_rows(days)
    outcomes = list[tuple[Rows, dict[int, str]]]()
    for name, seed in numbered(days):
        cut = Cutter(name, source, seed).run()
        server = ArchiveServer(cut.files)
        async with server.running():
            for _ in range(2):  # first from the server, then from the cache
                async with Archive(tmp_path, base_url=server.url, pace=100_000.0) as archive:
                    since, until = min(source), max(source)
                    read = archive.days([name], since=since, until=until)
                    found = [day async for day in read]
                rows, reasons = found_in(found)
                assert rows == cut.rows
                assert reasons == cut.reasons
                assert all(source[at] == row for at, row in rows.items())
                times = [at for day in found for _, at, *_ in day.written]
                assert times == sorted(times)
                assert {"no_row", "no_value", "no_file"} == set(reasons.values())
                outcomes.append((rows, reasons))
    assert all(outcome == outcomes[0] for outcome in outcomes)  # no outcome depends on the symbol
