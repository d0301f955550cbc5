"""A Redis or Valkey server that keeps the record of a pool. Only this module uses `redis`.

The rule of this file: the server compares and swaps in one atomic step, and does not read the
content of a record. This module repeats a call only if the server lacks the script. By default,
some releases of redis-py repeat a failed call ten times, which takes seconds. So we turn that off
in a client that we make from a URL.
"""

import hashlib
import logging
import re
from collections.abc import Callable
from typing import Any

from binance_oi.budget.member_record import FORMAT, ID_BYTES, VERSION_BYTES
from binance_oi.budget.record_server import Answer, Outcome, ServerError, Swap, is_cancelled
from binance_oi.budget.turns import CALL_TIMEOUT_S, NEXT, TURN_S
from binance_oi.errors import printable
from binance_oi.extras import library

logger: logging.Logger = logging.getLogger("binance_oi")

FORMAT_KEPT_MS = 120_000  # ms for which the server refuses older formats after a write
MOST_WAITING = 64  # members in the queue of turns, at most
LISTEN_S = 1.0  # s after which a listener checks whether its task was cancelled
EGRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")

# Keys: the record, the queue of turns, and the newest format in use. The queue is one string: the
# ids of the waiting members, one after the other. A script that calls TIME before a write needs
# effect replication, which is the default since Redis 5.
SCRIPT = f"""
local record, queue, newest = KEYS[1], KEYS[2], KEYS[3]
local expected, new, member, news = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local kept_ms, channel, form = ARGV[5], ARGV[6], tonumber(ARGV[7])
local now = redis.call('TIME')
if tonumber(redis.call('GET', newest) or '0') > form then
  return {{{Outcome.OUTDATED:d}, now[1], now[2], ''}}
end
local found = redis.call('GET', record) or ''
local waiting = redis.call('GET', queue) or ''
local is_next = member == '' or waiting == '' or string.sub(waiting, 1, {ID_BYTES}) == member
local is_same = string.sub(found, 1, {VERSION_BYTES}) == expected
if new ~= '' and is_next and is_same then
  redis.call('SET', record, new, 'PX', kept_ms)
  redis.call('SET', newest, form, 'PX', {FORMAT_KEPT_MS})
  if news ~= '' then redis.call('PUBLISH', channel, news) end
  if member ~= '' and waiting ~= '' then
    waiting = string.sub(waiting, {ID_BYTES} + 1)
    if waiting == '' then
      redis.call('DEL', queue)
    else
      redis.call('SET', queue, waiting, 'PX', {1000 * TURN_S:.0f})
      redis.call('PUBLISH', channel, '{NEXT.decode()}' .. string.sub(waiting, 1, {ID_BYTES}))
    end
  end
  return {{{Outcome.DONE:d}, now[1], now[2]}}
end
if member ~= '' and not string.find(waiting, member, 1, true) then
  if waiting == '' then
    redis.call('SET', queue, member, 'PX', {1000 * TURN_S:.0f})
  elseif #waiting < {ID_BYTES * MOST_WAITING} then
    redis.call('APPEND', queue, member)
  end
end
local outcome = is_next and {Outcome.LATE:d} or {Outcome.TURN:d}
if is_same then return {{outcome, now[1], now[2]}} end
return {{outcome, now[1], now[2], found}}
"""
SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


def check_egress(egress: object) -> str:
    """Check the argument `egress`, and return it.

    Raises:
        TypeError: `egress` is not a `str`.
        ValueError: `egress` has a wrong length, or a character that we do not allow at its place.
    """
    if not isinstance(egress, str):
        raise TypeError(f"egress must be a str, not {type(egress).__name__}")
    if not EGRESS.fullmatch(egress):
        raise ValueError(
            "egress must be 1 to 64 letters, digits, dots, colons, hyphens or underscores,"
            f" and begin with a letter or a digit: {printable(repr(egress))}"
        )
    return egress


def make_client(server: Any) -> Any:
    """Return `server` if it is a client of redis-py, or make one for a URL; do not connect.

    Raises:
        TypeError: `server` is neither a URL nor a client.
        ValueError: The URL is invalid, or the client decodes its answers.
        ModuleNotFoundError: The package `redis` is not installed.
    """
    redis = library("redis.asyncio", "redis")
    if isinstance(server, str):
        retry = library("redis.asyncio.retry", "redis").Retry
        backoff = library("redis.backoff", "redis").NoBackoff
        client = redis.Redis.from_url(
            server, retry=retry(backoff(), 0), socket_connect_timeout=CALL_TIMEOUT_S
        )
    elif callable(getattr(server, "evalsha", None)) and hasattr(server, "get_encoder"):
        client = server
    else:
        raise TypeError(
            f"server must be a URL or a client of redis.asyncio, not {type(server).__name__}"
        )
    if client.get_encoder().decode_responses:
        raise ValueError("a client with decode_responses=True cannot read the shared budget")
    return client


Errors = tuple[type[Exception], ...]


def _errors() -> Errors:
    error: type[Exception] = library("redis", "redis").RedisError
    return (error, OSError, EOFError, ValueError, RuntimeError)


