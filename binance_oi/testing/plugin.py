"""Fixtures for pytest: `local_exchange` and `virtual_time`.

The rule of this file: pytest imports it at each start, also for tests that have nothing to do with
us, so it imports nothing but pytest until a test asks for a fixture. It needs no plugin for
asyncio, and goes with any of them.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from binance_oi.simulator import LocalExchange
    from binance_oi.testing.virtual_time import VirtualTime

BUDGETS = "BINANCE_OI_BUDGET_DIR"
_NEEDS = (
    "virtual_time needs a loop for this test alone: set the loop scope of pytest-asyncio to"
    " 'function', have no async fixtures of a wider scope, and set no loop factory"
)
_TIME: pytest.StashKey["VirtualTime"] = pytest.StashKey()


@pytest.fixture
def local_exchange(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator["LocalExchange"]:
    """A local exchange that runs for the length of a test; read it at its `url`.

    The default budget is in a directory of the test, so no test knows of a ban in another one. The
    exchange runs in a thread; beside `virtual_time` it runs in the loop of the test.
    """
    from binance_oi.simulator import LocalExchange

    monkeypatch.setenv(BUDGETS, str(tmp_path_factory.mktemp("budgets")))
    if "virtual_time" in request.fixturenames:
        time: VirtualTime = request.getfixturevalue("virtual_time")
        exchange = LocalExchange(clock=time.time)
        time.serve(exchange)
        yield exchange
        exchange.release()
    else:
        with LocalExchange().in_thread() as exchange:
            yield exchange


@pytest.fixture
def virtual_time(request: pytest.FixtureRequest) -> "VirtualTime":
    """Virtual time for a test: an hour of `asyncio.sleep` takes no time.

    Each event loop that the test makes is a virtual one, be it by pytest-asyncio, by anyio or by
    `asyncio.run`. Real sockets work, as long as both ends are in the loop of the test.
    """
    found: VirtualTime | None = request.node.stash.get(_TIME, None)
    if found is None:
        pytest.fail(
            "virtual_time must be there before the test begins: name it as an argument of the test"
            " or of a fixture, or with pytest.mark.usefixtures",
            pytrace=False,
        )
    return found


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let all loops of a test be virtual, those of its fixtures as well."""
    if "virtual_time" not in getattr(item, "fixturenames", ()):
        return (yield)
    from binance_oi.testing.virtual_time import VirtualTime

    time = item.stash[_TIME] = VirtualTime()
    with pytest.MonkeyPatch.context() as patch, time.installed(patch):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Fail a test whose loop is not a virtual one: it would wait in real time, and pass."""
    result = yield
    time = pyfuncitem.stash.get(_TIME, None)
    if time is not None and not time.is_used:
        pytest.fail(f"the event loop of this test was not made for it. {_NEEDS}", pytrace=False)
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose loop goes on into the next one, which has no virtual time."""
    result = yield
    time = item.stash.get(_TIME, None)
    if time is not None and not time.is_over:
        pytest.fail(f"the event loop of this test was not closed. {_NEEDS}", pytrace=False)
    return result
