"""The switches of `nox -s ablation` match the source that they switch off.

Rule of this file: it runs no simulation. A switch that no longer matches would measure nothing.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

import binance_oi
from simulation.switches import SWITCHES, Switch
from support.lanes import some

PACKAGE = Path(binance_oi.__file__).parent


@cache
def shape(source: str) -> str:
    return ast.dump(ast.parse(source))


@pytest.mark.parametrize("switch", some(SWITCHES, always=9), ids=lambda switch: switch.name)
def test_each_switch_changes_exactly_one_place_and_leaves_valid_python(switch: Switch) -> None:
    source = (PACKAGE / switch.module).read_text("utf-8")
    assert source.count(switch.old) == 1
    changed = source.replace(switch.old, switch.new)
    assert shape(changed) != shape(source)


def test_every_switch_has_its_own_name() -> None:
    assert len({switch.name for switch in SWITCHES}) == len(SWITCHES)
