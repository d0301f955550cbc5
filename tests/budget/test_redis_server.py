"""A real server handles records as the pool expects.

Rule of this file: tests use servers that this file starts, or none. One test compares the script
of the real server with `Keeper`, the server in memory that other tests use in its place.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trustme

from binance_oi.budget import redis_server
from binance_oi.budget.member_record import ID_BYTES, VERSION_BYTES
from binance_oi.budget.record_server import Answer, Outcome, ServerError, Swap
from binance_oi.budget.redis_server import RedisServer, check_egress, make_client
from binance_oi.budget.turns import TURN_S
from support.lanes import thorough
from support.record_keeper import Keeper
from support.redis_servers import Server, free_port, needs_server, running

redis = pytest.importorskip("redis.asyncio")

POOL = "https://exchange"
LONG_MS = 3_600_000  # ms: longer than any test
ACL = (
    "~{binance-oi:* &{binance-oi:* +eval +evalsha +get +set +del +append +time +publish"
    " +subscribe +unsubscribe +ping +hello +client"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the connection more time, because the machine may be busy."""
    monkeypatch.setattr(redis_server, "CALL_TIMEOUT_S", 300.0)


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        request.getfixturevalue("server").call("FLUSHALL")


async def until(condition: Callable[[], bool], listening: "asyncio.Task[None]") -> None:
    """Wait for a condition without a time limit, as long as the task `listening` runs."""
    while not condition():
        assert not listening.done(), listening
        await asyncio.sleep(0.01)


def swap_of(random: Random, known: list[bytes]) -> Swap:
    """A random swap, usually of a known version; it reads or writes, with or without a turn."""
    version = random.choice([*known[-2:], b"", random.randbytes(VERSION_BYTES)])
    record = random.choice([b"", random.randbytes(VERSION_BYTES + random.randrange(60))])
    member = random.choice([b"", *(bytes([n]) * ID_BYTES for n in range(4))])
    return Swap(version, record, member, random.choice([b"", b"n"]), LONG_MS)


