"""A page keeps the requested rows of an answer, and `holes` finds the instants without a row.

Rule of this file: expected values are sets of instants, computed without the code of the package.
"""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binance_oi import Gap, HistoryRow
from binance_oi.exchange.routes import PERIODS
from binance_oi.market.pages import Page, Stretch, holes

STEP = PERIODS["5m"]
NOON = 1_795_435_200_000


def row(time: int, number: int = 1) -> HistoryRow:
    return HistoryRow("BTCUSDT", time, Decimal(number), Decimal(number))


def stretch(first: int, last: int) -> Stretch:
    """The stretch from step `first` to step `last`, counted from noon."""
    return Stretch("5m", NOON + first * STEP, NOON + last * STEP)


def page(*steps: int, first: int = 0, last: int = 20) -> Page:
    """A page with rows at these steps, for the stretch from `first` to `last`."""
    return Page.of([row(NOON + step * STEP) for step in steps], stretch(first, last))


def steps_of(found: Page) -> list[int]:
    return [(time - NOON) // STEP for time in found.times]


@pytest.mark.parametrize(
    "answer, kept, is_whole",
    [
        ([3, 4, 5], [3, 4, 5], True),
        ([3], [3], True),
        ([], [], False),
        ([3, 4, 6], [3, 4, 6], False),
        ([5, 4, 3], [3, 4, 5], True),
        ([3, 4, 4, 5], [3, 4, 5], True),
        ([3, 5, 4], [3, 4, 5], True),
        ([3, 3, 5, 6], [3, 5, 6], False),  # 4 rows, as from 3 to 6, but 4 is missing
        ([-1, 0, 1], [0, 1], True),
        ([19, 20, 21], [19, 20], True),
        ([-1, 21], [], False),
    ],
)
def test_a_page_has_each_requested_row_once_and_in_order(
    answer: list[int], kept: list[int], is_whole: bool
) -> None:
    found = page(*answer)
    assert (steps_of(found), found.is_whole) == (kept, is_whole)
    assert [each.time for each in found.rows] == found.times


def test_of_two_rows_for_one_instant_the_later_row_is_kept() -> None:
    found = Page.of([row(NOON, 1), row(NOON, 2)], stretch(0, 1))
    assert found.rows == [row(NOON, 2)]


def test_impossible_instants_of_a_page_cost_no_memory() -> None:
    far = 253_402_300_799_999
    found = Page.of([row(1), row(far)], Stretch("5m", 0, far))
    assert (found.times, found.is_whole) == ([1, far], False)


@given(st.lists(st.integers(-2, 12), max_size=12), st.sets(st.integers(0, 300_000 - 1), max_size=2))
def test_a_page_keeps_the_last_row_of_each_instant_as_a_dictionary_does(
    steps: list[int], off: set[int]
) -> None:
    asked = stretch(0, 10)
    times = [NOON + step * STEP + shift for step in steps for shift in off or {0}]
    rows = [row(time, number) for number, time in enumerate(times)]
    found = Page.of(rows, asked)
    expected = {each.time: each for each in rows if asked.first <= each.time <= asked.last}
    assert found.times == sorted(expected)
    assert list(found.rows) == [expected[time] for time in found.times]


@given(
    st.lists(st.sets(st.integers(0, 4)), min_size=4, max_size=4),
    st.integers(-3, 20),
    st.integers(0, 22),
    st.integers(0, STEP - 1),
)
def test_each_instant_has_a_row_or_is_in_one_hole(
    parts: list[set[int]], kept: int, complete: int, shift: int
) -> None:
    pages = [
        page(*(5 * number + step for step in part), first=5 * number, last=5 * number + 4)
        for number, part in enumerate(parts)
    ]
    have = {step for each in pages for step in steps_of(each)}
    kept = min([kept, *have])  # the exchange has no rows before `kept`
    asked = Stretch("5m", NOON - shift, NOON + 19 * STEP + shift)
    found = list(holes(pages, asked, NOON + kept * STEP, NOON + complete * STEP))
    # Once a later row exists, a missing row will never appear.
    missing = set(range(max(kept, 0), max(complete, *have, -1) + 1)) - have
    too_old = set(range(kept))
    assert [_steps(each) for each in found if each.reason == "too_old"] == (
        [too_old] if too_old else []
    )
    no_rows = [_steps(each) for each in found if each.reason == "no_row"]
    assert set().union(*no_rows) == missing
    assert sum(map(len, no_rows)) == len(missing)
    assert [each.first for each in found] == sorted(each.first for each in found)


def _steps(hole: Gap) -> set[int]:
    return {(time - NOON) // STEP for time in range(hole.first, hole.last + 1, STEP)}
