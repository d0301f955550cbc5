"""The error for a missing library has the command that installs it."""

import re
from importlib import metadata

import pytest

from binance_oi import extras
from binance_oi.extras import command, library


def test_the_install_command_names_the_libraries_of_the_extra_and_not_our_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [
        "aiohttp<4,>=3.14.4",
        "cyclopts>=5; extra == 'cli'",
        'rich>=14; python_version < "4" and extra == "cli"',
        "pyarrow>=18; extra == 'parquet'",
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: found)
    assert command("cli") == "pip install 'cyclopts>=5' 'rich>=14'"
    assert command("parquet") == "pip install 'pyarrow>=18'"
    assert command("absent", "polars") == "pip install 'polars'"


def test_a_package_that_is_not_installed_names_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "DISTRIBUTION", "no-such-distribution")
    assert command("cli", "cyclopts", "rich") == "pip install 'cyclopts' 'rich'"


def test_a_missing_library_raises_an_error_with_the_install_command() -> None:
    said = re.escape("this needs no_such_library: pip install 'no_such_library'")
    with pytest.raises(ModuleNotFoundError, match=said) as caught:
        library("no_such_library.part", "no-such-extra")
    assert caught.value.name == "no_such_library"
