"""Changes equal those of an independent computation, even after their tracker restarts.

Rule of this file: tests compute expected changes from the definition, with decimals, fractions or
numpy. They compare the changes of a tracker with those of `changes_of`.
"""

import csv
import gzip
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from binance_oi.market import Change, ChangeTracker, changes_of
from binance_oi.market.changes import LATE_MS
from binance_oi.market.spread import LEAST, Spread
from binance_oi.market.windows import label, length_ms
from support.lanes import thorough

np: Any = import_module("numpy")  # comes with the extra `plot`
STEP = 300_000
WEEK = 7 * 86_400_000
BEGIN = 1_795_000_200_000 // STEP * STEP
REAL = (
    Path(__file__).resolve().parents[3] / "shared/data/history-5m-BTCUSDT-2025-07-to-2026-08.csv.gz"
)


class Row(NamedTuple):
    symbol: str
    time: int
    open_interest: Decimal
    notional: Decimal | None = None
    circulating_supply: Decimal | None = None


def walk(seed: int, count: int, holes: float = 0.02, step: int = STEP) -> list[Row]:
    """Rows of one symbol: a random walk with holes, repeated values and unknown notionals."""
    draw = Random(seed)
    value, rows = 90_000_000, list[Row]()
    for number in range(count):
        if draw.random() < 0.8:
            value += round(draw.gauss(0, 20_000))
        if draw.random() < holes:
            continue
        price = None if draw.random() < 0.1 else Decimal(draw.randrange(6_000_000)) / 100
        supply = None if draw.random() < 0.3 else Decimal(19_900_000 + number)
        oi = Decimal(value).scaleb(-3)
        notional = None if price is None else oi * price
        rows.append(Row("BTCUSDT", BEGIN + number * step, oi, notional, supply))
    return rows


def expected(rows: Sequence[Row], window: int) -> list[dict[str, Any]]:
    """The changes of one window by their definition, in decimals of 60 digits."""
    with localcontext(prec=60):
        return list(_expected({row.time: row for row in rows}, window))


def _expected(known: dict[int, Row], window: int) -> Iterator[dict[str, Any]]:
    shares = {
        time: (row.open_interest / known[time - window].open_interest - 1) * 100
        for time, row in known.items()
        if time - window in known
    }
    for time, share in shares.items():
        row, before = known[time], known[time - window]
        others = [x for at, x in shares.items() if time - WEEK <= at < time]
        z_score = percentile = None
        if len(others) >= 200:
            mean = sum(others, Decimal(0)) / len(others)
            variance = sum(((x - mean) ** 2 for x in others), Decimal(0)) / (len(others) - 1)
            z_score = float((share - mean) / variance.sqrt()) if variance else None
            smaller = sum(x < share for x in others) + sum(x == share for x in others) / 2
            percentile = smaller * 100 / len(others)
        supply = row.circulating_supply or before.circulating_supply
        both = row.notional is not None and before.notional is not None
        absolute = row.open_interest - before.open_interest
        yield {
            "time": time,
            "absolute": absolute,
            "percent": float(share),
            "usd": row.notional - before.notional if both else None,  # type: ignore[operator]
            "per_supply": supply and float(absolute / supply),
            "z_score": z_score,
            "percentile": percentile,
            "compared": len(others),
        }


def near(found: float | None, wanted: float | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-9)


def check(found: Iterable[Change], wanted: Sequence[dict[str, Any]]) -> None:
    changes = list(found)
    assert [change.time for change in changes] == [want["time"] for want in wanted]
    for change, want in zip(changes, wanted, strict=True):
        assert change.absolute == want["absolute"]
        assert change.usd == want["usd"]
        assert change.compared == want["compared"]
        for name in ("percent", "per_supply", "z_score", "percentile"):
            assert near(getattr(change, name), want[name]), (name, change, want)


@pytest.mark.parametrize(
    "seed, window, step, count",
    [
        (1, "5m", "5m", 260),
        (2, "1h", "15m", 500),
        *thorough((3, "45m", "5m", 2600), (4, "24h", "5m", 2700), (5, "35m", "35m", 700)),
    ],
)
def test_changes_equal_those_of_the_definition(
    seed: int, window: str, step: str, count: int
) -> None:
    ms = length_ms("step", step)
    rows = (
        walk(seed, count, step=ms) if BEGIN % ms == 0 else on_grid(walk(seed, count, step=ms), ms)
    )
    wanted = expected(rows, length_ms("window", window))
    assert any(want["z_score"] is not None for want in wanted)
    check(changes_of(rows, [window], step=step), wanted)


