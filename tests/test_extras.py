"""The error for a missing library has the command that installs it."""

import re
from email.message import Message
from importlib import metadata

import pytest

from binance_oi import extras
from binance_oi.extras import command, library


def test_the_install_command_names_our_package_with_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = Message()
    for extra in ("cli", "parquet"):
        found["Provides-Extra"] = extra
    monkeypatch.setattr(metadata, "metadata", lambda name: found)
    assert command("cli", "cyclopts", "rich") == "pip install 'binance-oi[cli]'"
    assert command("parquet") == "pip install 'binance-oi[parquet]'"
    assert command("absent", "polars") == "pip install 'polars'"


@pytest.mark.parametrize("extra", ["cli", "parquet", "plot", "postgres", "redis"])
def test_the_install_command_knows_every_extra_of_the_installed_package(extra: str) -> None:
    assert command(extra) == f"pip install 'binance-oi[{extra}]'"


def test_a_package_that_is_not_installed_names_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "DISTRIBUTION", "no-such-distribution")
    assert command("cli", "cyclopts", "rich") == "pip install 'cyclopts' 'rich'"


def test_a_missing_library_raises_an_error_with_the_install_command() -> None:
    said = re.escape("this needs no_such_library: pip install 'no_such_library'")
    with pytest.raises(ModuleNotFoundError, match=said) as caught:
        library("no_such_library.part", "no-such-extra")
    assert caught.value.name == "no_such_library"
