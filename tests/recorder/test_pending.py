"""Sweeps and gaps wait in order. We give up the oldest sweep first, and never give up a gap.

Rule of this file: there is no file and no clock; a test passes the time as a number.
"""

from dataclasses import replace
from random import Random

import pytest

from binance_oi import Gap, Snapshot
from binance_oi.recorder import pending
from binance_oi.recorder.pending import KEPT_FOR_S, Pending, Unit, size
from binance_oi.times import unix_ms
from support.recorded import BEGIN, sweep

PERIOD = 60_000
BASE = unix_ms(BEGIN)


def slot(number: int) -> int:
    return BASE + number * PERIOD


def gap(number: int, reason: str) -> Gap:
    return Gap(slot(number), slot(number), reason)


def drained(kept: Pending) -> list[str]:
    """All pending sweeps and gaps in order, such as "3" for a sweep and "4-5 banned" for a gap."""
    found: list[str] = []
    while (unit := kept.take()) is not None:
        for each in unit.gaps:
            ends = sorted({(each.first - BASE) // PERIOD, (each.last - BASE) // PERIOD})
            found.append(f"{'-'.join(map(str, ends))} {each.reason}")
        if unit.sweep is not None and unit.sweep.slot is not None:
            found.append(str((unix_ms(unit.sweep.slot) - BASE) // PERIOD))
    return found


def filled(*outcomes: Snapshot | Gap) -> Pending:
    """Pending sweeps and gaps, added one second apart."""
    kept = Pending(PERIOD)
    for now, outcome in enumerate(outcomes):
        kept.add(outcome, float(now))
    return kept


def test_sweeps_and_gaps_keep_their_order() -> None:
    kept = filled(sweep(0), gap(1, "banned"), gap(2, "banned"), gap(3, "late"), sweep(4))
    assert len(kept) == 2
    assert drained(kept) == ["0", "1-2 banned", "3 late", "4"]
    assert (len(kept), kept.take()) == (0, None)


def test_gaps_without_a_sweep_are_taken_once() -> None:
    kept = filled(gap(0, "banned"))
    assert kept.take() == Unit([gap(0, "banned")])
    assert kept.take() is None


@pytest.mark.parametrize("first", [sweep(0), gap(0, "banned")], ids=["sweep", "gap"])
def test_a_unit_that_was_put_back_is_taken_first_again(first: Snapshot | Gap) -> None:
    kept = filled(first)
    unit = kept.take()
    assert unit is not None
    kept.add(gap(1, "banned"), 1.0)
    kept.add(sweep(2), 2.0)
    kept.put_back(unit)
    alone = ["0", "1 banned", "2"]
    assert drained(kept) == (alone if isinstance(first, Snapshot) else ["0-1 banned", "2"])


def test_a_sweep_is_given_up_after_ten_minutes_and_becomes_a_gap() -> None:
    kept = filled(sweep(0), gap(1, "banned"), sweep(2), sweep(3), gap(4, "late"), sweep(5))
    assert kept.give_up(KEPT_FOR_S, "full") == 0
    assert kept.give_up(KEPT_FOR_S + 2.5, "full") == 2
    assert len(kept) == 2
    assert drained(kept) == ["0 storage", "1 banned", "2 storage", "3", "4 late", "5"]


def test_adjacent_sweeps_given_up_become_one_gap_with_the_reason() -> None:
    kept = filled(sweep(0), sweep(1), sweep(2))
    assert kept.give_up(KEPT_FOR_S + 1.5, "full") == 2
    assert kept.give_up_all("removed") == 1
    unit = kept.take()
    assert unit is not None
    assert unit.gaps == [Gap(slot(0), slot(2), "storage", "full")]


def test_the_oldest_sweep_is_given_up_when_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "KEPT_BYTES", 2 * size(sweep(0)))
    kept = filled(sweep(0), sweep(2))
    assert kept.give_up(0.0, "full") == 0
    kept.add(sweep(3), 0.0)
    assert kept.give_up(0.0, "full") == 1
    unit = kept.take()
    kept.add(sweep(4), 0.0)
    assert kept.give_up(0.0, "full") == 0  # a taken sweep is no longer pending
    assert unit is not None
    kept.put_back(unit)
    assert kept.give_up(0.0, "full") == 1
    assert drained(kept) == ["0 storage", "2 storage", "3", "4"]


def test_the_size_of_a_sweep_counts_values_mark_prices_and_errors() -> None:
    whole = sweep(1)
    parts = [
        replace(whole, values_by_symbol={}),
        replace(whole, mark_prices={}),
        replace(whole, errors={}),
    ]
    assert all(0 < size(part) < size(whole) for part in parts)
    many = replace(
        whole, values_by_symbol=dict.fromkeys(map(str, range(789)), whole["1000SHIBUSDT"])
    )
    assert 160 < pending.KEPT_BYTES / size(many) < 170


@pytest.mark.parametrize("seed", range(20))
def test_every_slot_is_written_once_and_in_order_whatever_fails(seed: int) -> None:
    chance, kept, out = Random(seed), Pending(PERIOD), list[int]()
    total = 60
    for number in range(total):
        given = sweep(number) if chance.random() < 0.7 else gap(number, chance.choice("ab"))
        kept.add(given, number * 60.0)
        kept.give_up(number * 60.0, "full")
        while chance.random() < 0.6 and (unit := kept.take()) is not None:
            if chance.random() < 0.6:
                kept.put_back(unit)
                break
            out += slots(unit)
    kept.give_up_all("the end")
    while (unit := kept.take()) is not None:
        assert unit.sweep is None
        out += slots(unit)
    assert out == [slot(number) for number in range(total)]


def slots(unit: Unit) -> list[int]:
    found = [at for each in unit.gaps for at in range(each.first, each.last + 1, PERIOD)]
    return found if unit.sweep is None else [*found, unix_ms(unit.sweep.slot or BEGIN)]