@pytest.fixture
def long_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no turn end by itself, as it may on a slow machine between two calls."""
    usual, long = f"'PX', {1000 * TURN_S:.0f})", f"'PX', {LONG_MS})"
    assert redis_server.SCRIPT.count(usual) == 2
    script = redis_server.SCRIPT.replace(usual, long)
    monkeypatch.setattr(redis_server, "SCRIPT", script)
    monkeypatch.setattr(redis_server, "SHA", hashlib.sha1(script.encode()).hexdigest())


@needs_server
@pytest.mark.usefixtures("long_turns")
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("seed, count", [(1, 100), *thorough((2, 1000))])
async def test_the_script_behaves_as_the_server_in_memory(
    server: Server, seed: int, count: int, protocol: int
) -> None:
    random, known = Random(seed), [b""]
    keeper = Keeper(lambda: 0.0)
    made = RedisServer(f"{server.url}?protocol={protocol}", "a.test")
    for _ in range(count):
        if random.random() < 0.1:  # the turn of the next member is over
            keeper.places[POOL].queue = b""
            server.call("DEL", made.keys(POOL)[1])
        swap = swap_of(random, known)
        expected, found = keeper.swap(POOL, swap), await made.swap(POOL, swap)
        assert found._replace(time=0.0) == expected._replace(time=0.0)
        if found.outcome is Outcome.DONE:
            known.append(swap.record[:VERSION_BYTES])
    await made.aclose()
    assert len(known) > count // 20


@needs_server
async def test_the_server_gives_its_time_and_the_news_of_other_members(server: Server) -> None:
    one, other = RedisServer(server.url, "a"), RedisServer(server.url, "a")
    heard, resets = list[bytes](), list[int]()
    listening = asyncio.create_task(one.listen(POOL, heard.append, lambda: resets.append(1)))
    await until(lambda: bool(resets), listening)
    await other.publish(POOL, b"h1")
    await until(lambda: bool(heard), listening)
    answer = await other.swap(POOL, Swap(b"", b"v" * VERSION_BYTES, b"", b"n", LONG_MS))
    await until(lambda: len(heard) > 1, listening)
    assert heard == [b"h1", b"n"]
    assert answer.time > 1.7e9
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    for each in (one, other):
        await each.aclose()


@needs_server
@pytest.mark.usefixtures("long_turns")
async def test_the_next_member_in_the_queue_is_notified_of_its_turn(server: Server) -> None:
    made = RedisServer(server.url, "a")
    heard, resets = list[bytes](), list[int]()
    listening = asyncio.create_task(made.listen(POOL, heard.append, lambda: resets.append(1)))
    await until(lambda: bool(resets), listening)
    one, other, third = (bytes([n]) * ID_BYTES for n in (1, 2, 3))
    first = b"1" * VERSION_BYTES
    await made.swap(POOL, Swap(b"", first, b"", b"", LONG_MS))
    late = [await made.swap(POOL, Swap(b"x", b"y" * VERSION_BYTES, who)) for who in (one, other)]
    away = await made.swap(POOL, Swap(first, b"3" * VERSION_BYTES, third))
    done = await made.swap(POOL, Swap(first, b"2" * VERSION_BYTES, one, b"", LONG_MS))
    assert [each.outcome for each in late] == [Outcome.LATE, Outcome.TURN]
    assert (away.outcome, done.outcome) == (Outcome.TURN, Outcome.DONE)
    await until(lambda: b"t" + other in heard, listening)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await made.aclose()


@needs_server
async def test_a_script_that_was_flushed_is_loaded_again(server: Server) -> None:
    made = RedisServer(server.url, "a")
    for version in (b"1" * VERSION_BYTES, b"2" * VERSION_BYTES, b"3" * VERSION_BYTES):
        expected = b"" if version[0] == ord("1") else bytes([version[0] - 1]) * VERSION_BYTES
        server.call("SCRIPT", "FLUSH")
        assert (await made.swap(POOL, Swap(expected, version, b"", b"", LONG_MS))).outcome is (
            Outcome.DONE
        )
    await made.aclose()


@needs_server
async def test_a_newer_format_locks_out_older_ones(server: Server) -> None:
    made = RedisServer(server.url, "a")
    server.call("SET", made.keys(POOL)[2], "99")
    answer = await made.swap(POOL, Swap(b"", b"v" * VERSION_BYTES, b"", b"", LONG_MS))
    assert answer.outcome is Outcome.OUTDATED
    await made.aclose()


@needs_server
@pytest.mark.parametrize("url", ["redis://:secret@{}/0", "redis://bot:word@{}/0"])
async def test_the_documented_access_rights_are_enough(tmp_path: Path, url: str) -> None:
    with running(tmp_path, requirepass="secret") as server:
        client = redis.Redis.from_url(f"redis://:secret@127.0.0.1:{server.port}")
        await client.execute_command("ACL", "SETUSER", "bot", "on", ">word", *ACL.split())
        made = RedisServer(url.format(f"127.0.0.1:{server.port}"), "a")
        for expected, version in (
            (b"", b"1" * VERSION_BYTES),
            (b"1" * VERSION_BYTES, b"2" * VERSION_BYTES),
        ):
            swap = Swap(expected, version, b"m" * ID_BYTES, b"n", LONG_MS)
            assert (await made.swap(POOL, swap)).outcome is Outcome.DONE
        await made.publish(POOL, b"n")
        await made.aclose()
        await client.aclose()


@needs_server
async def test_an_authentication_error_does_not_show_the_password(tmp_path: Path) -> None:
    with running(tmp_path, requirepass="secret") as server:
        made = RedisServer(f"redis://:wrong@127.0.0.1:{server.port}", "a")
        with pytest.raises(ServerError) as caught:
            await made.swap(POOL, Swap(b""))
        assert "wrong@" not in str(caught.value)
        await made.aclose()


@needs_server
async def test_the_server_can_be_reached_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    ca, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    authority.cert_pem.write_to_path(str(ca))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(key))
    port = free_port()
    try:
        server = Server(
            tmp_path / "server",
            port=port,
            tls_port=str(port),
            tls_cert_file=str(key),
            tls_key_file=str(key),
            tls_ca_cert_file=str(ca),
            tls_auth_clients="no",
        )
    except RuntimeError as error:
        pytest.skip(f"this server has no TLS: {str(error)[-200:]}")
    try:
        made = RedisServer(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={ca}", "a")
        answer = await made.swap(POOL, Swap(b"", b"v" * VERSION_BYTES, b"", b"", LONG_MS))
        assert answer.outcome is Outcome.DONE
        await made.aclose()
    finally:
        server.kill()


@needs_server
async def test_a_full_server_is_an_error_and_an_evicting_policy_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path, maxmemory="1mb", maxmemory_policy="allkeys-lru") as server:
        made = RedisServer(server.url, "a")
        await made.swap(POOL, Swap(b""))
        assert "allkeys-lru" in caplog.text
        server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
        server.call("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(ServerError):
            await made.swap(POOL, Swap(b"", b"v" * VERSION_BYTES, b"", b"", LONG_MS))
        await made.aclose()
        caplog.clear()
        server.call("CONFIG", "SET", "maxmemory", "0")
        made = RedisServer(server.url, "a")
        await made.swap(POOL, Swap(b""))
        assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
        await made.aclose()


@needs_server
async def test_all_keys_are_in_one_slot_so_that_a_cluster_can_be_used(tmp_path: Path) -> None:
    with running(tmp_path, cluster_enabled="yes") as server:
        first = server.call("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        assert first.startswith("+OK"), first
        for _ in iter(lambda: "cluster_state:ok" in server.call("CLUSTER", "INFO"), True):
            await asyncio.sleep(0.05)
        cluster = pytest.importorskip("redis.asyncio.cluster").RedisCluster
        client = cluster(host="127.0.0.1", port=server.port)
        made = RedisServer(client, "a")
        swap = Swap(b"", b"v" * VERSION_BYTES, b"m" * ID_BYTES, b"n", LONG_MS)
        assert (await made.swap(POOL, swap)).outcome is Outcome.DONE
        heard, resets = list[bytes](), list[int]()
        listening = asyncio.create_task(made.listen(POOL, heard.append, lambda: resets.append(1)))
        await until(lambda: bool(resets), listening)
        while not heard:
            await made.swap(
                POOL, Swap(b"v" * VERSION_BYTES, b"v" * VERSION_BYTES, b"", b"n", LONG_MS)
            )
            await asyncio.sleep(0.01)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await made.aclose()
        await client.aclose()


async def test_a_missing_server_is_an_error() -> None:
    made = RedisServer("redis://127.0.0.1:1/0", "a")
    with pytest.raises(ServerError):
        await made.swap(POOL, Swap(b""))
    with pytest.raises(ServerError):
        await made.publish(POOL, b"n")
    with pytest.raises(ServerError):
        await made.listen(POOL, lambda _: None, lambda: None)
    await made.aclose()


@pytest.mark.parametrize(
    "given, error",
    [
        *(
            (each, ValueError)
            for each in ("", "127.0.0.1", "http://127.0.0.1", "redis://127.0.0.1:x")
        ),
        *((each, TypeError) for each in (None, 6379, b"redis://127.0.0.1", object())),
    ],
)
def test_an_invalid_server_address_is_refused(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make_client(given)


def test_a_redis_client_that_decodes_answers_is_refused() -> None:
    with pytest.raises(ValueError, match="decode_responses"):
        make_client(redis.Redis(decode_responses=True))
    with pytest.raises(ValueError, match="decode_responses"):
        make_client("redis://127.0.0.1?decode_responses=True")


@pytest.mark.parametrize("egress", ["a", "nat-1", "203.0.113.7", "2001:db8::1", "A_b.c", "x" * 64])
def test_a_valid_egress_name_is_accepted(egress: str) -> None:
    assert check_egress(egress) == egress


@pytest.mark.parametrize("egress", ["", " ", "a b", "a{b}", "-a", "é", "a\n", "x" * 65, "a*"])
def test_an_egress_name_that_cannot_be_in_a_key_is_refused(egress: str) -> None:
    with pytest.raises(ValueError, match="egress"):
        check_egress(egress)


@pytest.mark.parametrize("egress", [None, 1, b"a"])
def test_an_egress_name_that_is_not_a_string_is_refused(egress: object) -> None:
    with pytest.raises(TypeError, match="egress"):
        check_egress(egress)


def test_an_impossible_answer_of_the_server_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        made = RedisServer("redis://127.0.0.1:1", "a")
        made._is_checked = True
        for reply in (None, [], [7, b"1", b"2"], [1, b"x", b"y"], [0, b"1", b"2", None], "text"):

            async def answer(*_: object, reply: object = reply) -> object:
                return reply

            monkeypatch.setattr(made, "_call", answer)
            with pytest.raises(ServerError):
                await made.swap(POOL, Swap(b""))
        await made.aclose()

    asyncio.run(play())
    assert Answer(Outcome.DONE, 0.0, None).found is None
    assert redis_server.SHA
