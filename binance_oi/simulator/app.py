"""Answers as the exchange does: routes, weights, headers and error texts, over aiohttp.web.

The rule of this file: every request takes the same path: up leg, count, answer, down leg. A leg is
the way of a request or an answer through the network. The exchange counts the request when it
arrives, even if the sender has gone by then. The answer shows the state at that moment. A request
that arrives costs its weight, even if the exchange refuses it, unless `count_refused` is False.
A request for history counts only under a limit of its own. Files of the archive
cost nothing. Commands of a test cost nothing either, and take no time.
"""

import asyncio
import json
import re
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from random import Random
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote

from aiohttp import web

from binance_oi.simulator.archive import ARCHIVE, Archives, Files
from binance_oi.simulator.commands import ADMIN, obey
from binance_oi.simulator.counter import (
    BANNED,
    LIMITED,
    MINUTE_S,
    OK,
    RollingCounter,
    Verdict,
    WeightCounter,
)
from binance_oi.simulator.history import (
    OPEN_INTEREST_HISTORY,
    PREFIX,
    BadParameterError,
    History,
    Pages,
    Question,
)
from binance_oi.simulator.market import Market
from binance_oi.simulator.responses import Answer, Headers, Responses
from binance_oi.simulator.script import Effect, Kind, Script
from binance_oi.simulator.universe import TRADING, Universe, exchange_info

OPEN_INTEREST = "/fapi/v1/openInterest"
PREMIUM_INDEX = "/fapi/v1/premiumIndex"
EXCHANGE_INFO = "/fapi/v1/exchangeInfo"
SERVER_TIME = "/fapi/v1/time"
PING = "/fapi/v1/ping"
ALL_SYMBOLS_WEIGHT = 10  # premiumIndex without a symbol (documented); other requests here cost 1

FUNDING_S = 8 * 3600
HISTORY_LIMIT, HISTORY_S = 1000, 300  # requests, and seconds; documented 2026-11

# Each exchange has a path of its own below its port. The next exchange on the same port is another
# one, and a client must not take a ban of the first for a ban of the second.
_PLACE = "/local-"
DELISTED = "SETTLING"
# Code and text of a failure, by the lowest status that has them (documented 2026-11).
_FAILURES = (
    (500, -1001, "Internal error; unable to process your request. Please try again."),
    (408, -1007, "Timeout waiting for response from backend server."),
    (400, -1000, "An unknown error occurred while processing the request."),
)

# Java writes "no lower case" as &&[^a-z]. Without re.ASCII, \w also matches Chinese names.
_LEGAL_SYMBOL = re.compile(r"(?:(?![a-z])[\w\-.]){1,50}")
_NAMES_A_SYMBOL = re.compile(r"[?&]symbol=[^&]")
_LEGAL_RANGE = r"^[\w\-._&&[^a-z]]{1,50}$"  # as quoted by the spot API, seen 2025-12


class Change(NamedTuple):
    """A status that changes at a given time: a listing, a delisting or a pause."""

    at: float
    """Unix s of the exchange's clock."""
    symbol: str
    status: str


class Fate(NamedTuple):
    """The effect of the script on one answer."""

    delay_s: float = 0.0
    is_dropped: bool = False
    hides_weight: bool = False
    status: int = OK
    """The status of a failure that a test planned; 200 if there is none."""


_USUAL = Fate()


