"""A file gets its name only when it is complete; later writes remove what killed writes left."""

import os
import secrets
import signal
import stat
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from binance_oi import OpenInterest, RecordingError
from binance_oi.output.export import export
from binance_oi.output.report import write_report
from binance_oi.recorder import Recording, atomic
from binance_oi.recorder.atomic import (
    PREFIX,
    SUFFIX,
    OvertakenError,
    check_place,
    remove_stale,
    replace_atomically,
)
from binance_oi.recorder.store import Store
from support import SUPPORT
from support.lanes import some, thorough
from support.recorded import BEGIN, sweep, write_recording

EXPORTING = SUPPORT / "exporting_process.py"
BEGIN_MS = round(BEGIN.timestamp() * 1000)
STALE = f"{PREFIX}{'0' * 16}{SUFFIX}"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs locks and signals of POSIX")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "oi.db")


@contextmanager
def exporting(recording: Path, target: Path) -> "Generator[subprocess.Popen[str]]":
    """Run an export, which waits as soon as it has begun to write a file."""
    command = [sys.executable, str(EXPORTING), "export", str(recording), "--to", str(target)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            yield process
        finally:
            process.kill()


def unfinished(directory: Path) -> list[Path]:
    return sorted(directory.rglob(".*"))


def test_a_file_gets_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replace_atomically(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    with replace_atomically(path) as file:
        file.write(b"two")
        file.flush()
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def write() -> None:
        with replace_atomically(path) as file:
            file.write(b"half")
            Path(f"{file.name}-journal").touch()  # as SQLite does
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("letter", ["x", "\u5e01"])
def test_an_output_may_have_the_longest_possible_name(
    recording: Path, tmp_path: Path, letter: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def longest(ending: str) -> Path:
        count, rest = divmod(255 - len(ending), len(letter.encode()))
        return out / f"{letter * count}{'x' * rest}{ending}"

    paths = [longest(ending) for ending in (".csv", ".jsonl", ".html")]
    with Recording(recording) as opened:
        for _ in range(2):  # the second time, the file exists
            for path in paths[:2]:
                assert export(opened, path, replace=True) == 8
            write_report(opened, paths[2])
        with pytest.raises(RecordingError, match="File name too long"):
            export(opened, out / f"x{paths[0].name}")
        with pytest.raises(RecordingError, match="File name too long"):
            write_report(opened, out / f"x{paths[2].name}")
    assert sorted(out.iterdir()) == sorted(paths)


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replace_atomically(tmp_path / "file"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_the_contents_are_synced_to_disk_before_the_file_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def synced(fd: int) -> None:
        done.append(("sync", os.fstat(fd).st_ino))
        fsync(fd)

    def renamed(before: str, after: Path) -> None:
        done.append(("rename", os.stat(before).st_ino))
        replace(before, after)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with replace_atomically(tmp_path / "file") as file:
        file.write(b"x")
    inode = (tmp_path / "file").stat().st_ino
    assert done == [("sync", inode), ("rename", inode), ("sync", tmp_path.stat().st_ino)]


def test_a_killed_export_leaves_one_file_until_the_next_write_into_the_directory(
    recording: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "oi.csv").write_text("symbol,time,open_interest,received,mark_price\n")
    with exporting(recording, out / "oi.csv") as process:
        process.kill()
        process.wait()
    assert len(unfinished(out)) == 1
    assert (out / "oi.csv").read_text() == "symbol,time,open_interest,received,mark_price\n"
    with Recording(recording) as opened:
        write_report(opened, out / "other.html")
    assert sorted(path.name for path in out.iterdir()) == ["oi.csv", "other.html"]


@pytest.mark.thorough
def test_the_next_export_by_day_cleans_up_days_that_it_does_not_write(
    recording: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    with exporting(recording, tmp_path / "out") as process:
        process.kill()
        process.wait()
    (left,) = unfinished(tmp_path / "out")
    assert left.parent.name == "date=2026-11-23"
    assert [path for path in left.parent.iterdir() if path != left] == []
    with Recording(recording) as opened:
        (_, last) = opened.span() or pytest.fail("the recording is empty")
        export(opened, tmp_path / "out", since=last.replace(hour=0, minute=0))
    assert unfinished(tmp_path / "out") == []


def test_an_export_without_new_rows_removes_files_of_a_killed_export(
    recording: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with Recording(recording) as opened:
        assert export(opened, out / "oi.csv") == 8
        (out / STALE).touch()
        assert export(opened, out / "oi.csv") == 0
    assert [path.name for path in out.iterdir()] == ["oi.csv"]


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))  # bytes; to read, SQLite needs less
from binance_oi.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("target", ["oi.csv", *thorough("oi.jsonl", "oi.parquet", "days")])
def test_a_failed_export_keeps_the_existing_files(tmp_path: Path, target: str) -> None:
    if target in ("oi.parquet", "days"):
        pytest.importorskip("pyarrow")
    out, random, seen = tmp_path / "out", Random(12), sweep(0)
    out.mkdir()
    values = {
        name: OpenInterest(name, Decimal(random.getrandbits(100)).scaleb(-15), BEGIN_MS + number)
        for number, name in enumerate(f"S{number:04}" for number in range(3000))
    }  # random, because Parquet would compress regular values too well
    with closing(Store(tmp_path / "oi.db")) as store:
        store.save(replace(seen, values_by_symbol=values, mark_prices={}), [], 60_000)
        with Recording(tmp_path / "oi.db") as recording:
            assert export(recording, out / target, symbols=["S0000", "S2999"]) == 2
            before = {path: path.is_file() and path.read_bytes() for path in out.rglob("*")}
            command = [sys.executable, "-c", FULL_DISK, "export", str(tmp_path / "oi.db")]
            done = subprocess.run(
                [*command, "--to", str(out / target)], capture_output=True, text=True
            )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"binance-oi: {out / target} cannot be written: File too large\n"
    assert {path: path.is_file() and path.read_bytes() for path in out.rglob("*")} == before


@pytest.mark.thorough
@pytest.mark.parametrize(
    "number, code",
    some([(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], always=1),
)
@pytest.mark.parametrize("name", ["oi.csv", *thorough("new_directory")])
def test_an_interrupted_or_terminated_export_leaves_no_file(
    recording: Path, tmp_path: Path, number: signal.Signals, code: int, name: str
) -> None:
    if name == "new_directory":
        pytest.importorskip("pyarrow")
    out = tmp_path / "out"
    out.mkdir()
    with exporting(recording, out / name) as process:
        process.send_signal(number)
        _, stderr = process.communicate(timeout=300.0)
    assert process.returncode == code
    assert "Traceback" not in stderr
    assert list(out.rglob("*")) == []


@pytest.mark.thorough
def test_an_unfinished_file_of_a_running_process_is_not_removed(
    recording: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with exporting(recording, out / "oi.csv") as process:
        with replace_atomically(out / "other"):
            remove_stale(out)
            assert len(unfinished(out)) == 2
        _, stderr = process.communicate(timeout=300.0)
    assert (process.returncode, "8 rows written" in stderr) == (0, True)
    assert sorted(path.name for path in out.iterdir()) == ["oi.csv", "other"]


def test_only_our_own_files_are_removed_as_stale(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"stays")
    others = (f"{STALE}x", STALE.replace("0", "g", 1), STALE[1:], f"x{STALE}", f"{PREFIX}{SUFFIX}")
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / STALE.replace("0", "1")).symlink_to(victim)
    (tmp_path / STALE.replace("0", "2")).mkdir()
    os.mkfifo(tmp_path / STALE.replace("0", "3"))
    before = sorted(tmp_path.iterdir())
    (tmp_path / STALE).touch()
    (tmp_path / f"{STALE}-journal").touch()
    remove_stale(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert victim.read_bytes() == b"stays"
    remove_stale(tmp_path / "nowhere")


def test_a_planted_link_at_the_unfinished_name_is_not_followed(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, target = tmp_path / "victim", tmp_path / "report.html"
    victim.write_bytes(b"stays")
    # An earlier version used this predictable name. Today's name is random, so the test
    # sets it below.
    (tmp_path / f".report.html.{os.getpid()}").symlink_to(victim)
    with Recording(recording) as opened:
        write_report(opened, target)
        assert victim.read_bytes() == b"stays"
        monkeypatch.setattr(secrets, "token_hex", lambda _: "0" * 16)
        (tmp_path / STALE).symlink_to(victim)
        with pytest.raises(RecordingError, match="cannot be written: File exists"):
            write_report(opened, target)
    assert victim.read_bytes() == b"stays"
    assert (tmp_path / STALE).is_symlink()


def test_a_link_at_the_target_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"stays")
    (tmp_path / "file").symlink_to(tmp_path / "victim")
    with replace_atomically(tmp_path / "file") as file:
        file.write(b"new")
    assert (tmp_path / "victim").read_bytes() == b"stays"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("removed", [True, False])
def test_a_file_that_is_removed_before_it_is_locked_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    fcntl, opener, fds = pytest.importorskip("fcntl"), atomic._opener, list[int]()

    def overtaken(name: str, flags: int) -> int:
        """At the first attempt, act as a process that removes the unlocked file as stale."""
        fd = opener(name, flags)
        if not fds:
            fds.append(os.open(name, os.O_RDWR))
            fcntl.flock(fds[0], fcntl.LOCK_EX)
            os.unlink(name)
            if removed:
                os.close(fds[0])
        return fd

    monkeypatch.setattr(atomic, "_opener", overtaken)
    with replace_atomically(tmp_path / "file") as file:
        file.write(b"x")
    if not removed:
        os.close(fds[0])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"x"


def test_a_file_that_another_process_made_in_the_meantime_is_kept(tmp_path: Path) -> None:
    with pytest.raises(OvertakenError), replace_atomically(tmp_path / "file", lambda: False):
        (tmp_path / "file").write_bytes(b"theirs")
    assert (tmp_path / "file").read_bytes() == b"theirs"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_foreign_lock_on_the_directory_does_not_block_a_write(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    fd = os.open(tmp_path, os.O_RDONLY)  # `flock DIRECTORY binance-oi ...` has such a lock
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with replace_atomically(tmp_path / "file") as file:
            file.write(b"x")
    finally:
        os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"x"


def test_a_directory_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), replace_atomically(tmp_path):
        pytest.fail("the block must not run")


def test_devices_pipes_and_sockets_are_refused_as_targets(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.html")
    (tmp_path / "null.html").symlink_to(os.devnull)
    (tmp_path / "devices").symlink_to("/dev")
    places = [tmp_path / "pipe.html", tmp_path / "null.html", tmp_path / "devices" / "new.html"]
    for path in (*places, *map(Path, ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"))):
        with pytest.raises(RecordingError, match="so no file can replace it"):
            check_place(path)
    check_place(tmp_path / "file")
    check_place(tmp_path)
    check_place(tmp_path / "nowhere" / "file")
