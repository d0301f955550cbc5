"""Separates cases that always run from those that only `nox -s thorough` runs.

Rule of this file: each test keeps at least one case that always runs.
"""

from collections.abc import Sequence

import pytest


def thorough(*cases: object) -> list[object]:
    """Mark cases so that only `nox -s thorough` runs them; a tuple has several arguments."""
    rows = (case if type(case) is tuple else (case,) for case in cases)
    return [pytest.param(*row, marks=pytest.mark.thorough) for row in rows]


def some(cases: Sequence[object], always: int) -> list[object]:
    """Return `cases`; mark all for `nox -s thorough` except `always` evenly spread ones."""
    chosen = {len(cases) * number // always for number in range(always)}
    return [case if number in chosen else thorough(case)[0] for number, case in enumerate(cases)]
