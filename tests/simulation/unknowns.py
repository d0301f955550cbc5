"""`python -m tests.simulation.unknowns`: prints how the budget behaves with little knowledge.

The rows are about a start, other clients, refusals, missing headers, and a window or a limit that
differs from our assumption. The exit code is 1 if a row misses its bound. The rule of this file: a
row has a function that draws its situation from a seed, a measure of the run, and a bound.
"""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import NamedTuple

from binance_oi import OpenInterestClient, ProcessBudget
from binance_oi.market.polling import poll
from binance_oi.simulator import Headers, LocalExchange
from binance_oi.simulator.counter import Bursts, Steady
from support import virtual_clock
from support.virtual_clock import wall_time

from .command import chosen
from .networks import Between, Even, Uneven
from .world import EPOCH_S, Outcome, Situation, run

QUICK = Even(0.025)  # a round trip of 50 ms


@dataclass(frozen=True, slots=True)
class Row:
    """A situation, its measure, and a lower or an upper bound."""

    name: str
    draw: Callable[[Random], Situation]
    measure: Callable[[Situation, Outcome], float]
    what: str
    least: float = float("-inf")
    most: float = float("inf")
    percent: bool = False

    def figure(self, value: float) -> str:
        return f"{value:.1%}" if self.percent else f"{value:.2f}".rstrip("0").rstrip(".")

    @property
    def bound(self) -> str:
        if self.most < float("inf"):
            return f"at most {self.figure(self.most)}"
        return f"at least {self.figure(self.least)}"

    def is_met(self, value: float) -> bool:
        return self.least <= value <= self.most


# -- measures --------------------------------------------------------------------------------


def over_from(minute: int, _: Situation, outcome: Outcome) -> float:
    """By how much all clients together exceed the limit, from minute number `minute` on."""
    weights = outcome.weights.items()
    return sum(max(0, weight - outcome.limit) for k, weight in weights if k >= minute)


def refused_of_first_burst(situation: Situation, outcome: Outcome) -> float:
    """The refused share of a burst in minute 0, if all of that minute's refusals hit it."""
    assert isinstance(situation.others, Bursts)
    return max(0, outcome.weights[0] - outcome.limit) / situation.others.size


def used(_: Situation, outcome: Outcome) -> float:
    """The used share of the limit from minute 1 on."""
    return outcome.used(1)


def served(situation: Situation, outcome: Outcome) -> float:
    """Our served weight, as a share of what a rolling window allows: one limit for each minute.

    The weight used before our start and the weight of others lower what it allows.
    """
    others = situation.others
    end = EPOCH_S + 60.0 * situation.minutes
    theirs = others.weight(EPOCH_S, end) if others is not None else 0
    return outcome.served / (situation.limit * situation.minutes - situation.used - theirs)


def bans(_: Situation, outcome: Outcome) -> float:
    """The number of bans."""
    return outcome.bans


def refused_429(_: Situation, outcome: Outcome) -> float:
    """Our requests that were refused with 429."""
    return outcome.statuses[429]


def refused_after_the_first(_: Situation, outcome: Outcome) -> float:
    """The number of refusals more than 5 minutes after the first one."""
    return sum(moment > outcome.refusals[0] + 300.0 for moment in outcome.refusals)


def seconds(_: Situation, outcome: Outcome) -> float:
    """The duration of the first sweep, s."""
    return outcome.sweeps[0]


def most_at_once(_: Situation, outcome: Outcome) -> float:
    """The most requests that arrived at once after a cooldown."""
    return max(outcome.tries, default=0)


# -- situations ------------------------------------------------------------------------------


def leg(random: Random) -> Uneven:
    return Uneven(random.uniform(0.01, 0.1), random.uniform(0.1, 0.8))


def starts_with_us(random: Random) -> Situation:
    start = random.uniform(0.0, 50.0)
    others = Between(Steady(10.0), EPOCH_S + start, float("inf"))
    return Situation(minutes=5, start=start, others=others, leg=leg(random))


def bursts(random: Random, *, early: bool) -> Situation:
    at = random.uniform(2.0, 30.0) if early else random.uniform(1.1, 58.9)
    start = random.uniform(0.0, at - 1.0) if early else random.uniform(0.0, 40.0)
    others = Bursts(random.randint(300, 600), at_second=at)
    return Situation(minutes=6, start=start, others=others, leg=leg(random))


def rare_headers(random: Random, *, missing: float) -> Situation:
    return Situation(leg=leg(random), no_header=missing, wall_error=random.uniform(-2.0, 2.0))


def rolling(random: Random) -> Situation:
    return Situation(leg=leg(random), rolling=True, bans=True)


def rolling_sweeps(random: Random) -> Situation:
    return Situation(leg=QUICK, rolling=True, bans=True, sweep=840, every=30.0, minutes=6)


def rolling_beside(random: Random) -> Situation:
    others = Steady(random.uniform(5.0, 20.0))
    return Situation(leg=leg(random), rolling=True, bans=True, others=others, minutes=15)


def rolling_copies(random: Random) -> Situation:
    return Situation(leg=leg(random), rolling=True, bans=True, budgets=2)


def rolling_cold(random: Random) -> Situation:
    return Situation(leg=leg(random), rolling=True, bans=True, used=2300)


def halved(random: Random) -> Situation:
    minutes, start = 66, random.uniform(0.0, 59.0)
    return Situation(
        minutes=minutes, limit=1200, announced=2400, bans=True, start=start, leg=leg(random)
    )


def cold(random: Random) -> Situation:
    return Situation(
        minutes=2,
        start=random.uniform(57.0, 62.0),
        sweep=850,
        every=600.0,
        leg=QUICK,
        wall_error=random.uniform(-0.5, 0.5),
    )


