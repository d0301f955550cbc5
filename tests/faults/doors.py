"""Makes names, ports and certificates fail on the way to the exchange.

A door is a client's way to the exchange: a name, a port, and perhaps TLS.

Rule of this file: after the fault, every door lets the next call through at the same address.
"""

import contextlib
import datetime
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from unittest import mock

from support.certificates import authority, good, issued

from .exchange import FaultExchange

HOST = "exchange.example"  # resolved by a fake, never on a network


class Door:
    """The base class of all doors."""

    shut = True  # True: the fault comes first; False: a good call precedes it

    def bad_tls(self) -> ssl.SSLContext | None:
        return None

    def good_tls(self) -> ssl.SSLContext | None:
        return None

    def client_tls(self) -> ssl.SSLContext | None:
        return None

    @contextlib.asynccontextmanager
    async def opened(self, exchange: FaultExchange) -> AsyncGenerator[str]:
        await exchange.listen()
        yield f"http://127.0.0.1:{exchange.port}"

    async def repair(self, exchange: FaultExchange) -> None:
        pass


@dataclass(frozen=True)
class Plain(Door):
    """A door that is always open."""

    shut = False


@dataclass(frozen=True)
class Refused(Door):
    """No server listens."""

    @contextlib.asynccontextmanager
    async def opened(self, exchange: FaultExchange) -> AsyncGenerator[str]:
        await exchange.listen()
        port = exchange.port
        await exchange.end()
        yield f"http://127.0.0.1:{port}"

    async def repair(self, exchange: FaultExchange) -> None:
        await exchange.listen(exchange.port)


@dataclass(frozen=True)
class Full(Door):
    """No server accepts, so connecting never ends."""

    _taken: list[socket.socket] = field(default_factory=list[socket.socket])

    @contextlib.asynccontextmanager
    async def opened(self, exchange: FaultExchange) -> AsyncGenerator[str]:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        exchange.port = listener.getsockname()[1]
        self._taken.append(listener)
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", exchange.port))
            self._taken.append(one)
        try:
            yield f"http://127.0.0.1:{exchange.port}"
        finally:
            await self._free()

    async def repair(self, exchange: FaultExchange) -> None:
        await self._free()
        await exchange.listen(exchange.port)

    async def _free(self) -> None:
        for one in self._taken:
            one.close()
        self._taken.clear()


def unknown_authority() -> ssl.SSLContext:
    return issued("theirs", "127.0.0.1")


def another_host() -> ssl.SSLContext:
    return issued("ours", "other.example")


def another_address() -> ssl.SSLContext:
    return issued("ours", "127.0.0.2")


def expired() -> ssl.SSLContext:
    return issued(
        "ours",
        "127.0.0.1",
        not_before=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
        not_after=datetime.datetime(2020, 2, 1, tzinfo=datetime.UTC),
    )


def not_yet_valid() -> ssl.SSLContext:
    return issued(
        "ours",
        "127.0.0.1",
        not_before=datetime.datetime(2090, 1, 1, tzinfo=datetime.UTC),
        not_after=datetime.datetime(2090, 2, 1, tzinfo=datetime.UTC),
    )


def no_common_cipher() -> ssl.SSLContext:
    context = good()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    return context


def wants_a_certificate() -> ssl.SSLContext:
    context = good()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # TLS 1.3 refuses only after the handshake
    context.verify_mode = ssl.CERT_REQUIRED
    authority("theirs").configure_trust(context)
    return context


@dataclass(frozen=True)
class Tls(Door):
    """TLS. While the exchange is broken, it uses the context that `bad` makes, if there is one."""

    bad: Callable[[], ssl.SSLContext] | None = None
    shut: bool = True

    def bad_tls(self) -> ssl.SSLContext | None:
        return None if self.bad is None else self.bad()

    def good_tls(self) -> ssl.SSLContext:
        return good()

    def client_tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority("ours").configure_trust(context)
        return context

    @contextlib.asynccontextmanager
    async def opened(self, exchange: FaultExchange) -> AsyncGenerator[str]:
        await exchange.listen()
        yield f"https://127.0.0.1:{exchange.port}"


@dataclass(frozen=True)
class Name(Door):
    """A host name whose resolution raises `error` until the repair."""

    error: type[Exception] = socket.gaierror
    arguments: tuple[object, ...] = (socket.EAI_NONAME, "Name or service not known")
    _shut: list[bool] = field(default_factory=list[bool])

    def good_tls(self) -> ssl.SSLContext:
        return issued("ours", HOST)

    def client_tls(self) -> ssl.SSLContext:
        return Tls().client_tls()

    @contextlib.asynccontextmanager
    async def opened(self, exchange: FaultExchange) -> AsyncGenerator[str]:
        await exchange.listen()
        self._shut.append(True)

        async def resolve(
            _: object, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[dict[str, object]]:
            assert host == HOST
            if self._shut:
                raise self.error(*self.arguments)
            address = {"hostname": host, "host": "127.0.0.1", "port": port}
            return [{**address, "family": family or socket.AF_INET, "proto": 0, "flags": 0}]

        with mock.patch("aiohttp.ThreadedResolver.resolve", resolve):
            yield f"https://{HOST}:{exchange.port}"
        self._shut.clear()

    async def repair(self, exchange: FaultExchange) -> None:
        self._shut.clear()
