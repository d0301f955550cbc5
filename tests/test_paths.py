"""Each call in `CALLS` accepts a path as text, or as any `os.PathLike` of text."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from binance_oi import MachineBudget, OpenInterestClient, ProcessBudget
from binance_oi.budget import machine_pools
from binance_oi.output import export, plot, write_report
from binance_oi.recorder import Recorder, Recording, Samples
from binance_oi.recorder.tables import ALL_TIME_MS
from support.recorded import write_recording


class Named:
    """A path object of another library, similar to `os.DirEntry`."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __fspath__(self) -> str:
        return self._path


class NamedInBytes(os.PathLike[bytes]):
    def __fspath__(self) -> bytes:
        return b"oi.db"


KINDS = pytest.mark.parametrize("kind", [str, Path, Named])


def recorder(path: Any) -> Recorder:
    return Recorder(OpenInterestClient(budget=ProcessBudget()), path, every=1.0)


CALLS: dict[str, Callable[[Recording, Any], object]] = {
    "machine_budget": lambda _, path: MachineBudget(directory=path),
    "machine_pools": lambda _, path: machine_pools(path),
    "recorder": lambda _, path: recorder(path),
    "recording": lambda _, path: Recording(path),
    "samples": lambda _, path: Samples(path, ("BTCUSDT",), *ALL_TIME_MS),
    "backup": lambda recording, path: recording.backup(path),
    "check_target": lambda recording, path: recording.check_target(path),
    "export": export,
    "plot": lambda recording, path: plot(recording, path, ["BTCUSDT"]),
    "report": write_report,
}


@KINDS
def test_a_budget_directory_accepts_every_kind_of_path(
    kind: Callable[[Path], Any], tmp_path: Path
) -> None:
    directory = tmp_path / "budgets"
    budget = MachineBudget(directory=kind(directory))
    budget.pool("a pool").hold(60.0)
    budget.close()
    assert machine_pools(kind(directory))["a pool"].held_until is not None
    assert {path.parent for path in directory.iterdir()} == {directory}


def test_a_relative_directory_is_resolved_once_and_not_after_chdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    budget = MachineBudget(directory="budgets")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    budget.pool("a pool").hold(60.0)
    budget.close()
    assert "a pool" in machine_pools(tmp_path / "budgets")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("call", ["machine_budget", "machine_pools"])
def test_an_impossible_directory_is_refused_before_the_first_request(
    call: str, tmp_path: Path
) -> None:
    with (
        Recording(write_recording(tmp_path / "oi.db")) as recording,
        pytest.raises(ValueError, match=r"^directory must be a path: "),
    ):
        CALLS[call](recording, "a\0b")


@KINDS
def test_outputs_of_a_recording_accept_every_kind_of_path(
    kind: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = write_recording(tmp_path / "oi.db")
    names = [f"x.{ending}" for ending in ("db", "csv", "svg", "html")]
    copy, table, chart, page = (tmp_path / name for name in names)
    with Recording(kind(path)) as recording:
        recording.check_target(kind(copy))
        recording.backup(kind(copy))
        export(recording, kind(table))
        plot(recording, kind(chart), ["BTCUSDT"])
        write_report(recording, kind(page))
    assert all(made.stat().st_size for made in (copy, table, chart, page))
    assert list(Samples(kind(copy), ("BTCUSDT",), *ALL_TIME_MS))
    assert recorder(kind(path)).path == path


@pytest.mark.parametrize("call", CALLS)
def test_a_path_that_is_not_text_is_a_type_error(call: str, tmp_path: Path) -> None:
    with Recording(write_recording(tmp_path / "oi.db")) as recording:
        for path in (b"oi.db", NamedInBytes(), 7, 1.5, ["oi.db"]):
            with pytest.raises(TypeError, match=r"^(directory|target|path) must be "):
                CALLS[call](recording, path)


@pytest.mark.parametrize("call", CALLS)
def test_an_empty_path_never_means_the_current_directory(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    with Recording(write_recording(tmp_path / "oi.db")) as recording:
        monkeypatch.chdir(tmp_path / "here")
        with pytest.raises(ValueError, match=r"^(directory|target|path) must be a path: ''$"):
            CALLS[call](recording, "")
    assert not list((tmp_path / "here").iterdir())