class RedisServer:
    """A `RecordServer`: the connection of one member to a Redis server.

    Args:
        server: A URL, or a client of redis-py. `aclose` closes the connections that this object
            has made from a URL, and leaves a client of the user open.
        egress: The name of the address that the exchange sees; part of every key.
    """

    def __init__(self, server: Any, egress: str) -> None:
        self._is_ours = isinstance(server, str)
        self._client = make_client(server)
        self._subscriber: Any = None  # for a cluster: a client of one of its nodes
        self._prefix = f"{{binance-oi:{egress}}}"
        self._errors: Errors = _errors()
        # The errors above, and those that an unexpected reply causes.
        self._odd: Errors = (*self._errors, AttributeError, IndexError, TypeError)
        self._is_checked = False

    def keys(self, pool: str) -> tuple[str, str, str]:
        """The keys of the record, of the queue and of the newest format, in one hash slot."""
        base = f"{self._prefix}:{pool}"
        return f"{base}:{FORMAT}", f"{base}:{FORMAT}:next", f"{base}:format"

    async def swap(self, pool: str, swap: Swap) -> Answer:
        """See `RecordServer.swap`."""
        keys = self.keys(pool)
        arguments = (
            *(*keys, swap.expected, swap.record, swap.member, swap.news),
            *(swap.kept_ms or 1, keys[0], FORMAT),  # the channel has the name of the record
        )
        try:
            if not self._is_checked:
                await self._check_eviction()
            reply = await self._call(arguments)
            time = int(reply[1]) + int(reply[2]) / 1e6
            found = bytes(reply[3]) if len(reply) > 3 else None
            return Answer(Outcome(int(reply[0])), time, found)
        except self._odd as error:
            raise ServerError(_text_of(error)) from error

    async def _call(self, arguments: tuple[Any, ...]) -> Any:
        missing: type[Exception] = library("redis.exceptions", "redis").NoScriptError
        try:
            return await self._client.evalsha(SHA, 3, *arguments)
        except missing:  # a new server, or SCRIPT FLUSH; `eval` stores the script
            return await self._client.eval(SCRIPT, 3, *arguments)

    async def _check_eviction(self) -> None:
        """Warn once if the server may drop the record when its memory is full."""
        try:
            memory = await self._client.info("memory")
        except self._errors:  # the user may not call INFO, or the server is a cluster
            self._is_checked = True
            return
        self._is_checked = True
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        if int(memory.get("maxmemory", 0) or 0) > 0 and policy != "noeviction":
            logger.warning(
                "the server of the shared budget drops keys when its memory is full (%s); use one"
                " with maxmemory-policy noeviction",
                printable(policy),
            )

    async def publish(self, pool: str, news: bytes) -> None:
        """See `RecordServer.publish`."""
        try:
            await self._client.publish(self.keys(pool)[0], news)
        except self._errors as error:
            raise ServerError(_text_of(error)) from error

    async def listen(
        self, pool: str, hear: Callable[[bytes], object], reset: Callable[[], object]
    ) -> None:
        """See `RecordServer.listen`."""
        try:
            async with self._subscribing().pubsub(ignore_subscribe_messages=True) as pubsub:
                await pubsub.subscribe(self.keys(pool)[0])
                reset()
                again = _OnReconnect(reset)
                pubsub.connection.register_connect_callback(again.connected)
                while not is_cancelled():
                    message = await pubsub.get_message(timeout=LISTEN_S)
                    if message is not None and message.get("type") == "message":
                        hear(bytes(message["data"]))
        except self._odd as error:
            raise ServerError(_text_of(error)) from error

    def _subscribing(self) -> Any:
        """The client that subscribes.

        For a cluster it is a client of one node, because each node publishes every message.
        """
        node_of = getattr(self._client, "get_default_node", None)
        if node_of is None:
            return self._client
        if self._subscriber is None:
            node = node_of()
            redis = library("redis.asyncio", "redis")
            known = {"username", "password", "protocol", "client_name"}
            given = {k: v for k, v in node.connection_kwargs.items() if k in known}
            self._subscriber = redis.Redis(host=node.host, port=node.port, **given)
        return self._subscriber

    async def records(self) -> dict[str, tuple[bytes, float]]:
        """Read the record of every pool.

        Returns:
            The record of each pool, with the server's time (Unix s), by the name of the pool.

        Raises:
            ServerError: The server does not answer.
        """
        found: dict[str, tuple[bytes, float]] = {}
        start, end = f"{self._prefix}:".encode(), f":{FORMAT}".encode()
        pattern = re.sub(rb"([\\*?\[\]])", rb"\\\1", start) + b"*" + end
        try:
            async for key in self._client.scan_iter(match=pattern):
                name = bytes(key)[len(start) : -len(end)].decode("utf-8", "replace")
                answer = await self.swap(name, Swap(b""))
                if answer.found:
                    found[name] = answer.found, answer.time
        except self._errors as error:
            raise ServerError(_text_of(error)) from error
        return found

    async def aclose(self) -> None:
        """See `RecordServer.aclose`; a client of the user stays open."""
        for client in (self._subscriber, self._client if self._is_ours else None):
            if client is not None:
                try:
                    await client.aclose()
                except self._errors:
                    pass  # the connection is broken already
        self._subscriber = None


class _OnReconnect:
    """Calls `reset` after each reconnection.

    It is an object because redis-py accepts only a bound method as a callback. The caller keeps a
    reference to the object, because redis-py keeps only a weak one.
    """

    def __init__(self, reset: Callable[[], object]) -> None:
        self._reset = reset

    async def connected(self, _connection: object) -> None:
        self._reset()


def _text_of(error: Exception) -> str:
    """The type and the text of an error, on one line."""
    return printable(f"{type(error).__name__}: {error}")
