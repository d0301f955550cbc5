"""Charts and the report show a recording in one file, with visible gaps."""

import base64
import hashlib
import json
import math
import os
import re
import sqlite3
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from binance_oi import Gap, RecordingError
from binance_oi.errors import printable
from binance_oi.market.changes import changes_of
from binance_oi.output.chart import plot
from binance_oi.output.completeness import Completeness, Mark
from binance_oi.output.curve import Curve, curve, thinned
from binance_oi.output.drawing import Span, chart, path, strip, ticks
from binance_oi.output.movers import market_of, with_z_scores
from binance_oi.output.report import report, write_report
from binance_oi.recorder import Recording
from binance_oi.recorder.connection import Connection
from binance_oi.recorder.recording import CountedGap
from binance_oi.recorder.store import Store
from binance_oi.times import instant, iso_ms
from support.lanes import thorough
from support.recorded import BEGIN, EVERY, PRICE, VALUES, sweep, write_recording


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    with Recording(write_recording(tmp_path / "oi.db")) as opened:
        yield opened


class Page(HTMLParser):
    """The resources that a browser would load, and the page's policy, state and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.policy = ""
        self.state: dict[str, Any] = {}
        self.shown = ""
        self._into: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        values = [value for name, value in named.items() if name in ("src", "href")]
        self.fetched += [value for value in values if not value.startswith("data:")]
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]
        if tag == "script":
            self._into = [] if named.get("type") == "application/json" else self.scripts
        if tag == "style":
            self._into = self.styles

    def handle_endtag(self, tag: str) -> None:
        if tag == "script" and self._into is not None and self._into is not self.scripts:
            self.state = json.loads("".join(self._into))
        if tag in ("script", "style"):
            self._into = None

    def handle_data(self, data: str) -> None:
        if self._into is None:
            self.shown += data
        else:
            self._into.append(data)


def hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_page_shows_the_market_first_and_then_the_completeness(recording: Recording) -> None:
    page = Page(report(recording))
    assert page.fetched == []
    for expected in (
        "2026-11-23 23:58:00 to 2026-11-24 00:02:00 UTC, every 60 s. Source: unknown. Made 20",
        "Slots with a sweep60.000 %Sweeps3Samples8",
        "60.000 % of the slots have a sweep: 3 have one, and 2 have none.",
        "banned120:02:00",  # 1 gap, 2 slots, the longest 0:02:00
        "Single reads that failedSymbolSweeps without itReasonBTCUSDT1outage",
        "2026-11-24 00:00:00",
        "until 00:02",
        "96.05 k",
        "+0.04 %",
        "币安人生USDT",
    ):
        assert expected in page.shown, expected
    assert 'title="96,052.544"' in report(recording)  # the tooltip has every digit
    assert page.shown.index("Largest changes") < page.shown.index("Completeness")


def test_the_page_allows_its_own_style_and_script_by_their_hashes_and_nothing_else(
    recording: Recording,
) -> None:
    page = Page(report(recording))
    (script,), (style,) = page.scripts, page.styles
    assert page.policy == (
        f"default-src 'none'; style-src {hash_of(style)}; script-src {hash_of(script)}; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def decoded(coded: dict[str, Any]) -> list[float]:
    total, found = 0, []
    for step in coded["steps"]:
        total += step or 0
        found.append(math.nan if step is None else total / coded["scale"])
    return found


def test_the_page_has_every_symbol_and_the_curves_of_the_largest_movers(
    recording: Recording,
) -> None:
    state = Page(report(recording)).state
    assert sorted(row["symbol"] for row in state["rows"]) == sorted(VALUES)
    for symbol, coded in state["series"].items():
        samples = list(recording.samples([symbol]))
        known = [value for value in decoded(coded["values"]) if not math.isnan(value)]
        assert known == pytest.approx([float(sample.open_interest) for sample in samples])
        steps = coded["values"]["steps"]
        pairs = zip(decoded(coded["times"]), steps, strict=True)
        times = [time for time, step in pairs if step is not None]
        assert times == [sample.time for sample in samples]
    assert decoded(state["series"]["BTCUSDT"]["prices"])[0] == pytest.approx(float(PRICE))


def test_every_chart_is_valid_xml_and_the_first_one_has_a_line(recording: Recording) -> None:
    text = report(recording)
    charts = [
        ET.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")
        for part in text.split("<svg")[1:]
    ]
    lines = [p.get("d", "") for svg in charts for p in svg.iter("path") if is_line(p)]
    assert len(lines) == 1  # that of the first symbol; the script draws the others
    assert all(line.startswith("M") and "nan" not in line for line in lines)


def is_line(element: ET.Element) -> bool:
    return element.get("class") == "line"


def test_the_labels_of_a_chart_are_round_values_and_times() -> None:
    span = Span(BEGIN.timestamp(), BEGIN.timestamp() + 86_400)
    assert [text for _, text in ticks(span)] == [
        *("Nov 24", "03:00", "06:00", "09:00", "12:00", "15:00", "18:00", "21:00")
    ]
    drawn = chart("A", ([span.first, span.last], [96_012.5, 97_998.25]), span, [], 20.0)
    labels = [text.split("<")[0] for text in drawn.split('text-anchor="end">')[1:]]
    assert labels == ["96,500", "97,000", "97,500"]


@pytest.mark.parametrize("days, step", [(0.001, 30), (0.9, 10_800), (30.0, 4 * 86_400)])
def test_a_chart_has_a_few_time_labels_for_any_span(days: float, step: int) -> None:
    at = [time for time, _ in ticks(Span(BEGIN.timestamp(), BEGIN.timestamp() + days * 86_400))]
    assert 2 <= len(at) <= 9
    assert {after - before for before, after in pairwise(at)} == {step}


def test_a_constant_value_is_drawn_as_a_line_with_one_label() -> None:
    drawn = chart("A", ([0.0, 60.0], [5.25, 5.25]), Span(0.0, 80.0), [], 20.0)
    assert drawn.count('text-anchor="end">5.25<') == drawn.count('class="grid"') == 1


def test_the_text_of_a_gap_is_escaped() -> None:
    gap = Gap(20_000, 40_000, "banned", "<b>")
    drawn = strip(Span(0.0, 100.0), [gap], 20.0)
    assert 'class="gap banned" x="20.000%" height="22" width="40.000%"' in drawn
    assert "1970-01-01 00:00:20 to 1970-01-01 00:00:40 UTC: banned (&lt;b&gt;)" in drawn


def test_the_name_of_a_file_is_escaped(tmp_path: Path) -> None:
    file = write_recording(tmp_path / "<b>oi.db")
    with closing(Store(file)) as store:
        slot = round((BEGIN + 9 * EVERY).timestamp() * 1000)
        store.save(None, [Gap(slot, slot, "outage", "<script>alert(1)</script>")], 60_000)
    with Recording(file) as recording:
        page = Page(report(recording))
    assert len(page.scripts) == 1
    assert "alert(1)" not in page.scripts[0]
    assert "<script>alert(1)</script>" in page.shown


def test_a_line_is_broken_where_nothing_was_recorded(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "oi.db")) as store:
        for number in (0, 1, 2, 3, 30, 31, 32):
            store.save(sweep(number), [], 60_000)
    with Recording(tmp_path / "oi.db") as recording:
        times, values, _ = curve(recording.samples(["1000SHIBUSDT"]))
        assert [math.isnan(value) for value in values] == [False] * 4 + [True] + [False] * 3
        assert times == sorted(times)
        assert path(list(zip(times, values, strict=True))).count("M") == 2


def test_thinning_keeps_the_lowest_the_highest_and_the_breaks() -> None:
    values = [math.sin(i / 50) for i in range(20_000)]
    values[777], values[5000], values[9000] = 5.0, -5.0, math.nan
    line = Curve([float(i) for i in range(20_000)], values, [math.nan] * 20_000)
    kept = thinned(line, 480).values
    assert len(kept) <= 2 * 480 + 1
    known = [value for value in kept if not math.isnan(value)]
    assert (max(known), min(known), len(kept) - len(known)) == (5.0, -5.0, 1)


def test_thinning_keeps_a_long_stretch_without_values() -> None:
    values = [1.0] * 1000 + [math.nan] * 500 + [2.0] * 1000
    kept = thinned(Curve([float(i) for i in range(2500)], values, values), 100).values
    assert [math.isnan(value) for value in kept] == [False] * 80 + [True] * 500 + [False] * 80


def without_time(page: str) -> str:
    return re.sub(r"Made [\d :-]+ UTC", "", page)


def test_the_page_is_written_or_recording_error_is_raised(
    recording: Recording, tmp_path: Path
) -> None:
    write_report(recording, tmp_path / "report.html")
    written = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert without_time(written) == without_time(report(recording))
    with pytest.raises(RecordingError, match="cannot be written"):
        write_report(recording, tmp_path / "nowhere" / "report.html")


def test_a_page_about_a_part_counts_the_slots_and_samples_of_that_part(
    recording: Recording,
) -> None:
    since, until = BEGIN + EVERY - timedelta(seconds=5), BEGIN + 3 * EVERY
    shown = Page(report(recording, symbols=["btcusdt"], since=since, until=until + 2 * EVERY)).shown
    for expected in (
        "2026-11-23 23:59:00 to 2026-11-24 00:02:00 UTC, every 60 s",
        "Symbols1Slots with a sweep50.000 %Sweeps2Samples1",
        "2 have one, and 2 have none",
    ):
        assert expected in shown
    assert "SHIB" not in shown
    shown = Page(report(recording, since=since, until=until)).shown
    assert "2026-11-23 23:59:00 to 2026-11-24 00:00:00 UTC" in shown
    assert "1 have one, and 1 have none" in shown  # of the gap's two slots, one is before `until`
    assert "BTCUSDT" in Page(report(recording, until=until)).shown


@pytest.mark.parametrize("from_slot, to_slot", [(0, 5), (1, 3), (2, 3), (3, 4), (4, 5), (0, 1)])
def test_each_slot_of_a_recording_belongs_to_exactly_one_part(
    recording: Recording, from_slot: int, to_slot: int
) -> None:
    begin, minute = round(BEGIN.timestamp() * 1000), 60_000
    for shift in (0, -30_000, 1):  # a moment between two slots is not a slot
        first, end = begin + from_slot * minute + shift, begin + to_slot * minute + shift
        slots = [begin + n * minute for n in range(5) if first <= begin + n * minute < end]
        sweeps = [sweep.slot for sweep in recording.sweeps((first, end))]
        gaps = list(recording.counted_gaps((first, end)))
        missed = [slot for it in gaps for slot in range(it.gap.first, it.gap.last + 1, minute)]
        assert sorted(sweeps + missed) == slots
        assert sum(it.slots for it in gaps) == len(missed)


def test_failures_are_counted_only_in_their_part(recording: Recording) -> None:
    begin = round(BEGIN.timestamp() * 1000)
    assert list(recording.failures()) == [("BTCUSDT", "outage", 1)]
    assert list(recording.failures((begin, begin + 60_000))) == []
    assert list(recording.failures((begin + 60_000, begin + 60_001))) == [("BTCUSDT", "outage", 1)]


def test_an_impossible_part_is_refused_before_anything_is_written(
    recording: Recording, tmp_path: Path
) -> None:
    page = tmp_path / "oi.html"
    with pytest.raises(ValueError, match="is later than until"):
        write_report(recording, page, since=BEGIN + EVERY, until=BEGIN)
    with pytest.raises(RecordingError, match="has no NOSUCHUSDT"):
        write_report(recording, page, symbols=["NOSUCHUSDT"])
    with pytest.raises(RecordingError, match="nothing to report"):
        write_report(recording, page, until=BEGIN - EVERY)
    assert not page.exists()


def test_an_empty_recording_raises_recording_error(tmp_path: Path) -> None:
    Store(tmp_path / "oi.db").close()
    with (
        Recording(tmp_path / "oi.db") as recording,
        pytest.raises(RecordingError, match="nothing to report"),
    ):
        report(recording)


def test_a_recording_with_history_only_is_refused_with_what_it_has_and_what_to_run(
    tmp_path: Path,
) -> None:
    with closing(Store(tmp_path / "oi.db")) as store:
        store.save_past([("BTCUSDT", round(BEGIN.timestamp() * 1000), 1, "1.5", None, None)])
    with (
        Recording(tmp_path / "oi.db") as recording,
        pytest.raises(RecordingError, match="it has only rows of the past, of 1 symbol, and"),
    ):
        report(recording)


def test_a_hundred_thousand_gaps_fit_on_a_page(tmp_path: Path) -> None:
    first, second = round(BEGIN.timestamp() * 1000), 1_000
    file = write_recording(tmp_path / "oi.db")
    rows = [
        (first + 10**6 + n * 10 * second, first + 10**6 + (n * 10 + n % 7) * second, reason)
        for n, reason in enumerate(["outage", "banned", "late", "overrun"] * 25_000)
    ]
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.executemany("INSERT INTO gaps VALUES ('', ?, ?, 1000, ?, 'a detail')", rows)
    with Recording(file) as recording:
        text = report(recording)
        slots = recording.missed()
    assert len(text.encode()) < 2 * 2**20
    page = Page(text)
    assert f"{slots:,} have none" in page.shown
    assert "The longest 20 of 100,001 gaps" in page.shown
    marks = page.state["gaps"]
    assert len(marks) <= 2 * 960
    assert marks[-1]["last"] == rows[-1][1] + second
    assert all(before["last"] <= after["first"] for before, after in pairwise(marks))


def test_marks_that_a_picture_cannot_separate_are_joined_under_the_longer_reason() -> None:
    slots = [(0, 0, "late"), (2_000, 50_000, "banned"), (900_000, 900_000, "late")]
    gaps = [CountedGap(Gap(first, last, reason), 1_000, 1) for first, last, reason in slots]
    found = Completeness(BEGIN, BEGIN, 1, 1, 1, gaps, 1.0, BEGIN.timestamp() + 9_600)
    assert found.marks() == [
        Mark(0, 1_000, "late"),
        Mark(2_000, 51_000, "banned"),
        Mark(900_000, 901_000, "late"),
    ]
    gaps.insert(1, CountedGap(Gap(1_500, 1_500, "banned"), 1_000, 1))
    assert found.marks()[0] == Mark(0, 2_500, "late")


def test_joined_marks_get_the_reason_of_the_longest_gap_and_not_of_the_last_one() -> None:
    slots = [(0, 200, "late"), (400, 500, "late"), (700, 950, "banned"), (900_000, 900_000, "late")]
    gaps = [CountedGap(Gap(first, last, reason), 100, 1) for first, last, reason in slots]
    found = Completeness(BEGIN, BEGIN, 1, 1, 1, gaps, 1.0, BEGIN.timestamp() + 9_600)
    assert found.marks()[0] == Mark(0, 1_050, "banned")


@pytest.mark.parametrize("most", [0, 300_000], ids=["looked up", "read"])
def test_a_symbol_whose_only_sample_is_older_than_the_first_slot_has_a_curve(
    tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("binance_oi.output.report.MOST_READ", most)
    at = round(BEGIN.timestamp() * 1000)
    with closing(Store(tmp_path / "oi.db")):
        pass
    sweeps = [(at + n * 10_000, 10_000, at, at, 1, 1, 0, 10) for n in range(50)]
    with closing(sqlite3.connect(tmp_path / "oi.db", factory=Connection)) as connection, connection:
        connection.execute("INSERT INTO settled VALUES ('X', ?1, '5', ?1, NULL)", (at - 2_500,))
        connection.executemany("INSERT INTO sweeps VALUES (?, ?, ?, ?, ?, ?, ?, ?)", sweeps)
    with Recording(tmp_path / "oi.db") as recording:
        state = Page(report(recording)).state
    assert decoded(state["series"]["X"]["values"]) == [5.0]


@pytest.mark.parametrize("slot", [253_402_300_740_000, 253_402_300_699_999, -62_135_596_800_000])
def test_the_page_omits_slots_of_impossible_dates(tmp_path: Path, slot: int) -> None:
    file = write_recording(tmp_path / "oi.db")
    with Recording(file) as recording:
        before = Page(report(recording, made=BEGIN)).shown
    with closing(sqlite3.connect(file, factory=Connection)) as connection, connection:
        connection.execute("INSERT INTO gaps VALUES ('', ?1, ?1, 60000, 'clock', '')", (slot,))
        connection.execute("INSERT INTO sweeps VALUES (?1, 300000, 0, 0, 1, 1, 1, 1)", (slot + 1,))
    with Recording(file) as recording:
        assert Page(report(recording, made=BEGIN)).shown == before


def test_a_curve_without_any_value_is_an_empty_picture() -> None:
    assert 'class="line" d=""' in chart("A", ([], []), Span(0.0, 60.0), [], 20.0)


def test_the_z_score_of_the_last_hour_equals_that_of_the_series(tmp_path: Path) -> None:
    at, step = round(BEGIN.timestamp() * 1000) // 300_000 * 300_000, 300_000
    with closing(Store(tmp_path / "oi.db")):
        pass
    rows = [("AUSDT", at + n * step, str(1000 + n * n % 97)) for n in range(400)]
    with closing(sqlite3.connect(tmp_path / "oi.db", factory=Connection)) as connection, connection:
        connection.executemany("INSERT INTO settled VALUES (?1, ?2, ?3, ?2, '1')", rows)
    with Recording(tmp_path / "oi.db") as recording:
        market = market_of(recording, None, (0, 1 << 62))
        assert market is not None
        (line,) = with_z_scores(recording, market).lines
        series = recording.series(["AUSDT"], until=instant(market.end + 1))
        *_, last = changes_of(series, ["1h"])
    assert line.z_score == last.z_score
    assert last.z_score is not None
    assert market.lines[0].z_score is None


def test_movers_are_compared_at_the_last_price_and_only_in_dollars(tmp_path: Path) -> None:
    at = round(BEGIN.timestamp() * 1000)
    with closing(Store(tmp_path / "oi.db")):
        pass
    rows = [
        ("AUSDT", at, "100", "2.0"),
        ("AUSDT", at + 3_600_000, "110", "3.0"),
        ("ABTC", at, "100", "2.0"),
        ("ABTC", at + 3_600_000, "500", "3.0"),
        ("BUSDC", at, "0", "1"),
        ("BUSDC", at + 3_600_000, "7", "1"),
        ("OLDUSDT", at, "5", None),
    ]
    with closing(sqlite3.connect(tmp_path / "oi.db", factory=Connection)) as connection, connection:
        connection.executemany("INSERT INTO settled VALUES (?1, ?2, ?3, ?2, ?4)", rows)
    with Recording(tmp_path / "oi.db") as recording:
        market = market_of(recording, None, (0, 1 << 62))
    assert market is not None
    assert [(line.symbol, line.usd_change) for line in market.movers_by_usd()] == [
        ("AUSDT", Decimal(30)),
        ("BUSDC", Decimal(7)),
    ]
    assert [line.symbol for line in market.movers_by_percent()][:2] == ["ABTC", "AUSDT"]
    changes = {line.symbol: line.changes["1h"] for line in market.lines}
    assert changes == {
        "AUSDT": pytest.approx(10.0),
        "ABTC": pytest.approx(400.0),
        "BUSDC": None,
        "OLDUSDT": None,
    }
    assert market.totals == (Decimal(200), Decimal(337))  # AUSDT 200 to 330, BUSDC 0 to 7


@pytest.mark.parametrize("suffix, begins", [("svg", b"<?xml"), *thorough(("png", b"\x89PNG"))])
def test_a_chart_is_written_in_each_image_format(
    recording: Recording, tmp_path: Path, suffix: str, begins: bytes
) -> None:
    pytest.importorskip("matplotlib")
    plot(recording, tmp_path / f"oi.{suffix}", ["BTCUSDT", "币安人生USDT"])
    assert (tmp_path / f"oi.{suffix}").read_bytes().startswith(begins)


def test_a_chart_shades_gaps_with_their_reason_and_names_its_unit(
    recording: Recording, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    plot(recording, tmp_path / "oi.svg", ["BTCUSDT"])
    drawn = (tmp_path / "oi.svg").read_text()
    assert "gap: banned" in drawn
    assert "coins" in drawn
    plot(recording, tmp_path / "usd.svg", ["BTCUSDT"], usd=True, dark=True)
    drawn_in_usd = (tmp_path / "usd.svg").read_text()
    assert "USD" in drawn_in_usd.replace("BTCUSDT", "")
    assert "#0d1117" in drawn_in_usd
    assert "#0d1117" not in drawn
    with pytest.raises(RecordingError, match="no mark price of 1000SHIBUSDT"):
        plot(recording, tmp_path / "usd.svg", ["1000SHIBUSDT"], usd=True)


def test_a_chart_that_cannot_be_drawn_raises_recording_error(
    recording: Recording, tmp_path: Path
) -> None:
    with pytest.raises(RecordingError, match=r"must end in \.svg or \.png"):
        plot(recording, tmp_path / "oi.gif", ["BTCUSDT"])
    with pytest.raises(RecordingError, match="has no sample of BTCUSDT in that range"):
        plot(recording, tmp_path / "oi.svg", ["BTCUSDT"], since=BEGIN + timedelta(days=1))
    pytest.importorskip("matplotlib")
    with pytest.raises(RecordingError, match="cannot be written"):
        plot(recording, tmp_path / "nowhere" / "oi.svg", ["BTCUSDT"])
    with pytest.raises(ValueError, match="symbols must name at least one symbol"):
        plot(recording, tmp_path / "oi.svg", [])


def test_a_gap_with_reason_clock_and_no_slots_is_shown_and_counts_no_slot(tmp_path: Path) -> None:
    minute, first = 60_000, round(BEGIN.timestamp() * 1000)
    with closing(Store(write_recording(tmp_path / "oi.db"))) as store:
        store.save(None, [Gap(first, first - minute, "clock", "the clock was set back")], minute)
    with Recording(tmp_path / "oi.db") as recording:
        shown = Page(report(recording)).shown
    assert "and 2 have none" in shown
    assert "clock10" in shown  # 1 gap, 0 slots
    assert "2026-11-23 23:58:002026-11-23 23:58:000clockthe clock was set back" in shown


@pytest.mark.parametrize("period", [1_000, 20_000, 240_000])
def test_a_gap_counts_its_slots_at_its_own_period(tmp_path: Path, period: int) -> None:
    minute, first = 60_000, round(BEGIN.timestamp() * 1000)
    file = write_recording(tmp_path / "oi.db")  # it has a gap of 2 slots
    with closing(Store(file)) as store:
        store.save(None, [Gap(first + 5 * minute, first + 7 * minute, "outage")], minute)
        at = first + 8 * minute
        store.save(None, [Gap(at, at + 4 * period, "late")], period)
        store.save(sweep(100), [], period)
    with Recording(file) as recording:
        counted = [(it.gap.reason, it.period, it.slots) for it in recording.counted_gaps()]
        assert [it.gap for it in recording.counted_gaps()] == list(recording.gaps())
        missed = recording.missed()
        page = report(recording)
    assert {it for it in counted if it[0] in ("banned", "outage", "late")} == {
        *(("banned", minute, 2), ("outage", minute, 3), ("late", period, 5))
    }
    assert sum(slots for *_, slots in counted) == missed
    shown = Page(page).shown
    for expected in ("banned12", "outage13", "late15", f"and {missed:,} have none"):
        assert expected in shown
    assert "2026-11-24 00:03:002026-11-24 00:05:003outage" in shown


@pytest.mark.parametrize("period", [1_000, 60_000, 240_000])
def test_an_empty_gap_has_no_slot_at_any_period(tmp_path: Path, period: int) -> None:
    first = round(BEGIN.timestamp() * 1000)
    file = write_recording(tmp_path / "oi.db")
    with closing(sqlite3.connect(file)) as connection, connection:
        for number, back in enumerate((1, 999, 60_000, 10**7)):
            at = first + number
            row = (at, at - back, period)
            connection.execute("INSERT INTO gaps VALUES ('', ?, ?, ?, 'clock', 'set back')", row)
        connection.execute("UPDATE sweeps SET period = 1000")
    with Recording(file) as recording:
        shown = Page(report(recording)).shown
        assert recording.missed() == 2
    assert "clock40" in shown
    assert "banned12" in shown
    assert shown.count("0clockset back") == 4


@pytest.mark.parametrize("period", [0, -60_000])
def test_a_gap_without_a_period_is_shown_and_has_no_slot(tmp_path: Path, period: int) -> None:
    first = round(BEGIN.timestamp() * 1000)
    file = write_recording(tmp_path / "oi.db")
    with closing(sqlite3.connect(file)) as connection, connection:
        row = (first + 10**6, first + 10**6 + 120_000, period)
        connection.execute("INSERT INTO gaps VALUES ('', ?, ?, ?, 'outage', 'odd')", row)
    with Recording(file) as recording:
        assert recording.missed() == 2
        assert "outage10" in Page(report(recording)).shown


def test_a_slot_of_two_gaps_counts_once_in_the_page(tmp_path: Path) -> None:
    first, minute = round(BEGIN.timestamp() * 1000), 60_000
    file = write_recording(tmp_path / "oi.db")  # its gap covers the minutes 2 and 3
    with closing(sqlite3.connect(file)) as connection, connection:
        row = (first + 3 * minute, first + 5 * minute, minute)  # minute 4 has a sweep
        connection.execute("INSERT INTO gaps VALUES ('', ?, ?, ?, 'outage', '')", row)
    with Recording(file) as recording:
        shown = Page(report(recording)).shown
        assert recording.missed() == 3
    for expected in ("and 3 have none", "banned12", "outage11"):
        assert expected in shown


@pytest.mark.parametrize("period", [1_000, 600_000])
def test_a_gap_is_drawn_as_long_as_its_own_slots(tmp_path: Path, period: int) -> None:
    minute, first = 60_000, round(BEGIN.timestamp() * 1000)
    file = write_recording(tmp_path / "oi.db")
    with closing(Store(file)) as store:
        store.save(None, [Gap(first + 5 * minute, first + 9 * minute, "outage")], minute)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE sweeps SET period = ? WHERE slot = ?", (period, first))
        connection.execute("UPDATE sweeps SET period = ? WHERE slot > ?", (period, first + minute))
    end = max(first + 10 * minute, first + 4 * minute + period)
    with Recording(file) as recording:
        page = report(recording)
    width = 100 * 5 * minute / (end - first)
    assert f'height="22" width="{width:.3f}%"><title>2026-11-24 00:03:00' in page


def test_a_recording_without_slots_gets_a_page_that_says_so(tmp_path: Path) -> None:
    first = round(BEGIN.timestamp() * 1000)
    file = write_recording(tmp_path / "oi.db")
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("DELETE FROM sweeps")
        connection.execute("DELETE FROM gaps")
        row = (first, first - 60_000, 60_000)
        connection.execute("INSERT INTO gaps VALUES ('', ?, ?, ?, 'clock', 'set back')", row)
    with Recording(file) as recording:
        shown = Page(report(recording)).shown
    assert "No slot was due." in shown


@pytest.mark.parametrize("name", [b"\xff.db", b"\xed\xa0\x80.db", b"a\nb\x1b[2J.db"])
def test_the_page_shows_any_possible_file_name(tmp_path: Path, name: bytes) -> None:
    file = tmp_path / os.fsdecode(name)
    try:
        write_recording(tmp_path / "oi.db").rename(file)
    except OSError:  # the file system does not allow this name
        file = tmp_path / "oi.db"
    with Recording(file) as recording:
        write_report(recording, tmp_path / "oi.html")
    text = (tmp_path / "oi.html").read_text(encoding="utf-8")
    assert text.count(f"Open interest: {printable(file.name)}<") == 2


@pytest.mark.parametrize("wrong", [1, 1_795_435_200, 253_402_300_799_999])
def test_charts_and_the_page_omit_samples_of_impossible_dates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: int
) -> None:
    pytest.importorskip("matplotlib")
    file = write_recording(tmp_path / "oi.db")
    with Recording(file) as recording:
        before = report(recording, made=BEGIN)
    with closing(sqlite3.connect(file, factory=Connection)) as connection, connection:
        connection.executemany(
            "INSERT INTO settled VALUES (?1, ?2, '7.5', ?2, NULL)",
            [("BTCUSDT", wrong), ("ONLYUSDT", wrong)],
        )
    with Recording(file) as recording:
        plot(recording, tmp_path / "oi.svg", ["BTCUSDT"])
        assert report(recording, made=BEGIN) == before
        with pytest.raises(RecordingError, match="has no sample of ONLYUSDT in that range"):
            plot(recording, tmp_path / "only.svg", ["ONLYUSDT"])
    drawn = (tmp_path / "oi.svg").read_text()
    assert "1970" not in drawn
    assert "9999" not in drawn
    warnings = [record.getMessage() for record in caplog.records]
    assert all("odd rows are left out: " in text and iso_ms(wrong) in text for text in warnings)
    assert ["BTCUSDT" in text for text in warnings] == [True, True, False]
