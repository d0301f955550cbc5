"""Gives each test its own budget directory, an environment without proxies, and its event loop.

Rule of this file: it has fixtures, hooks and settings of the run. Helpers are in `support`.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from aioresponses import aioresponses
from hypothesis import settings

import rollover
from binance_oi.budget import knowledge, place
from binance_oi.market import schedule
from binance_oi.recorder import postgres_connection
from support import stalls
from support.aioresponses_shim import patch_aioresponses
from support.postgres_server import HANGS, Server, serving
from support.virtual_clock import VirtualDatetime, VirtualLoop

with suppress(ValueError):  # raised outside the main thread
    # In the background of a shell, pytest would ignore SIGINT, and so would its child processes.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Under `nohup`, the same is true of SIGHUP. A child process inherits an ignored signal, but no
    # handler. So it has the default action again.
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
SIMULATIONS = Path(__file__).parent / "simulation"
examples = int(os.environ.get("BINANCE_OI_EXAMPLES", "25"))  # `nox -s thorough` sets more
# No deadline: on a busy machine, a slow example is no defect.
settings.register_profile("binance-oi", max_examples=examples, deadline=None)
settings.load_profile("binance-oi")


# `nox -s postgres` runs the tests of the recorder on both stores.
STORES = ["sqlite", "postgres"] if os.environ.get("BINANCE_OI_POSTGRES") else ["sqlite"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--twice",
        action="store_true",
        help="run the chosen tests, and then all of them again in the same process",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("twice") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--twice runs all tests in one process: leave out -n")


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """With `--twice`, run all tests a second time, to find a test that leaves something behind."""
    done = yield
    if session.config.option.twice:
        session.config.option.twice = False
        # Without this, pytest reports a test that failed the first time as an error of collection.
        session.config.option.continue_on_collection_errors = True
        session.config.hook.pytest_runtestloop(session=session)
    return done


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Do not trace the lines of long simulations: their modules are covered without them."""
    for item in items:
        if item.path.is_relative_to(SIMULATIONS):
            item.add_marker("no_cover")


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run a test marked `virtual_time` on a virtual loop, and every other on a real one."""
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualLoop}
    return {"real": asyncio.new_event_loop}


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Separate a test from the budgets, caches and environment of the user who runs it."""
    monkeypatch.setenv(place.VARIABLE, str(tmp_path / "binance-oi"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    # Otherwise each process would read the system's certificates for 40 ms, and no test uses them.
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)
    # Otherwise a poll would mistake a pause of the virtual machine for a suspend.
    monkeypatch.setattr(schedule, "steady_clock", time.monotonic)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # it would hide missing flushes


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Remove a test's handlers from the root logger; restore the levels of that logger and ours."""
    root, ours = logging.getLogger(), logging.getLogger("binance_oi")
    handlers, levels = [*root.handlers], (root.level, ours.level)
    yield
    root.handlers[:] = [handler for handler in root.handlers if handler in handlers]
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.fixture(autouse=True)
def one_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In virtual time, compute each `retry_at` from the virtual clock."""
    if request.node.get_closest_marker("virtual_time"):
        monkeypatch.setattr("binance_oi.sending.governor.datetime", VirtualDatetime)


@pytest.fixture(autouse=True)
def minute_that_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Place the rollover where `BINANCE_OI_ROLLOVER` says, for `nox -s rollovers`."""
    if rollover.AFTER_MS is not None:
        rollover.turn_soon(monkeypatch, rollover.AFTER_MS)


@pytest.fixture(autouse=True)
def stalled(request: pytest.FixtureRequest) -> Iterator[None]:
    """Stall the test at random if `BINANCE_OI_STALLS` is set, for `nox -s stalls`."""
    with stalls.stalling(request.node.nodeid) if stalls.SEED else nullcontext():
        yield


@pytest.fixture
def mocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    """`aioresponses`, patched for aiohttp 3.14.

    It replaces `ClientSession._request`, so there are no timeouts, middlewares, connectors or TLS.
    Use it for unit logic, and the local exchange for everything on the wire.
    """
    patch_aioresponses(monkeypatch)
    with aioresponses() as mock:
        yield mock


@pytest.fixture
def known_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a client that just started use its whole budget at once, and not half of the limit."""
    monkeypatch.setattr(knowledge, "AT_ONCE", 1.0)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server; only nox's sessions for databases use it."""
    with serving() as started, pytest.MonkeyPatch.context() as patched:
        # On a busy machine, connecting and answering take longer than our usual timeouts.
        patched.setitem(postgres_connection._OURS, "connect_timeout", round(HANGS))
        patched.setattr(postgres_connection, "PATIENCE_S", HANGS)
        yield started


@pytest.fixture(name="place", params=STORES)
def _place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The target of a recorder: a new file, or a new database."""
    if request.param == "sqlite":
        return str(tmp_path / "oi.db")
    server: Server = request.getfixturevalue("server")
    return server.database()