def small(random: Random, *, limit: int) -> Situation:
    return Situation(minutes=6, limit=limit, budgets=2, leg=leg(random))


def bare(random: Random) -> Situation:
    """Others have used the whole limit, so we are refused; later there is a ban."""
    return Situation(
        minutes=9, used=2400, start=20.0, bare=True, bans=True, banned_at=41.5, leg=QUICK
    )


class Polled(NamedTuple):
    """The results of polling after a ban."""

    whole: float
    """Seconds from the end of the ban to the end of the first sweep without an error."""
    missed: int
    """Slots without a snapshot, from two periods after the ban to five minutes after it."""
    details: list[str]
    """The reasons of the gaps."""


def polled(count: int, every: float, seed: int) -> Polled:
    """Poll `count` symbols every `every` s on a local exchange that bans for two minutes."""
    return virtual_clock.run(_polled(count, every, Random(seed)))


async def _polled(count: int, every: float, random: Random) -> Polled:
    clock, shown = asyncio.get_running_loop().time, Headers(on_refusal=random.random() < 0.5)
    async with LocalExchange(clock=wall_time, latency=0.05, headers=shown) as exchange:
        names = [*exchange.universe.trading, *exchange.universe.symbols]
        names = list(dict.fromkeys(names))[:count]
        for name in names:
            exchange.set_status(name, "TRADING")
        budget = ProcessBudget(clock=clock, wall=wall_time)
        async with OpenInterestClient(base_url=exchange.url, budget=budget) as client:
            return await _poll_through_a_ban(exchange, client, names, every, random)


async def _poll_through_a_ban(
    exchange: LocalExchange,
    client: OpenInterestClient,
    names: list[str],
    every: float,
    random: Random,
) -> Polled:
    whole, missed, details, end = float("inf"), 0, list[str](), float("inf")
    count = 0
    async for snapshot in poll(client, names, every=every, clock=wall_time):
        count += 1
        if count == 4:
            await asyncio.sleep(random.uniform(0.0, every))
            exchange.counter.ban(wall_time())
        if count < 5:
            continue
        if end == float("inf"):
            end = exchange.counter.banned_until
        finished = wall_time()
        if not snapshot.errors and whole == float("inf"):
            whole = finished - end
        for gap in snapshot.missed:
            details.append(str(gap))
            first = max(gap.first / 1000, end + 2 * every)
            missed += max(0, round((gap.last / 1000 - first) // every) + 1)
        if finished > end + 300.0:
            return Polled(whole, missed, details)
    raise AssertionError("polling ended before the test did")


def headers(name: str, missing: float, least: float) -> Row:
    draw = partial(rare_headers, missing=missing)
    return Row(name, draw, used, "used", least=least, percent=True)


def none_over(name: str, draw: Callable[[Random], Situation], minute: int) -> Row:
    what = f"over the limit from minute {minute + 1} on"
    return Row(name, draw, partial(over_from, minute), what, most=0)


EARLY, ANY = partial(bursts, early=True), partial(bursts, early=False)
ROWS = (
    none_over("another client of 10/s that starts with us", starts_with_us, 1),
    Row(
        "bursts of 300 to 600 a minute",
        EARLY,
        refused_of_first_burst,
        "of the first one refused",
        most=0.1,
        percent=True,
    ),
    none_over("bursts of 300 to 600 a minute, later ones", EARLY, 1),
    none_over("bursts of 300 to 600 a minute, any second", ANY, 1),
    headers("50 % without header", 0.5, 0.98),
    headers("95 % without header", 0.95, 0.90),
    headers("no header", 1.0, 0.90),
    Row(
        "refusals without header or text",
        bare,
        most_at_once,
        "requests after a cooldown, most",
        most=1,
    ),
    Row("a rolling window", rolling, bans, "bans", most=0),
    Row("a rolling window", rolling, served, "of what is possible", least=0.75, percent=True),
    Row("a rolling window, 2,300 already used", rolling_cold, bans, "bans", most=0),
    Row("a rolling window, 840 every 30 s", rolling_sweeps, refused_429, "429", most=0),
    Row("a rolling window, two budgets", rolling_copies, bans, "bans", most=0),
    Row("a rolling window, steady others", rolling_beside, bans, "bans", most=0),
    Row("half of the announced limit", halved, bans, "bans", most=1),
    Row(
        "half of the announced limit",
        halved,
        refused_after_the_first,
        "429 after the first five minutes",
        most=0,
    ),
    Row("cold start at :57 to :02, 850 calls at 50 ms", cold, seconds, "s", most=0.6),
    Row("two budgets at a limit of 50", partial(small, limit=50), refused_429, "429", most=2),
    Row("two budgets at a limit of 100", partial(small, limit=100), refused_429, "429", most=2),
)


def outcome(row: Row, seed: int) -> float:
    """Return the measure of one run."""
    situation = row.draw(Random(seed))
    return row.measure(situation, run(situation, seed))


def main() -> None:
    rows, seeds, jobs = chosen("tests.simulation.unknowns", ROWS, seeds=6)
    print("| situation | runs | measured | best | worst | bound | missed |")
    print("|---|---|---|---|---|---|---|", flush=True)
    missed = 0
    with ProcessPoolExecutor(jobs) as pool:
        for row in rows:
            values = sorted(pool.map(partial(outcome, row), seeds))
            if row.least > float("-inf"):
                values.reverse()
            misses = sum(not row.is_met(value) for value in values)
            shown = f"{row.figure(values[0])} | {row.figure(values[-1])} | {row.bound} | {misses}"
            print(f"| {row.name} | {len(values)} | {row.what} | {shown} |", flush=True)
            missed += misses
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
