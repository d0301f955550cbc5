"""Under every fault, a call ends with the right value or with one of our exceptions.

Rule of this file: the faults are data in `faults.table`, and one set of rules checks all of them.
"""

import asyncio
import importlib
import os
from collections.abc import Callable

import pytest

from faults.doors import Plain
from faults.rules import WAYS, Fault, check_fault
from faults.table import faults
from support.lanes import some
from support.virtual_clock import VirtualLoop


def _loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return `new_event_loop` of the module that `BINANCE_OI_LOOP` names, or a virtual loop."""
    name = os.environ.get("BINANCE_OI_LOOP")
    if name is None:
        return VirtualLoop
    factory = importlib.import_module(name).new_event_loop
    assert callable(factory)
    return factory  # type: ignore[no-any-return]


FAULTS = faults()
WAY = os.environ.get("BINANCE_OI_WAY", WAYS[0])


@pytest.mark.parametrize("fault", some(FAULTS, always=40), ids=lambda fault: fault.name)
def test_every_fault_ends_in_a_value_or_one_of_our_exceptions(fault: Fault) -> None:
    with asyncio.Runner(loop_factory=_loop()) as runner:
        runner.run(check_fault(fault, WAY))


@pytest.mark.thorough
@pytest.mark.parametrize("way", WAYS[1:])
def test_the_rules_hold_with_every_kind_of_session(way: str) -> None:
    # All faults behind a door that is not plain, and a few others; `nox -s faults` runs all.
    for fault in [fault for fault in FAULTS if fault.door != Plain()] + FAULTS[::60]:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(check_fault(fault, way))


def test_the_table_has_more_than_400_faults() -> None:
    assert len(FAULTS) > 400
