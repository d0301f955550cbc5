"""A plan fits into its budget; a slower plan than requested accounts for each requested slot.

Rule of this file: tests compute with plain numbers, and use no client and no clock.
"""

import pickle
from datetime import UTC, datetime

import pytest

from binance_oi import Gap, Snapshot, Usage
from binance_oi.market.plan import AUTOMATIC, Load, MisfitError, Room
from binance_oi.market.requested import RequestedSlots
from binance_oi.times import instant

NOW = datetime(2026, 11, 26, tzinfo=UTC)
USAGE = Usage(
    limit=2400,
    used=0,
    remaining=2376,
    charged=0,
    others=0,
    in_flight=0,
    reserve=24,
    share=2400,
    resets_at=NOW,
    held_until=None,
    banned_until=None,
)


@pytest.mark.parametrize(
    "symbols, notional, every",
    [
        (1, False, 5.0),
        (179, False, 5.0),  # 180 do not fit: 198 * 12 = 2376 leaves no room for the list
        (180, False, 10.0),
        (359, False, 10.0),
        (539, False, 15.0),
        (789, False, 30.0),
        (840, False, 30.0),
        (840, True, 30.0),
        (1079, False, 30.0),
        (1080, False, 60.0),
        (2159, False, 60.0),
        (4319, False, 120.0),
        (10_000, False, 300.0),
        (20_000, False, 600.0),
        (22_000, False, None),
    ],
)
def test_the_shortest_schedule_has_room_for_a_tenth_more_symbols(
    symbols: int, notional: bool, every: float | None
) -> None:
    assert Room(USAGE, 0.0).shortest(Load(symbols, notional).grown) == every


@pytest.mark.parametrize("symbols", [1, 39, 791, 840, 5000])
@pytest.mark.parametrize("others", [0.0, 600.0, 2300.0])
@pytest.mark.parametrize("notional", [False, True])
def test_the_schedule_that_a_refusal_suggests_is_the_shortest_that_fits(
    symbols: int, others: float, notional: bool
) -> None:
    room, load = Room(USAGE, others), Load(symbols, notional)
    possible = room.misfit(load, 0.5).possible
    assert possible is not None
    assert room.fits(load, possible)
    # Above 300 s the list of symbols is read less often than a refusal assumes.
    assert possible == 1 or possible > 300 or not room.fits(load, possible - 1)


def test_a_refusal_states_how_much_other_polls_use() -> None:
    error = Room(USAGE, 600.4).misfit(Load(789, False), 20.0)
    assert str(error) == (
        "789 symbols every 20 s take 2367 weight a minute, and the budget is 2376"
        " (limit 2400, reserve 24, share 2400, other polls take 600); every 27 s is possible"
    )
    assert Room(USAGE, 2376.0).misfit(Load(1, False), 20.0).possible is None


def test_a_refusal_is_a_value_error_that_can_be_pickled() -> None:
    error = MisfitError("no room", 7)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.possible) == (MisfitError, "no room", 7)
    assert isinstance(error, ValueError)


def test_the_next_automatic_schedule_is_longer_than_the_given_one() -> None:
    room, load = Room(USAGE, 0.0), Load(840, False)
    assert [room.shortest(load, above=every) for every in (7.0, 30.0, 600.0)] == [30.0, 60.0, None]
    assert sorted(AUTOMATIC) == list(AUTOMATIC)


# -- requested slots ---------------------------------------------------------------------------


def swept(second: int) -> Snapshot:
    return Snapshot(
        values_by_symbol={},
        errors={},
        started=NOW,
        finished=NOW,
        weight=0,
        slot=instant(second * 1000),
    )


def missed(first: int, last: int, reason: str = "outage") -> Gap:
    return Gap(first * 1000, last * 1000, reason)


def shown(asked: RequestedSlots, step: int, *outcomes: Snapshot | Gap) -> list[str]:
    """The second of each sweep, and the first and last second of each gap with its reason."""
    found = [o for each in outcomes for o in asked.account(each, step * 1000, ("budget", "why"))]
    return [
        f"{o.first // 1000}-{o.last // 1000} {o.reason}"
        if isinstance(o, Gap)
        else f"{round(o.slot.timestamp()) if o.slot else 0}"
        for o in found
    ]


@pytest.mark.parametrize(
    "step, outcomes, expected",
    [
        (20, [swept(60), missed(80, 120), swept(140)], "60 80-120 outage 140"),
        (30, [swept(60), swept(90), swept(120)], "60 80-80 budget 90 100-100 budget 120"),
        (60, [swept(60), swept(120), swept(180)], "60 80-100 budget 120 140-160 budget 180"),
        (30, [swept(60), missed(90, 150), swept(180)], "60 80-80 budget 100-160 outage 180"),
        (60, [missed(60, 60), swept(120)], "60-100 outage 120"),
        (60, [swept(120)], "60-100 budget 120"),
        (30, [swept(60), missed(300, 270, "clock"), swept(300)], "60 300-270 clock 300"),
        (
            30,
            [swept(600), missed(90, 60, "clock"), swept(90), swept(120)],
            "60-580 budget 600 90-60 clock 90 100-100 budget 120",
        ),
        (15, [swept(60), swept(75), swept(90)], "60 75 80-80 budget 90"),
    ],
)
def test_each_requested_slot_has_a_snapshot_or_is_in_a_gap(
    step: int, outcomes: list[Snapshot | Gap], expected: str
) -> None:
    assert " ".join(shown(RequestedSlots(20_000, 60_000), step, *outcomes)) == expected
