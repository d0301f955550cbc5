"""A package imports a name when somebody asks for it, and has the names that it says."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import binance_oi
from binance_oi.lazy import names_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("binance_oi", "binance_oi.testing")

NOTHING_HEAVY = """
import sys
import PACKAGE
heavy = {"aiohttp", "aiolimiter", "asyncio", "msgspec", "sqlite3", "yarl"}
sys.exit(", ".join(sorted({name.partition(".")[0] for name in sys.modules} & heavy)) or 0)
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_imports_nothing_that_takes_time(package: str) -> None:
    command = [sys.executable, "-c", NOTHING_HEAVY.replace("PACKAGE", package)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_every_name_that_it_says_and_no_other(package: str) -> None:
    module = import_module(package)
    assert [name for name in module.__all__ if getattr(module, name, None) is None] == []
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nonsense'"):
        _ = module.nonsense


def test_a_star_takes_every_public_name() -> None:
    names: dict[str, object] = {}
    exec("from binance_oi import *", names)
    assert names.keys() - {"__builtins__"} == set(binance_oi.__all__)


MODULES_WITHOUT_IMPORTS = """
import sys
import binance_oi
for name in ("budget", "client", "errors", "exchange", "market", "sending"):
    assert getattr(binance_oi, name) is sys.modules[f"binance_oi.{name}"]
"""


def test_modules_may_be_asked_for_without_an_import_of_their_own() -> None:
    command = [sys.executable, "-c", MODULES_WITHOUT_IMPORTS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_name_is_imported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    package = import_module("binance_oi.exchange")
    monkeypatch.setitem(vars(package), "check_symbol", None)
    del vars(package)["check_symbol"]  # `monkeypatch` takes back what there is in the end
    get = names_of("binance_oi.exchange", {"check_symbol": "symbols"}, ("hosts",))
    assert get("check_symbol") is vars(package)["check_symbol"]
    assert get("hosts") is import_module("binance_oi.exchange.hosts")
