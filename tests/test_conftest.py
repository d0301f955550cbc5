"""The fixtures and `--twice` work as documented, and aioresponses still needs its shim."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from aioresponses import aioresponses, compat, core

from binance_oi.budget.place import budget_directory

URL = "http://127.0.0.1/fapi/v1/exchangeInfo"
LARGE = b"x" * 1_000_000
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def _proxies() -> Iterator[None]:
    """Set variables that a user's environment may have, before any fixture of a test runs."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("http_proxy", "HTTPS_PROXY", "all_proxy", "No_Proxy"):
            environment.setenv(name, "http://proxy.example:3128")
        environment.setenv("PYTHONUNBUFFERED", "1")
        yield


async def _read(url: str = URL) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.read()


async def test_a_mocked_answer_is_read_with_status_and_headers(mocked: aioresponses) -> None:
    mocked.get(URL, status=418, headers={"Retry-After": "120"}, body=b"{}")
    async with aiohttp.ClientSession() as session, session.get(URL) as response:
        assert (response.status, response.headers["Retry-After"]) == (418, "120")
        assert await response.read() == b"{}"


async def test_a_mocked_answer_of_a_megabyte_is_read_completely(mocked: aioresponses) -> None:
    mocked.get(URL, body=LARGE)
    assert await _read() == LARGE


async def test_a_mocked_answer_of_a_megabyte_is_read_in_chunks(mocked: aioresponses) -> None:
    mocked.get(URL, body=LARGE)
    async with aiohttp.ClientSession() as session, session.get(URL) as response:
        chunks = [chunk async for chunk in response.content.iter_chunked(65_536)]
    assert b"".join(chunks) == LARGE
    assert max(map(len, chunks)) <= 65_536


async def test_without_the_shim_no_answer_can_be_built() -> None:
    with aioresponses() as mock:
        mock.get(URL, body=b"{}")
        with pytest.raises(TypeError, match="stream_writer"):
            await _read()


async def test_without_the_shims_transport_a_large_body_fails(
    mocked: aioresponses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "stream_reader_factory", compat.stream_reader_factory)
    mocked.get(URL, body=LARGE)
    with pytest.raises(AssertionError):  # the reader pauses a protocol without a transport
        await _read()


def test_no_test_uses_the_budgets_or_proxies_of_the_user(tmp_path: Path) -> None:
    assert budget_directory() == tmp_path / "binance-oi"
    assert not [name for name in os.environ if name.lower().endswith("_proxy")]
    assert "PYTHONUNBUFFERED" not in os.environ


LEAKY = """
left = []

def test_that_leaves_something_behind():
    left.append(1)
    assert left == [1]

def test_that_always_fails():
    assert False

def test_that_always_passes():
    assert left
"""


def run_twice(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "--twice", *options, str(file)]
    here = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "tests", ROOT)))}
    return subprocess.run(
        command, cwd=file.parent, env=os.environ | here, capture_output=True, text=True
    )


@pytest.mark.thorough
def test_the_option_twice_runs_every_test_again_and_finds_a_leaking_one(
    tmp_path: Path,
) -> None:
    file = tmp_path / "test_leaky.py"
    file.write_text(LEAKY)
    done = run_twice(file, "-p", "no:cacheprovider", "-q")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert done.stdout.splitlines()[-1].startswith("3 failed, 3 passed in ")
    assert done.stdout.count("FAILED test_leaky.py::test_that_leaves_something_behind") == 1


@pytest.mark.thorough
def test_the_option_twice_is_refused_with_several_test_processes(tmp_path: Path) -> None:
    file = tmp_path / "test_leaky.py"
    file.write_text(LEAKY)
    done = run_twice(file, "-n", "2")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--twice runs all tests in one process: leave out -n" in done.stderr
