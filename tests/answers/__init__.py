"""Answers of the exchange: some that we wrote, and recorded ones if the checkout has them.

Rule of this folder: it has no recorded file. Field names, header sets, statuses, contract types and
texts are those that the exchange documented or sent by 2026-11-26. Every number, date and id is
made up. A test runs with both kinds. So a checkout without recorded
answers still tests every decoder and the local exchange.
"""

from pathlib import Path

import pytest

__all__ = ["made", "recorded"]

_MADE = Path(__file__).parent
_RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data"


def made(name: str, *expected: object) -> object:
    """A row of a table: the path of a file of this folder, and the expected values."""
    return pytest.param(_MADE / name, *expected, id=name)


def recorded(name: str, *expected: object) -> object:
    """A row of a table: the path of a recorded answer; skipped if the file is missing."""
    path = _RECORDED / name
    reason = f"a recorded answer, not beside this checkout: {path.name}"
    absent = pytest.mark.skipif(not path.is_file(), reason=reason)
    return pytest.param(path, *expected, id=f"recorded/{name}", marks=absent)
