"""A command imports only the modules that it needs.

The tests check which modules a process has imported at its end, not how long it took.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from binance_oi.cli.commands import app
from support.lanes import thorough
from support.recorded import write_recording

HEAVY = frozenset(
    (
        *("aiohttp", "aiolimiter", "asyncio", "email", "importlib.metadata", "matplotlib"),
        *(
            "cyclopts",
            "rich",
            "msgspec",
            "multiprocessing",
            "numpy",
            "pyarrow",
            "sqlite3",
            "ssl",
            "yarl",
        ),
    )
)
SCRIPT = """
import io, json, os, sys
from contextlib import redirect_stdout
sys.argv = ["binance-oi", *sys.argv[1:]]
from binance_oi.__main__ import main
with redirect_stdout(io.StringIO()):
    code = main()
print(json.dumps([code, sorted(sys.modules)]))
"""
COMMANDS = [name for name in app if not name.startswith("-")]


def imported(*arguments: str) -> set[str]:
    """The heavy modules that a command has imported when it succeeds."""
    command = [sys.executable, "-c", SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout)
    assert code == 0
    return {name for name in modules if name in HEAVY}


def test_the_version_command_imports_no_heavy_module() -> None:
    assert imported("--version") == set()


@pytest.mark.parametrize("name", ["", "record", "get", *thorough(*COMMANDS)])
def test_help_imports_only_cyclopts_and_rich(name: str) -> None:
    assert imported(*name.split(), "--help") == {"cyclopts", "rich"}


def test_the_budget_command_imports_neither_the_client_nor_asyncio() -> None:
    assert imported("budget") == {"cyclopts", "rich", "msgspec"}


@pytest.mark.parametrize("name", ["backup", *thorough("export", "report")])
def test_commands_that_read_a_recording_import_neither_the_client_nor_asyncio(
    name: str, tmp_path: Path
) -> None:
    path = write_recording(tmp_path / "oi.db")
    target = {"backup": "copy.db", "export": "oi.csv", "report": "oi.html"}[name]
    found = imported(name, str(path), "--to", str(tmp_path / target))
    assert found == {"cyclopts", "rich", "msgspec", "sqlite3"}


def test_commands_that_read_the_exchange_import_neither_recordings_nor_charts() -> None:
    assert not imported("get", "BTCUSDT", "--simulated") & {"sqlite3", "pyarrow", "matplotlib"}