def on_grid(rows: Sequence[Row], step: int) -> list[Row]:
    """The same rows, moved to multiples of the step."""
    late = -rows[0].time % step
    return [row._replace(time=row.time + late) for row in rows]


def independent(times: Any, values: Any, window: int) -> dict[int, tuple[float, ...]]:
    """Compute percentages, z-scores, percentiles and counts of a long series with numpy."""
    size, slots = WEEK // STEP, window // STEP
    first = int(times[0])
    grid = np.full((int(times[-1]) - first) // STEP + 1, np.nan)
    grid[(times - first) // STEP] = values
    share = np.full(len(grid), np.nan)
    share[slots:] = (grid[slots:] - grid[:-slots]) / grid[:-slots] * 100
    padded = np.concatenate([np.full(size, np.nan), share])
    found: dict[int, tuple[float, ...]] = {}
    for at in np.flatnonzero(~np.isnan(share)):
        others = padded[at : at + size]
        others = others[~np.isnan(others)]
        if len(others) >= 200:
            x = share[at]
            smaller = np.count_nonzero(others < x) + np.count_nonzero(others == x) / 2
            z_score = (x - others.mean()) / others.std(ddof=1)
            found[first + int(at) * STEP] = (x, z_score, 100 * smaller / len(others), len(others))
    return found


def compare_with_numpy(rows: Sequence[Row], windows: Sequence[str]) -> int:
    by_window = {
        window: independent(
            np.array([row.time for row in rows]),
            np.array([float(row.open_interest) for row in rows]),
            length_ms("window", window),
        )
        for window in windows
    }
    known = {row.time: row for row in rows}
    compared = 0
    for change in changes_of(rows, windows):
        before = known[change.time - length_ms("window", change.window)]
        row = known[change.time]
        assert change.absolute == row.open_interest - before.open_interest
        assert change.usd == row.notional - before.notional  # type: ignore[operator]
        want = by_window[change.window].pop(change.time, None)
        if want is None:
            assert change.z_score is None
            assert change.percentile is None
            continue
        percent, z_score, percentile, count = want
        assert change.percent is not None
        assert change.percentile is not None
        assert abs(change.percent - percent) < 1e-9
        assert change.compared == count
        # Two equal changes may differ in the last bit of numpy's floats, and then rank differently.
        assert abs(change.percentile - percentile) <= 50 / count * 40
        assert near(change.z_score, z_score)
        compared += 1
    assert not any(by_window.values())
    return compared


def real_rows() -> list[Row]:
    """Read 14 months of BTCUSDT; leave out rows without open interest."""
    with gzip.open(REAL, "rt") as file:
        lines = list(csv.reader(file))[1:]
    return [Row("BTCUSDT", int(t), Decimal(v), Decimal(n)) for t, v, n, _ in lines if v]


@pytest.mark.skipif(not REAL.exists(), reason="this checkout lacks the 14 months of rows")
@pytest.mark.parametrize("window", ["1h", *thorough("5m", "15m", "4h", "24h", "72h")])
def test_changes_of_14_months_equal_those_of_numpy(window: str) -> None:
    assert compare_with_numpy(real_rows(), [window]) > 114_000


def test_changes_of_a_generated_month_equal_those_of_numpy() -> None:
    rows = [row for row in walk(7, 8640, holes=0.01) if row.notional is not None]
    assert compare_with_numpy(rows, ["5m", "4h"]) > 10_000


@pytest.mark.skipif(not REAL.exists(), reason="this checkout lacks the 14 months of rows")
def test_changes_of_recorded_days_equal_those_of_the_definition() -> None:
    rows = real_rows()[:400]
    check(changes_of(rows, ["15m"]), expected(rows, 3 * STEP))


def sampled(seed: int, count: int) -> list[tuple[int, Decimal]]:
    """Samples as a poll may read them: late, repeated, at multiples of 5 minutes, and with gaps."""
    draw = Random(seed)
    time, value, found = BEGIN, 90_000_000, list[tuple[int, Decimal]]()
    while len(found) < count:
        time += draw.choice([20_000, 60_000, 290_000, 300_000, 310_000, 7_000])
        if draw.random() < 0.02:
            time += draw.randrange(40) * STEP
        if draw.random() < 0.1:
            time = -(-time // STEP) * STEP  # a multiple of 5 minutes
        value += round(draw.gauss(0, 20_000))
        at = time - draw.choice([0, 0, 0, 15_000, 59_000])
        found.append((at, Decimal(value).scaleb(-3)))
        if draw.random() < 0.1:
            found.append(draw.choice(found[-5:]))
    return found


def series(samples: Iterable[tuple[int, Decimal]], past: Sequence[Row] = ()) -> list[Row]:
    """For each multiple of 5 minutes, the last sample of at most that age, else the history row."""
    first: dict[int, Decimal] = {}
    for time, value in samples:
        first.setdefault(time, value)
    ordered = sorted(first.items())
    found = {row.time: row for row in past}
    for (time, value), (after, _) in pairwise([*ordered, (1 << 62, Decimal(0))]):
        for instant in (-(-time // STEP) * STEP, -(-time // STEP) * STEP + STEP):
            if time <= instant < after and instant - time <= STEP:
                found[instant] = Row("BTCUSDT", instant, value)
    return [found[time] for time in sorted(found)]


WINDOWS = ("5m", "1h")


def settled(tracker: ChangeTracker) -> list[Change]:
    found = (tracker.settled("BTCUSDT", window) for window in WINDOWS)
    return [change for change in found if change is not None]


def restarted(samples: Sequence[tuple[int, Decimal]], past: Sequence[Row]) -> ChangeTracker:
    """A tracker with the rows that no late sample can change, and then the last 100 samples."""
    tracker = ChangeTracker(WINDOWS)
    newest = max((time for time, _ in samples), default=BEGIN)
    final = (newest - LATE_MS - 1) // STEP * STEP
    tracker.fill("BTCUSDT", [row for row in series(samples, past) if row.time <= final])
    for time, value in samples[-100:]:
        tracker.observe("BTCUSDT", time, value)
    return tracker


@pytest.mark.parametrize("seed", [1, *thorough(*range(2, 20))])
def test_a_tracker_that_restarts_at_any_instant_gives_the_same_changes_as_a_batch(
    seed: int,
) -> None:
    draw, samples = Random(seed), sampled(seed, 2000)
    week = [row._replace(time=row.time - 1000 * STEP) for row in walk(seed, 1000)]
    past = [row._replace(notional=None, circulating_supply=None) for row in week]
    batch = {(c.time, c.window): c for c in changes_of(series(samples, past), WINDOWS)}
    restarts = {0, *(draw.randrange(len(samples)) for _ in range(20))}
    tracker, seen = ChangeTracker(WINDOWS), set[tuple[int, str]]()
    for number, (time, value) in enumerate(samples):
        if number in restarts:
            tracker = restarted(samples[:number], past)
        tracker.observe("BTCUSDT", time, value)
        for change in settled(tracker):
            assert change == batch[change.time, change.window]
            seen.add((change.time, change.window))
    newest = max(time for time, _ in samples)
    last = [key for key in batch if BEGIN < key[0] < newest - LATE_MS - STEP]
    assert len(seen & set(last)) > 0.8 * len(last) > 1000
    assert any(batch[key].z_score is not None for key in seen)


def test_the_latest_change_ends_with_the_latest_sample() -> None:
    tracker = ChangeTracker(["5m", "10m"])
    tracker.fill("BTCUSDT", [Row("BTCUSDT", BEGIN + n * STEP, Decimal(100 + n)) for n in range(4)])
    assert tracker.latest("BTCUSDT", "5m") == tracker.settled("BTCUSDT", "5m")
    tracker.observe("BTCUSDT", BEGIN + 3 * STEP + 200_000, Decimal("110.5"), notional=Decimal(7))
    change = tracker.latest("BTCUSDT", timedelta(minutes=10))
    assert change is not None
    assert (change.time, change.absolute) == (BEGIN + 3 * STEP + 200_000, Decimal("9.5"))
    assert change.percent == pytest.approx(100 * 9.5 / 101, rel=1e-12)
    assert change.usd is None
    before = tracker.settled("BTCUSDT", "10m")
    assert before is not None
    assert before.absolute == 2


def test_filling_a_tracker_fills_holes_and_keeps_its_samples() -> None:
    samples = [(BEGIN + 10_000 + n * STEP, Decimal(200 + n)) for n in (0, 1, 2, 6, 7, 8)]
    past = [Row("BTCUSDT", BEGIN + n * STEP, Decimal(100 + n)) for n in range(-20, 9)]
    tracker = ChangeTracker(["5m", "1h"])
    for time, value in samples:
        tracker.observe("BTCUSDT", time, value)
    tracker.fill("BTCUSDT", reversed(past))
    tracker.fill("BTCUSDT", past)  # a second time changes nothing
    wanted = [row for row in series(samples, past) if row.time <= BEGIN + 7 * STEP]
    assert wanted[-1].open_interest == 206
    batch = list(changes_of(wanted, ["5m", "1h"]))
    assert [tracker.settled("BTCUSDT", w) for w in tracker.windows] == batch[-2:]


def test_a_symbol_without_rows_has_no_change_and_can_be_forgotten() -> None:
    tracker = ChangeTracker(["5m"])
    assert tracker.latest("BTCUSDT", "5m") is None
    tracker.observe("BTCUSDT", BEGIN + 1, Decimal(1))
    assert tracker.latest("BTCUSDT", "5m") is None
    assert "BTCUSDT" in tracker.symbols
    tracker.forget("BTCUSDT")
    assert "BTCUSDT" not in tracker.symbols
    tracker.fill("BTCUSDT", [])
    assert tracker.settled("BTCUSDT", "5m") is None


def test_a_tracker_knows_the_open_interest_at_the_instants_that_it_keeps() -> None:
    tracker = ChangeTracker(["1h"])
    rows = [row for row in walk(5, 30, holes=0.0) if row.time != BEGIN + 28 * STEP]
    tracker.fill("BTCUSDT", rows)
    assert tracker.open_interest_at("BTCUSDT", BEGIN + 29 * STEP) == rows[-1].open_interest
    assert tracker.open_interest_at("BTCUSDT", BEGIN + 17 * STEP) == rows[17].open_interest
    # One is in a hole, one too old, one in the future, and one between two instants.
    absent = (28 * STEP, 16 * STEP, 30 * STEP, 27 * STEP + 1)
    assert [tracker.open_interest_at("BTCUSDT", BEGIN + each) for each in absent] == [None] * 4
    assert tracker.open_interest_at("ETHUSDT", BEGIN + 29 * STEP) is None


def test_a_window_with_a_hole_at_either_end_has_no_change() -> None:
    rows = [Row("BTCUSDT", BEGIN + n * STEP, Decimal(100 + n)) for n in range(10) if n != 4]
    found = [(c.time - BEGIN) // STEP for c in changes_of(rows, ["5m"])]
    assert found == [1, 2, 3, 6, 7, 8, 9]


def test_a_change_from_zero_has_no_percentage() -> None:
    rows = [Row("X", BEGIN, Decimal(0)), Row("X", BEGIN + STEP, Decimal("1.50"))]
    (change,) = changes_of(rows, ["5m"])
    assert (str(change.absolute), change.percent, change.z_score) == ("1.50", None, None)


def test_differences_are_exact_for_the_longest_numbers() -> None:
    least, most = Decimal("0." + "0" * 29 + "1"), Decimal("9" * 30)
    rows = [Row("X", BEGIN, least, least * 7), Row("X", BEGIN + STEP, most, most)]
    (change,) = changes_of(rows, ["5m"])
    assert Fraction(change.absolute) == Fraction(most) - Fraction(least)
    assert change.usd is not None
    assert Fraction(change.usd) == Fraction(most) - 7 * Fraction(least)


def test_the_supply_is_taken_from_the_end_of_the_window_or_else_from_its_beginning() -> None:
    rows = [
        Row("X", BEGIN, Decimal(1), None, Decimal(100)),
        Row("X", BEGIN + STEP, Decimal(2)),
        Row("X", BEGIN + 2 * STEP, Decimal(4), None, Decimal(400)),
        Row("X", BEGIN + 3 * STEP, Decimal(5), None, Decimal(0)),
    ]
    assert [c.per_supply for c in changes_of(rows, ["5m"])] == [0.01, 0.005, 0.0025]


def test_changes_that_are_all_equal_have_a_percentile_and_no_z_score() -> None:
    rows = [Row("X", BEGIN + n * STEP, Decimal(5)) for n in range(LEAST + 2)]
    *before, last = changes_of(rows, ["5m"])
    assert {change.percentile for change in before} == {None}
    assert (last.percentile, last.z_score, last.compared) == (50.0, None, LEAST)


def test_each_symbol_is_computed_separately() -> None:
    one, two = walk(1, 300), [row._replace(symbol="ETHUSDT") for row in walk(2, 300)]
    both = list(changes_of([*one, *two]))
    assert both == [*changes_of(one), *changes_of(two)]


def test_rows_out_of_order_are_an_error_and_rows_off_the_grid_are_ignored() -> None:
    rows = [Row("X", BEGIN + n * STEP, Decimal(n + 1)) for n in (0, 1, 1)]
    with pytest.raises(ValueError, match="rows of X must be in the order of time"):
        list(changes_of(rows))
    odd = [*rows[:1], rows[0]._replace(time=BEGIN + 1), rows[1]]
    assert [c.absolute for c in changes_of(odd, ["5m"])] == [1]


@pytest.mark.parametrize(
    "windows, step, error",
    [
        (["7m"], "5m", ValueError),
        (["5m"], "15m", ValueError),
        (["1h"], "7m", ValueError),
        (["0h"], "5m", ValueError),
        (["1x"], "5m", ValueError),
        (["367d"], "5m", ValueError),
        ([timedelta(microseconds=1)], "5m", ValueError),
        ([timedelta(hours=-1)], "5m", ValueError),
        ([], "5m", ValueError),
        ([True], "5m", TypeError),
        ([1.5], "5m", TypeError),
        ([None], "5m", TypeError),
        ("1h", "5m", TypeError),
        (["1h"], None, TypeError),
    ],
)
def test_an_impossible_length_is_refused_at_once(
    windows: Any, step: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        ChangeTracker(windows, step=step)
    with pytest.raises(error):
        changes_of([], windows, step=step)


def test_an_unknown_window_is_an_error_that_names_the_windows_of_the_tracker() -> None:
    tracker = ChangeTracker(["5m", timedelta(days=1), 3_600_000, "1h"])
    assert tracker.windows == ("5m", "24h", "1h")
    for window in ("15m", "7m", 1):
        with pytest.raises(ValueError, match="window must be one of 5m, 24h, 1h"):
            tracker.settled("BTCUSDT", window)


@pytest.mark.parametrize("ms, text", [(86_400_000, "24h"), (5_400_000, "90m"), (1500, "1500ms")])
def test_a_length_is_written_in_its_largest_whole_unit(ms: int, text: str) -> None:
    assert label(ms) == text


def test_the_memory_of_a_tracker_does_not_grow_with_time() -> None:
    tracker = ChangeTracker(["5m", "1h"])
    for number in range(6000):
        tracker.observe("X", BEGIN + number * 60_000, Decimal(number + 1))
    track = tracker._tracks["X"]
    assert len(track._samples) <= 3
    assert len(track._rows) == 13
    assert len(track._spreads[1]._ring) == WEEK // STEP + 1


def test_a_gap_of_years_costs_no_more_than_one_of_a_week(monkeypatch: pytest.MonkeyPatch) -> None:
    puts, put = list[int](), Spread.put

    def counted(spread: Spread, slot: int, number: float | None) -> None:
        puts.append(slot)
        put(spread, slot, number)

    monkeypatch.setattr(Spread, "put", counted)
    rows = [Row("X", BEGIN, Decimal(1)), Row("X", BEGIN + 10**6 * STEP, Decimal(2))]
    assert list(changes_of(rows, ["5m"])) == []
    assert len(puts) < 2100


def test_a_score_depends_only_on_the_numbers_still_in_the_window() -> None:
    draw, size = Random(5), 300
    numbers = [draw.gauss(0, 10 ** draw.randrange(-9, 9)) for _ in range(5000)]
    old, new = Spread(size), Spread(size)
    for slot, number in enumerate(numbers):
        old.put(slot, number)
    for slot in range(5000 - size, 5000):
        new.put(slot, numbers[slot])
    assert old.score(0.5) == new.score(0.5)
    left_out = numbers[-3:]
    for slot in range(4997, 5000):
        new.put(slot, None)
    assert old.score(0.5, left_out) == new.score(0.5)
    assert len(old) == size


def test_the_first_samples_may_be_out_of_order() -> None:
    begin, step = 3_000_000 * 300_000, 300_000
    samples = [(-5_000, 20), (1_000, 10), (step, 30), (step + 61_000, 1)]
    found = []
    for order in (samples, [samples[1], samples[0], *samples[2:]]):
        tracker = ChangeTracker()
        for at, value in order:
            tracker.observe("A", begin + at, Decimal(value))
        found.append(tracker.settled("A", "5m"))
    assert found[0] == found[1]
    assert found[0] is not None
    assert found[0].percent == 50.0
