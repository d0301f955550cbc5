"""Separates cases that always run from those that only `nox -s thorough` runs.

Rule of this file: each test keeps at least one case that always runs.
"""

from collections.abc import Sequence

import pytest


def thorough(*cases: object) -> list[object]:
    """Mark cases that only `nox -s thorough` runs; a tuple is a row of several arguments."""
    rows = (case if type(case) is tuple else (case,) for case in cases)
    return [pytest.param(*row, marks=pytest.mark.thorough) for row in rows]


def some(cases: Sequence[object], always: int) -> list[object]:
    """All `cases`; as many as `always`, evenly spread, also run without `nox -s thorough`."""
    chosen = {len(cases) * number // always for number in range(always)}
    return [case if number in chosen else thorough(case)[0] for number, case in enumerate(cases)]
