"""Checks that mutated answers raise only our exceptions, over the wire and in the decoder.

Rule of this file: the seed and the numbers of answers determine what a run sends, so that a failure
can be repeated.

    python -m tests.fuzz --wire 100000 --bodies 1000000 --seed 0
"""

import argparse
import asyncio
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from binance_oi import BinanceOIError, OpenInterestClient, ProcessBudget, RetryPolicy
from binance_oi.exchange.decoding import decode_exchange_info, decode_open_interest
from binance_oi.exchange.refusals import RefusedError
from faults.exchange import BAD, Act, FaultExchange, Step
from faults.rules import Clock, Fault
from faults.table import GOOD, faults

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
BODY = GOOD.partition(b"\r\n\r\n")[2]
LISTING = json.dumps({"symbols": [{"symbol": BAD, "status": "TRADING"}], "rateLimits": []}).encode()
WORDS = (
    b"null", b"NaN", b"1e400", b'"', b"\\u0000", b"\\ud800", b"\xff", b"{", b"}", b"[", b"-1",
    b"9" * 40,
    b"\r\n", b"\r\n\r\n", b"0", b":", b",", "١".encode(), b"\x00", b"FOOUSDT", b"418", b"chunked",
)  # fmt: skip
MAX_GROWTH = 8 * 2**20  # bytes that a run may add to the peak memory


def mutations(seed: int, good: list[bytes]) -> Iterator[bytes]:
    """Yield, without end, one of the `good` answers with one to six random changes."""
    chance = random.Random(seed)
    while True:
        data = bytearray(chance.choice(good))
        for _ in range(chance.randint(1, 6)):
            _mutate(data, chance)
        yield bytes(data)


def _mutate(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data) + 1)
    end = min(len(data), start + chance.randint(0, 8))
    match chance.randrange(5):
        case 0:
            data[start:end] = b""
        case 1:
            data[start:end] = chance.choice(WORDS)
        case 2:
            data[start:start] = data[start:end] * chance.randint(1, 4)
        case 3:
            data[start:end] = bytes(chance.randrange(256) for _ in range(end - start))
        case _:
            other = chance.randrange(len(data) + 1)
            data[other:other] = data[start:end]


def through_the_decoder(number: int, seed: int) -> Counter[str]:
    """Count the outcomes of `number` bodies. An exception that is not ours ends the run."""
    outcomes: Counter[str] = Counter()
    for body, _ in zip(mutations(seed, [BODY, LISTING]), range(number), strict=False):
        try:
            value = decode_open_interest(body, BAD)
            assert value.symbol == BAD, body
            assert value.open_interest.is_finite(), body
            outcomes["value"] += 1
        except (BinanceOIError, RefusedError) as error:
            outcomes[type(error).__name__] += 1
            _check_text(_shown(error))
        try:
            decode_exchange_info(body)
        except (BinanceOIError, RefusedError) as error:
            outcomes[f"listing: {type(error).__name__}"] += 1
    return outcomes


def _shown(error: BinanceOIError | RefusedError) -> BinanceOIError:
    """The exception that a caller of the client gets."""
    if not isinstance(error, RefusedError):
        return error
    return error.refusal.error(NOON if error.refusal.is_temporary else None)


async def over_the_wire(number: int, seed: int) -> Counter[str]:
    """Count the outcomes of `number` mutated HTTP answers, each on its own connection."""
    rows = [row.steps[0] for row in faults() if _is_small(row)]
    source = mutations(seed, [row for row in rows if isinstance(row, bytes)])
    outcomes: Counter[str] = Counter()
    clock = Clock()

    def script(_attempt: int) -> tuple[Step, ...]:
        return next(source), Act.CLOSE

    async with FaultExchange(script, now=clock.wall) as exchange:
        exchange.broken = True
        await exchange.listen()
        url = f"http://127.0.0.1:{exchange.port}"
        for done in range(0, number, 500):
            outcomes += await _batch(url, clock, min(number - done, 500))
            exchange.wire.clear()
    return outcomes


def _is_small(row: Fault) -> bool:
    return bool(row.steps) and isinstance(row.steps[0], bytes) and 0 < len(row.steps[0]) < 2000


async def _batch(url: str, clock: Clock, number: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    retry = RetryPolicy(attempts=1)
    for _ in range(number):
        # Each answer has its own client, so that no refusal delays the next answer.
        budget = ProcessBudget(clock=clock.steady, wall=clock.wall)
        async with OpenInterestClient(
            base_url=url, budget=budget, timeout=2.0, max_wait=1.0, retry=retry
        ) as client:
            try:
                value = await client.get_open_interest(BAD)
                assert value.symbol == BAD
                outcomes["value"] += 1
            except BinanceOIError as error:
                _check_text(error)
                outcomes[type(error).__name__] += 1
    return outcomes


def _check_text(error: BinanceOIError) -> None:
    assert str(error).isprintable(), repr(error)
    assert len(str(error)) < 400, repr(error)


def memory() -> int:
    """Peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wire", type=int, default=100_000)
    parser.add_argument("--bodies", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    through_the_decoder(1000, options.seed)
    asyncio.run(over_the_wire(500, options.seed))
    before, began = memory(), time.monotonic()
    outcomes = through_the_decoder(options.bodies, options.seed)
    outcomes += asyncio.run(over_the_wire(options.wire, options.seed))
    growth = memory() - before
    for name, count in outcomes.most_common():
        print(f"{count:10,}  {name}")
    print(f"{time.monotonic() - began:.0f} s, {growth / 2**20:.1f} MiB more memory")
    return 1 if growth > MAX_GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
