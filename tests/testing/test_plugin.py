"""The pytest plugin works in a user's test suite, where pytest finds it by its entry point.

Each test runs pytest in its own directory, and imports the package from a built wheel.
"""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from textwrap import dedent

import pytest

from support.lanes import thorough

ROOT = Path(__file__).resolve().parents[2]

# A user's tests. Each run replaces MARK, FIXTURE and PREAMBLE by the text for its asyncio plugin.
SUITE = """
import asyncio
import pytest
from binance_oi import BannedError, OpenInterestClient
from binance_oi.recorder import Recorder, Recording
from binance_oi.testing import VirtualLoop, VirtualTime, simulated_client

PREAMBLE

async def read(exchange):
    async with OpenInterestClient(base_url=exchange.url, timeout=600.0) as client:
        return await client.get_open_interest("BTCUSDT")

MARK
async def test_a_ban(local_exchange):
    local_exchange.ban(86_400.0)
    with pytest.raises(BannedError):
        await read(local_exchange)

MARK
async def test_no_ban_comes_from_another_test(local_exchange):
    assert not isinstance(asyncio.get_running_loop(), VirtualLoop)
    local_exchange.set_open_interest("BTCUSDT", "7.50")
    assert str((await read(local_exchange)).open_interest) == "7.50"

MARK
async def test_an_hour_takes_no_time(virtual_time, local_exchange, tmp_path):
    assert isinstance(asyncio.get_running_loop(), VirtualLoop)
    start = virtual_time.time()
    async with OpenInterestClient(base_url=local_exchange.url) as client:
        recorder = Recorder(client, tmp_path / "oi.db", every=60.0, symbols=["BTCUSDT"])
        task = asyncio.create_task(recorder.run())
        await asyncio.sleep(3600.0)
        recorder.stop()
        await task
        market = await client.snapshot(["BTCUSDT"])
    assert virtual_time.time() - start >= 3600.0
    assert start + 3600.0 <= market.started.timestamp() <= virtual_time.time()
    assert abs(market.received_ms["BTCUSDT"] / 1000 - virtual_time.time()) < 60.0
    with Recording(tmp_path / "oi.db") as recording:
        assert 59 <= len(list(recording.sweeps())) <= 61

FIXTURE
async def market(local_exchange):
    async with OpenInterestClient(base_url=local_exchange.url) as client:
        yield await client.snapshot(["BTCUSDT", "ETHUSDT"])

MARK
async def test_a_fixture_is_in_the_loop_of_its_test(market, virtual_time):
    assert list(market) == ["BTCUSDT", "ETHUSDT"]
    await asyncio.sleep(1e6)

MARK
async def test_a_simulated_client_uses_the_virtual_time(virtual_time: VirtualTime):
    async with simulated_client() as client:
        client.exchange.ban(600.0)
        with pytest.raises(BannedError):
            await client.get_open_interest("BTCUSDT")
        await asyncio.sleep(1200.0)
        assert (await client.get_open_interest("BTCUSDT")).symbol == "BTCUSDT"

MARK
async def test_the_next_test_gets_a_real_loop():
    assert not isinstance(asyncio.get_running_loop(), VirtualLoop)
    async with simulated_client(timeout=600.0) as client:
        client.exchange.delay(0.01)
        assert (await client.get_open_interest("BTCUSDT")).symbol == "BTCUSDT"

def test_without_a_plugin_for_asyncio(virtual_time, local_exchange):
    for _ in range(2):  # two loops, one after the other
        assert asyncio.run(read(local_exchange)).symbol == "BTCUSDT"
    assert local_exchange.answers[200] == 2
"""
COUNT = 7

