"""Fixtures for pytest: `local_exchange` and `virtual_time`.

The rule of this file: pytest imports this file at each start, even for tests that do not use our
package. So the file imports no package but pytest until a test requests a fixture. The fixtures
need no asyncio plugin, and work with every one.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from binance_oi.simulator import LocalExchange
    from binance_oi.testing.virtual_time import VirtualTime

BUDGET_DIR_VARIABLE = "BINANCE_OI_BUDGET_DIR"
_NEEDS = (
    "virtual_time needs an event loop for this test alone: set the loop scope of pytest-asyncio to"
    " 'function', use no async fixtures of a wider scope, and set no loop factory"
)
_TIME: pytest.StashKey["VirtualTime"] = pytest.StashKey()


@pytest.fixture
def local_exchange(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator["LocalExchange"]:
    """A local exchange that runs for the length of a test; its URL is its attribute `url`.

    The default budget is in a directory of the test, so a ban affects no other test.
    With `virtual_time`, the exchange runs in the loop of the test, and otherwise in a thread.
    """
    from binance_oi.simulator import LocalExchange

    monkeypatch.setenv(BUDGET_DIR_VARIABLE, str(tmp_path_factory.mktemp("budgets")))
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

    Each event loop of the test is a virtual one, whether pytest-asyncio, anyio or `asyncio.run`
    makes it. Real sockets work if both ends are in the loop of the test.
    """
    found: VirtualTime | None = request.node.stash.get(_TIME, None)
    if found is None:
        pytest.fail(
            "virtual_time must be requested before the test begins: name it as an argument of the"
            " test or of a fixture, or with pytest.mark.usefixtures",
            pytrace=False,
        )
    return found


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Make all loops of a test and of its fixtures virtual."""
    if "virtual_time" not in getattr(item, "fixturenames", ()):
        return (yield)
    from binance_oi.testing.virtual_time import VirtualTime

    time = item.stash[_TIME] = VirtualTime()
    with pytest.MonkeyPatch.context() as patch, time.installed(patch):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Fail a test that made no virtual loop: it would wait in real time, and pass."""
    result = yield
    time = pyfuncitem.stash.get(_TIME, None)
    if time is not None and not time.is_used:
        pytest.fail(f"the event loop of this test was not made for it. {_NEEDS}", pytrace=False)
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose loop is still open at the end: the next test would run in that loop."""
    result = yield
    time = item.stash.get(_TIME, None)
    if time is not None and not time.is_over:
        pytest.fail(f"the event loop of this test was not closed. {_NEEDS}", pytrace=False)
    return result
