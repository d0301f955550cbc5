"""Check which of our facts about the exchange hold, and write its answers to a file if asked.

    BINANCE_OI_LIVE=1 nox -s live -- answers.json

Rule of this file: every request goes through a client, so the budget of the machine governs it. A
run costs 15 weight, and 2 requests for history. It sends nothing during a cooldown.
"""

import argparse
import asyncio
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from binance_oi import (
    PRODUCTION,
    BinanceOIError,
    MachineBudget,
    OpenInterestClient,
    ResponseError,
    RetryPolicy,
)
from binance_oi.budget import Budget

MOST_WEIGHT = 20
LONGEST_BODY = 2_000  # characters of each body that are kept
USED = "x-mbx-used-weight-1m"
WALL_DAYS = 35  # days ago: earlier than the oldest row that the exchange keeps


class Answer(msgspec.Struct):
    """An answer, with the beginning of its body. `sent_at` is in Unix seconds."""

    path: str
    status: int
    headers: dict[str, str]
    sent_at: float
    seconds: float
    body: str = ""

    @property
    def used(self) -> int | None:
        value = self.headers.get(USED, "")
        return int(value) if value.isascii() and value.isdigit() else None


class Fact(msgspec.Struct):
    """A fact, whether it held (None: this run cannot decide that), and what was seen."""

    name: str
    held: bool | None
    seen: str


class Kept:
    """The body of a response; its beginning is copied into `answer` while the client reads it."""

    def __init__(self, content: aiohttp.StreamReader, answer: Answer) -> None:
        self._content, self._answer = content, answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    def read_nowait(self) -> bytes:
        return self._keep(self._content.read_nowait())

    async def readany(self) -> bytes:
        return self._keep(await self._content.readany())

    def _keep(self, piece: bytes) -> bytes:
        rest = LONGEST_BODY - len(self._answer.body)
        self._answer.body += piece.decode("utf-8", "replace")[:rest]
        return piece


class Witness:
    """Keeps every answer of a session."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def trace(self) -> aiohttp.TraceConfig:
        config = aiohttp.TraceConfig()
        config.on_request_start.append(self._on_start)
        config.on_request_end.append(self._on_end)
        return config

    async def _on_start(self, _: Any, context: SimpleNamespace, __: Any) -> None:
        context.sent_at, context.began = time.time(), time.perf_counter()

    async def _on_end(
        self, _: Any, context: SimpleNamespace, end: aiohttp.TraceRequestEndParams
    ) -> None:
        headers = {name.lower(): value for name, value in end.response.headers.items()}
        seconds = time.perf_counter() - context.began
        path = URL(str(end.url)).path
        answer = Answer(path, end.response.status, headers, context.sent_at, seconds)
        end.response.content = Kept(end.response.content, answer)  # type: ignore[assignment]
        self.answers.append(answer)


class Questions:
    """The checks: they send requests, and note facts about the answers."""

    def __init__(self, client: OpenInterestClient, witness: Witness) -> None:
        self.client, self.witness = client, witness
        self.facts: list[Fact] = []

    def say(self, name: str, held: bool | None, seen: object) -> None:
        self.facts.append(Fact(name, held, str(seen)))

    async def ask(self) -> None:
        await self.one_symbol_costs_one()
        await self.an_unknown_symbol_costs_one()
        await self.the_listing_names_the_limit()
        await self.mark_prices_cost_ten()
        await self.the_history_has_no_header()
        await self.the_history_ends_at_a_wall()

    async def one_symbol_costs_one(self) -> None:
        value = await self.client.get_open_interest("BTCUSDT")
        first = self.witness.answers[-1]
        await self.client.get_open_interest("ETHUSDT")
        second = self.witness.answers[-1]
        age = first.sent_at - value.time / 1000
        self.say("time is up to 60 s before the request", 0 < age < 60, f"{age:.1f} s")
        self.say("both answers name the used weight", None not in (first.used, second.used), USED)
        self._costs("one symbol costs 1", first, second, 1)
        self.say("an answer has a Date", "date" in first.headers, first.headers.get("date"))

    async def an_unknown_symbol_costs_one(self) -> None:
        before = self.witness.answers[-1]
        error = None
        try:
            await self.client.get_open_interest("NOSUCHSYMBOL")
        except ResponseError as refused:
            error = refused
        self.say("an unknown symbol is refused", error is not None, error)
        self._costs("a refused symbol costs 1", before, self.witness.answers[-1], 1)

    async def the_listing_names_the_limit(self) -> None:
        info = await self.client.exchange_info()
        self.say("the limit is 2400", info.weight_limit == 2400, info.weight_limit)
        self.say("symbols that trade", None, len(info.trading))

    async def mark_prices_cost_ten(self) -> None:
        before = self.witness.answers[-1]
        await self.client.snapshot(["BTCUSDT"], notional=True)
        after = self.witness.answers[-1]
        self._costs("a snapshot of one symbol with mark prices costs 11", before, after, 11)

    async def the_history_has_no_header(self) -> None:
        past = await self.client.history("BTCUSDT", since=timedelta(minutes=30))
        answer = self.witness.answers[-1]
        self.say("the history names no used weight", answer.used is None, answer.used)
        newest = past.rows[-1].time / 1000 if past.rows else None
        seen = "no row" if newest is None else f"{answer.sent_at - newest:.0f} s old"
        self.say("the history has a row of the last 30 minutes", newest is not None, seen)

    async def the_history_ends_at_a_wall(self) -> None:
        since = datetime.now(UTC) - timedelta(days=WALL_DAYS)
        past = await self.client.history("BTCUSDT", period="1d", since=since)
        self.say("the last 35 days of history have a hole", bool(past.holes), past.holes)

    def _costs(self, name: str, before: Answer, after: Answer, weight: int) -> None:
        """Note whether the cost was `weight`. If not, others or a rollover may have changed it."""
        if before.used is None or after.used is None or after.used < before.used:
            self.say(name, None, f"{before.used}, then {after.used}")
            return
        used = after.used - before.used
        self.say(name, True if used == weight else None, f"{used} used by all clients here")


async def ask(base_url: str, budget: Budget | None = None) -> tuple[list[Fact], list[Answer]]:
    """Return every fact checked and every answer. One of our errors ends the run early."""
    witness = Witness()
    async with (
        aiohttp.ClientSession(trace_configs=[witness.trace()]) as session,
        OpenInterestClient(
            base_url=base_url,
            session=session,
            budget=budget or MachineBudget(),
            retry=RetryPolicy(attempts=1),
            max_wait=90.0,
        ) as client,
    ):
        questions = Questions(client, witness)
        try:
            await questions.ask()
        except BinanceOIError as error:
            questions.say("the run was completed", False, error)
        names = sorted({name for answer in witness.answers for name in answer.headers})
        questions.say("names of headers", None, ", ".join(names))
    return questions.facts, witness.answers


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.live", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="where to write every answer, as JSON")
    parser.add_argument("--base-url", default=PRODUCTION)
    arguments = parser.parse_args()
    facts, answers = asyncio.run(ask(arguments.base_url))
    for fact in facts:
        mark = {True: "holds", False: "FAILS", None: "seen"}[fact.held]
        print(f"{mark:6} {fact.name}: {fact.seen}")
    if arguments.file is not None:
        seen = {"facts": facts, "answers": answers}
        arguments.file.write_bytes(msgspec.json.format(msgspec.json.encode(seen)))
    return int(any(fact.held is False for fact in facts))


if __name__ == "__main__":
    sys.exit(main())
