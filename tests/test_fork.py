"""`fork` distinguishes a child from its parent, and works on a system without forks."""

import importlib.util
import os

import pytest

from binance_oi import fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_changes_the_process_only_in_the_child() -> None:
    before = fork.current
    child = os.fork()
    if child == 0:
        os._exit(fork.current is before)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert fork.current is before


def test_the_module_works_on_a_system_without_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    spec = importlib.util.spec_from_file_location("process_without_fork", fork.__file__)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert again.current is not fork.current