ANYIO = """
@pytest.fixture
def anyio_backend():
    return "asyncio"
"""
# The mark, the fixture decorator and the preamble of each asyncio plugin.
AUTO = ("", "@pytest.fixture", "")
STRICT = ("@pytest.mark.asyncio", "@pytest_asyncio.fixture", "import pytest_asyncio")
WITH_ANYIO = ("@pytest.mark.anyio", "@pytest.fixture", ANYIO)
FUNCTION = ("-o", "asyncio_default_fixture_loop_scope=function")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory like that of an installed wheel: the package and its entry points."""
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory / "site")
    return directory / "site"


def run_pytest(
    site: Path, directory: Path, source: str, *options: str
) -> subprocess.CompletedProcess[str]:
    """Run the tests in `source` from `directory`, with warnings as errors."""
    (directory / "test_of_a_user.py").write_text(dedent(source), encoding="utf-8")
    (directory / "pytest.ini").write_text("[pytest]\n")
    away = ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_XDIST_WORKER")
    env = {name: value for name, value in os.environ.items() if name not in away}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    return subprocess.run(
        [*command, *options],
        cwd=directory,
        env=env | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "spelling, options",
    [
        pytest.param(AUTO, ("-o", "asyncio_mode=auto", *FUNCTION), id="pytest-asyncio, auto"),
        pytest.param(STRICT, ("-o", "asyncio_mode=strict", *FUNCTION), id="pytest-asyncio, strict"),
        pytest.param(WITH_ANYIO, ("-p", "no:asyncio"), id="anyio"),
        pytest.param(
            WITH_ANYIO,
            ("-o", "asyncio_mode=strict", *FUNCTION),
            id="anyio beside pytest-asyncio",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            AUTO,
            ("-o", "asyncio_mode=auto", *FUNCTION, "-n", "2"),
            id="pytest-asyncio, parallel",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            WITH_ANYIO,
            ("-p", "no:asyncio", "-n", "2"),
            id="anyio, parallel",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_the_fixtures_work_with_each_plugin_for_asyncio(
    spelling: tuple[str, str, str], options: tuple[str, ...], site: Path, tmp_path: Path
) -> None:
    if "anyio" in spelling[0]:
        pytest.importorskip("anyio", reason="anyio comes with fastapi")
    mark, fixture, preamble = spelling
    source = SUITE.replace("PREAMBLE", preamble).replace("FIXTURE", fixture).replace("MARK", mark)
    done = run_pytest(site, tmp_path, source, *options)
    assert re.search(rf"^{COUNT} passed in ", done.stdout, re.MULTILINE), done.stdout + done.stderr


LISTING = """
import sys

def test_no_heavy_module_is_imported():
    heavy = ("aiohttp", "aiolimiter", "asyncio", "msgspec", "sqlite3", "yarl")
    assert not {name.partition(".")[0] for name in sys.modules} & {*heavy}
    ours = {name for name in sys.modules if name.startswith("binance_oi")}
    assert ours == {
        "binance_oi",
        "binance_oi.lazy",
        "binance_oi.testing",
        "binance_oi.testing.plugin",
        "binance_oi.version",
    }
"""


def test_the_plugin_imports_nothing_until_a_test_asks_for_it(site: Path, tmp_path: Path) -> None:
    # Other plugins import asyncio and more. Without them and its cache, pytest itself does not.
    without = ("asyncio", "anyio", "xdist", "xdist.looponfail", "pytest_cov", "hypothesispytest")
    options = [part for name in without for part in ("-p", f"no:{name}")]
    done = run_pytest(site, tmp_path, LISTING, *options)
    assert done.stdout.splitlines()[-1].startswith("1 passed"), done.stdout + done.stderr


def test_requesting_virtual_time_during_a_test_fails_with_the_reason(
    site: Path, tmp_path: Path
) -> None:
    source = """
    def test_late(request):
        request.getfixturevalue("virtual_time")
    """
    done = run_pytest(site, tmp_path, source, "-p", "no:asyncio")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "virtual_time must be requested before the test begins" in done.stdout


@pytest.mark.parametrize(
    "options, said",
    [
        (
            ("-o", "asyncio_default_test_loop_scope=session"),
            "the event loop of this test was not closed. virtual_time needs an event loop for",
        ),
        *thorough(
            (
                ("-p", "loops_of_a_user"),
                "the event loop of this test was not made for it. virtual_time needs an event loop",
            )
        ),
    ],
)
def test_virtual_time_on_a_shared_or_foreign_loop_fails_with_the_reason(
    options: tuple[str, ...], said: str, site: Path, tmp_path: Path
) -> None:
    (tmp_path / "loops_of_a_user.py").write_text(
        dedent("""
        import asyncio

        def pytest_asyncio_loop_factories(item):
            return {"mine": asyncio.SelectorEventLoop}
        """)
    )
    source = """
    async def test_a_virtual_one(virtual_time):
        pass

    async def test_after_it():
        pass
    """
    auto = ("-o", "asyncio_mode=auto", *FUNCTION, "-o", "pythonpath=.")
    done = run_pytest(site, tmp_path, source, *auto, *options)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert said in done.stdout


def test_the_ten_line_example_test_of_the_documentation_passes(site: Path, tmp_path: Path) -> None:
    page = (ROOT / ".docs" / "testing.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (source,) = (block for block in blocks if "async def test_" in block)
    code = [line for line in source.splitlines() if line]
    assert len(code) <= 10
    done = run_pytest(site, tmp_path, source, "-o", "asyncio_mode=auto", *FUNCTION)
    assert done.stdout.splitlines()[-1].startswith("1 passed"), done.stdout + done.stderr
