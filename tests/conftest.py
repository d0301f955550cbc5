"""What every test gets: its own directory for budgets, no proxies, and its choice of event loop.

Rule of this file: fixtures and hooks only; what they need to work lives in a module of its own.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from aioresponses import aioresponses
from hypothesis import settings

from aioresponses_shim import mend_aioresponses
from binance_oi import place
from virtual_clock import VirtualLoop

# Two cores shared with other work: a slow example is no finding.
with suppress(ValueError):  # not the main thread
    # Started in the background of a shell we would ignore it, and so would every process we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("binance-oi", deadline=None)
settings.load_profile("binance-oi")

_FROM_THE_ENVIRONMENT = ("all_proxy", "ftp_proxy", "http_proxy", "https_proxy", "no_proxy")


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run a test marked `virtual_time` on a virtual loop, and every other on a real one."""
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualLoop}
    return {"real": asyncio.new_event_loop}


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a test away from the budgets of the person who runs it, and from their proxies."""
    monkeypatch.setenv(place.VARIABLE, str(tmp_path / "binance-oi"))
    for name in _FROM_THE_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def mocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    """`aioresponses`, mended for aiohttp 3.14.

    It replaces `ClientSession._request`, so timeouts, middlewares, connectors and TLS are not
    there: use it for unit logic, and the local exchange for everything on the wire.
    """
    mend_aioresponses(monkeypatch)
    with aioresponses() as mock:
        yield mock
