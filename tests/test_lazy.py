"""Each public name is imported at its first use, from the module that a type checker sees."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import binance_oi
from binance_oi.lazy import on_first_use

PACKAGE = Path(binance_oi.__file__).parent
LAZY = {
    "binance_oi": "__init__.py",
    "binance_oi.recorder": "recorder/__init__.py",
    "binance_oi.testing": "testing/__init__.py",
}


def seen_by_a_type_checker(package: str) -> Iterator[tuple[str, str]]:
    """Each name that a package imports under `TYPE_CHECKING`, with its module."""
    tree = ast.parse((PACKAGE / LAZY[package]).read_text("utf-8"))
    for block in (node for node in tree.body if isinstance(node, ast.If)):
        for node in ast.walk(block):
            if isinstance(node, ast.ImportFrom):
                yield from ((alias.name, str(node.module)) for alias in node.names)


@pytest.mark.parametrize("package", LAZY)
def test_each_lazy_name_is_the_one_that_a_type_checker_sees(package: str) -> None:
    names = dict(seen_by_a_type_checker(package))
    source = "import importlib, sys; package = importlib.import_module(sys.argv[1])"
    check = "assert getattr(package, name) is getattr(importlib.import_module(home), name), name"
    loop = f"for name, home in {list(names.items())!r}:\n    {check}"
    script = f"{source}\nassert set(package.__all__) <= {set(names)!r} | set(vars(package))\n{loop}"
    done = subprocess.run([sys.executable, "-c", script, package], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("package", LAZY)
def test_importing_a_package_imports_none_of_its_parts(package: str) -> None:
    script = "import importlib, sys; importlib.import_module(sys.argv[1]); print(*sys.modules)"
    command = [sys.executable, "-c", script, package]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ours = {name for name in done.stdout.split() if name.startswith("binance_oi")}
    assert ours == {"binance_oi", "binance_oi.lazy", "binance_oi.version", package}


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="'binance_oi' has no attribute 'Nonsense'"):
        binance_oi.Nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_modules_and_folders_are_attributes_as_after_an_import() -> None:
    find = on_first_use("binance_oi", {"exchange.hosts": ("PRODUCTION",)})
    assert find("exchange") is sys.modules["binance_oi.exchange"]
    assert find("PRODUCTION") == binance_oi.PRODUCTION


def test_dir_lists_the_public_names() -> None:
    assert set(binance_oi.__all__) <= set(dir(binance_oi))