class _Refused(Exception):
    """A request whose answer is an error."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.answer = _error(status, code, message)


def _error(status: int, code: int, message: str) -> Answer:
    return Answer(status, _json({"code": code, "msg": message}))


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class Exchange:
    """Answers requests. It opens no socket, and starts no thread and no process.

    Args:
        counter: counts the weight of the only IP address that this exchange sees.
        now: the exchange's own clock, Unix s.
        seed: the seed of everything random.
        latency: seconds from request to answer; the request is counted after half of them.
        jitter: the largest additional delay of both legs together, s.
        headers: how reliable the headers are.
        changes: statuses that change at given times.
        history_limit: requests of `/futures/data` that are allowed in any 5 minutes.
        pages: how reliable a page of history is.
        files: how reliable a file of the archive is.
    """

    def __init__(
        self,
        counter: WeightCounter,
        now: Callable[[], float],
        *,
        seed: int = 0,
        latency: float = 0.0,
        jitter: float = 0.0,
        headers: Headers | None = None,
        changes: Iterable[Change | tuple[float, str, str]] = (),
        history_limit: int = HISTORY_LIMIT,
        pages: Pages | None = None,
        files: Files | None = None,
    ) -> None:
        self.counter = counter
        self.history_counter: RollingCounter = RollingCounter(history_limit, HISTORY_S, counter)
        self.answers: Counter[int] = Counter()
        self.universe: Universe = Universe()
        self._now = now
        self._seed = seed
        self._latency = latency
        self._jitter = jitter
        self._changes = sorted((Change(*change) for change in changes), reverse=True)
        self._random = Random(seed)
        self._responses = Responses(headers or Headers(), self._random)
        self.lock: AbstractContextManager[object] = threading.RLock()
        """Protects everything that a command may change; readers and commands hold it."""
        self.place: str = _PLACE + secrets.token_hex(6)
        """The path of the exchange's URL. The exchange also answers requests without it, or with
        the path of another local exchange."""
        self._script = Script()
        self._info: bytes | None = None
        self._pages = pages or Pages()
        self._markets: dict[str, Market] = {}
        self._histories: dict[str, History] = {}
        self.archives: Archives = Archives(seed, self.history, files or Files())
        self._plain_targets: dict[str, str] = {}
        self._routes: dict[str, Callable[[str, float], bytes]] = {
            OPEN_INTEREST: self._open_interest,
            OPEN_INTEREST_HISTORY: self._open_interest_history,
            PREMIUM_INDEX: self._premium_index,
            EXCHANGE_INFO: self._exchange_info,
            SERVER_TIME: lambda _query, now: b'{"serverTime":%d}' % (now * 1000),
            PING: lambda _query, _now: b"{}",
        }
        self._commands = self._all_commands()

    def _all_commands(self) -> dict[str, Callable[..., None]]:
        return {
            "set_open_interest": self._set_open_interest,
            "set_mark_price": self._set_mark_price,
            "jump": self._jump,
            "fail": partial(self._plan, "fail"),
            "drop": partial(self._plan, "drop"),
            "delay": partial(self._plan, "delay"),
            "hide_headers": partial(self._plan, "hide"),
            "show_headers": partial(self._script.clear, "hide"),
            "reset": self._script.clear,
            "ban": self._ban,
            "end_ban": self.counter.end_ban,
            "delist": self._delist,
            "set_status": self.set_status,
            "republish": self.archives.republish,
        }

    def set_status(self, name: str, status: str) -> None:
        """Change the status of a symbol, or list a new one, from now on.

        Raises:
            ValueError: a new name has no known quote asset.
        """
        with self.lock:
            self.universe.set_status(name, status, self._now())
            self._info = None

    def do(self, command: str, **arguments: Any) -> None:
        """Carry out one of `Commands`, from any thread.

        Raises:
            ValueError: there is no such command, or its symbol or day is not valid.
            TypeError: the command takes other arguments.
        """
        with self.lock:
            if command not in self._commands:
                raise ValueError(f"there is no command {command!r}")
            self._commands[command](**arguments)

    def _plan(
        self,
        kind: Kind,
        times: int | None,
        symbol: str | None = None,
        status: int = OK,
        seconds: float = 0.0,
    ) -> None:
        self._script.add(Effect(kind, times, symbol, status, seconds))

    def _set_open_interest(self, symbol: str, value: str) -> None:
        self._listed(symbol).fix(value, self._now())

    def _set_mark_price(self, symbol: str, price: str) -> None:
        self._listed(symbol).fix_price(price, self._now())

    def _jump(self, symbol: str, share: float) -> None:
        self._listed(symbol).jump(share, self._now())

    def _ban(self, seconds: float | None) -> None:
        self.counter.ban(self._now(), seconds)

    def _listed(self, name: str) -> Market:
        try:
            return self._market(name)
        except _Refused:
            raise ValueError(f"{name!r} is not listed") from None

    def _delist(self, symbol: str) -> None:
        self._listed(symbol)
        self.set_status(symbol, DELISTED)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, with the delays of both legs."""
        target = _below_its_place(request.raw_path)
        if target == ADMIN and request.method == "POST":
            status, outcome = obey(self.do, await request.read())
            return _text_of(Answer(status, _json(outcome)))
        has_legs = bool(self._latency or self._jitter)
        if has_legs:
            await asyncio.sleep(self._leg_s())
        response, fate = self._respond(request, target)
        if has_legs or fate.delay_s:
            await asyncio.sleep(fate.delay_s + (self._leg_s() if has_legs else 0.0))
        if fate.is_dropped and request.transport is not None:
            request.transport.abort()
        return response

    def _leg_s(self) -> float:
        return (self._latency + self._jitter * self._random.random()) / 2

    def _respond(self, request: web.BaseRequest, target: str) -> tuple[web.Response, Fate]:
        with self.lock:
            now = self._now()
            if target.startswith(ARCHIVE):
                return self._archived(target, now)
            while self._changes and now >= self._changes[-1].at:
                change = self._changes.pop()
                self.set_status(change.symbol, change.status)
            is_history = target.startswith(PREFIX)
            if is_history:
                verdict, room_at = self.history_counter.count(now), now + HISTORY_S
            else:
                verdict = self.counter.count(_weight(target), now)
                room_at = float((now // MINUTE_S + 1) * MINUTE_S)
            fate = _USUAL if self._script.is_empty else self._fate(target, verdict)
            if fate.status == LIMITED:
                verdict = Verdict(LIMITED, verdict.used, room_at)
            if verdict.status != OK:
                answer = self._refusal(verdict, request.remote, target)
            elif fate.status != OK:
                answer = _failure(fate.status)
            else:
                answer = self._answer(request.method, target, now)
            if not fate.is_dropped:
                self.answers[answer.status] += 1
            # No header shows the use of the limit of history (seen 2026-09-12).
            has_weight = not (is_history or fate.hides_weight)
            response = self._responses.make(request, answer, verdict, now, has_weight=has_weight)
        return response, fate

    def _archived(self, target: str, now: float) -> tuple[web.Response, Fate]:
        """Answer with a file of the archive, which has no weight and is open during a ban."""
        fate = _USUAL if self._script.is_empty else self._fate(target, Verdict(OK, 0, 0.0))
        if fate.status != OK:
            return web.Response(status=fate.status), fate
        return self.archives.answer(target, now), fate

    def _fate(self, target: str, verdict: Verdict) -> Fate:
        symbol = _named_in(target)
        delay, hidden = self._script.take("delay", symbol), self._script.take("hide", symbol)
        # A request that the exchange refuses anyway uses up no scripted failure.
        served = verdict.status == OK
        dropped = self._script.take("drop", symbol) if served else None
        failed = self._script.take("fail", symbol) if served and dropped is None else None
        return Fate(
            delay_s=delay.seconds if delay else 0.0,
            is_dropped=dropped is not None,
            hides_weight=hidden is not None,
            status=failed.status if failed else OK,
        )

    def _answer(self, method: str, target: str, now: float) -> Answer:
        name = self._plain_targets.get(target)
        try:
            if name is not None and method == "GET":
                return Answer(OK, self._reading(name, now))
            path, _, query = target.partition("?")
            route = self._routes.get(path)
            if route is None or method != "GET":
                # Code and text as observed; their HTTP status is unknown.
                raise _Refused(404, -5000, f"Path {path}, Method {method} is invalid")
            return Answer(OK, route(query, now))
        except _Refused as refused:
            return refused.answer

    def _refusal(self, verdict: Verdict, ip: str | None, target: str) -> Answer:
        if verdict.status == LIMITED:
            limit = f"{self.counter.limit} requests per minute"
            if target.startswith(PREFIX):  # a guess: we have never seen this text
                limit = f"{self.history_counter.limit} requests per 5 minutes"
            return _error(
                LIMITED,
                -1003,
                f"Too many requests; current limit of IP({ip}) is {limit}. Please use the websocket"
                " for live updates to avoid polling the API.",
            )
        return _error(
            BANNED,
            -1003,
            f"Way too many requests; IP({ip}) banned until {int(verdict.until * 1000)}."
            " Please use the websocket for live updates to avoid bans.",
        )

    def _open_interest(self, query: str, now: float) -> bytes:
        name = _symbol_in(query)
        if name is None:
            raise _Refused(
                400,
                -1102,
                "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.",
            )
        return self._reading(name, now)

    def _reading(self, name: str, now: float) -> bytes:
        market = self._market(name)
        if self.universe.symbols[name].status != TRADING:
            raise _Refused(
                400,
                -4108,
                "Symbol is on delivering or delivered or settling or closed or pre-trading.",
            )
        value, time = market.open_interest(now)
        return f'{{"symbol":"{name}","openInterest":"{value}","time":{time}}}'.encode()

    def history(self, name: str) -> History:
        """The past of a listed symbol.

        Raises:
            KeyError: the symbol is not listed.
        """
        history = self._histories.get(name)
        if history is None:
            symbol = self.universe.symbols[name]
            history = History(self._seed, symbol, self._market(name), self._pages)
            self._histories[name] = history
        return history

    def _open_interest_history(self, query: str, now: float) -> bytes:
        try:
            asked = Question.of(query, int(now * 1000))
        except BadParameterError as bad:
            raise _Refused(400, bad.code, bad.message) from None
        self._market(asked.symbol)  # refuses symbols that are not listed
        if self.universe.symbols[asked.symbol].status != TRADING:
            return b"[]"
        return self.history(asked.symbol).page(asked, int(now * 1000))

    def _market(self, name: str) -> Market:
        """The market of a listed symbol, made at the first request for it."""
        market = self._markets.get(name)
        if market is None:
            symbol = self.universe.symbols.get(name)
            if symbol is None:
                raise _Refused(400, -1121, "Invalid symbol.")
            market = self._markets[name] = Market(self._seed, symbol)
            self._plain_targets[f"{OPEN_INTEREST}?symbol={quote(name)}"] = name
        return market

    def _premium_index(self, query: str, now: float) -> bytes:
        name = _symbol_in(query)
        if name is None:
            return _json([self._mark(name, now) for name in self.universe.symbols])
        return _json(self._mark(name, now))

    def _mark(self, name: str, now: float) -> dict[str, object]:
        price = self._market(name).mark_price(now)
        lasting = not self.universe.symbols[name].is_delivery
        rate = "0.00010000" if lasting else "0.00000000"
        return {
            "symbol": name,
            "markPrice": self._market(name).mark_price_text(now),
            "indexPrice": f"{price * 0.9999:.8f}",
            "estimatedSettlePrice": f"{price * 0.9998:.8f}",
            "lastFundingRate": rate,
            "interestRate": rate,
            "nextFundingTime": (int(now) // FUNDING_S + 1) * FUNDING_S * 1000 if lasting else 0,
            "time": int(now) * 1000,
        }

    def _exchange_info(self, _query: str, now: float) -> bytes:
        # Like the real one, it ignores ?symbol=. The real answer is rarely rebuilt, so its time is
        # old.
        if self._info is None:
            self._info = exchange_info(
                self.universe.symbols.values(), limit=self.counter.limit, now=now
            )
        return self._info


def _below_its_place(path: str) -> str:
    _, slash, rest = path[1:].partition("/")
    return slash + rest if path.startswith(_PLACE) else path


def _text_of(answer: Answer) -> web.Response:
    """An answer of the simulator itself: it costs no weight and has no weight header."""
    return web.Response(body=answer.body, status=answer.status, content_type="application/json")


def _weight(target: str) -> int:
    # A premiumIndex that names a symbol, even an invalid one, is not a request for all symbols.
    if not target.startswith(PREMIUM_INDEX):
        return 1
    return 1 if _NAMES_A_SYMBOL.search(target) else ALL_SYMBOLS_WEIGHT


def _symbol_in(query: str) -> str | None:
    try:
        values = parse_qs(query, keep_blank_values=True, errors="strict").get("symbol", [""])
    except UnicodeDecodeError:
        values = []
    if len(values) != 1:
        raise _Refused(400, -1130, "Data sent for parameter 'symbol' is not valid.")
    if not values[0]:
        return None
    if not _LEGAL_SYMBOL.fullmatch(values[0]):
        raise _Refused(
            400,
            -1100,
            f"Illegal characters found in parameter 'symbol'; legal range is '{_LEGAL_RANGE}'.",
        )
    return values[0]


def _named_in(target: str) -> str | None:
    """The symbol that a request names; None if it names none or an invalid one."""
    try:
        return _symbol_in(target.partition("?")[2])
    except _Refused:
        return None


def _failure(status: int) -> Answer:
    _, code, message = next(row for row in _FAILURES if status >= row[0])
    if status == 403:
        return Answer(status, b"<!DOCTYPE HTML>\n<HTML><TITLE>ERROR: 403 Forbidden</TITLE></HTML>")
    return _error(status, code, message)
