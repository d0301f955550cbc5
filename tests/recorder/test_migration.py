"""Migration from version 2 or 3 to the newest version is all or nothing, and changes no row.

Rule of this file: an older file has the schema that the earlier program made.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from binance_oi import RecordingError
from binance_oi.output.export import export
from binance_oi.recorder import Recording
from binance_oi.recorder.schema import VERSION
from binance_oi.recorder.store import Store
from support import TESTS
from support.recorded import sweep, write_recording
from support.version_2 import VERSION_2
from support.version_3 import VERSION_3

PERIOD = 60_000
TABLES = ("settled", "recent", "sweeps", "gaps")


@pytest.fixture(params=[2, 3])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An older recording: samples in both tables, sweeps, a gap of one symbol and one of all."""
    return older_recording(tmp_path, {2: VERSION_2, 3: VERSION_3}[request.param])


def older_recording(tmp_path: Path, schema: str) -> Path:
    newest, path = write_recording(tmp_path / "newest.db"), tmp_path / "oi.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(schema)
        connection.execute("ATTACH ? AS newest", (str(newest),))
        for table in TABLES:
            connection.execute(f"INSERT INTO {table} SELECT * FROM newest.{table}")
        early = "SELECT symbol, time FROM recent ORDER BY time LIMIT 3"
        connection.execute(
            f"INSERT INTO settled SELECT * FROM recent WHERE (symbol, time) IN ({early})"
        )
        connection.execute(f"DELETE FROM recent WHERE (symbol, time) IN ({early})")
        connection.commit()
        connection.execute("DETACH newest")
    newest.unlink()
    return path


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {
            t: connection.execute(f"SELECT * FROM {t}").fetchall() for t in (*TABLES, "samples")
        }


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def exported(path: Path) -> bytes:
    with Recording(path) as recording:
        export(recording, path.with_name("oi.csv"))
    return path.with_name("oi.csv").read_bytes()


def test_a_reader_migrates_nothing_and_a_recorder_migrates_without_changing_rows(
    path: Path,
) -> None:
    before, text = rows(path), exported(path)
    assert {table: len(found) for table, found in before.items()} == {
        "settled": 3, "recent": 5, "sweeps": 3, "gaps": 2, "samples": 8
    }  # fmt: skip
    was = version(path)
    with Recording(path) as recording:
        assert recording.source == (None if was == 2 else "local")
        assert recording.missed() == 2
        assert list(recording.past()) == []
    assert version(path) == was < VERSION
    Store(path, "local").close()
    assert (version(path), rows(path), exported(path)) == (VERSION, before, text)
    with Recording(path) as recording:
        assert recording.source == "local"  # a file of version 2 had none before
    with closing(Store(path, "local")) as opened:
        opened.save(sweep(5), [], PERIOD)
    assert exported(path) != text


def test_an_open_reader_continues_during_the_migration(path: Path) -> None:
    with Recording(path) as recording:
        before = list(recording.samples())
        with closing(Store(path, "local")) as store:
            store.save_past([("BTCUSDT", 300_000, 1, "5", None, None)])
        assert list(recording.samples()) == before
        assert [each.time for each in recording.past()] == [300_000]
        assert recording.source == "local"


def test_a_migrated_file_without_a_source_takes_that_of_the_next_recorder(tmp_path: Path) -> None:
    path = older_recording(tmp_path, VERSION_2)
    Store(path).close()
    with Recording(path) as recording:
        assert recording.source is None
    Store(path, "local").close()
    with pytest.raises(RecordingError, match=r"oi\.db is a recording of local, and not of testnet"):
        Store(path, "testnet")


KILLED = """
import os, shutil, sys
from pathlib import Path
from sqlite3 import connect
from binance_oi.recorder import store
from support.killing import kill_at_statement

original, path = Path(sys.argv[1]), Path(sys.argv[2])

def open_until(number):
    kill_at_statement(number)
    opened = store.Store(path, "local")
    opened.tidy()
    opened.close()

for number in range(1000):
    for file in path.parent.glob(path.name + "*"):
        file.unlink()
    shutil.copy(original, path)
    child = os.fork()
    if not child:
        open_until(number)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    with connect(path) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (check,) = connection.execute("PRAGMA integrity_check").fetchone()
        order = "ORDER BY 1, 2"
        tables = [connection.execute(f"SELECT * FROM {t} {order}").fetchall() for t in sys.argv[3:]]
        source = connection.execute("SELECT value FROM about").fetchall() if version > 2 else []
    connection.close()
    print(os.WIFSIGNALED(status), version, source, check, hash(repr(tables)), flush=True)
    if not os.WIFSIGNALED(status):
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_kill_9_during_a_migration_leaves_either_version_with_all_rows(
    path: Path,
) -> None:
    was = str(version(path))
    original = shutil.copy(path, path.with_name("original.db"))
    command = [sys.executable, "-c", KILLED, str(original), str(path), *TABLES[2:], "samples"]
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=env, cwd=TESTS, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    killed = [line for line in lines if line[0] == "True"]
    assert len(lines) == len(killed) + 1 > 20
    states = {(number, rest) for _, number, rest in lines}
    assert {number for number, _ in states} == {was, str(VERSION)}
    assert len(states) == 2  # each version has only one state of the rows
    assert len({rest.split(" ok ")[1] for _, rest in states}) == 1  # the same rows in both
    assert all(rest.startswith("[('local',)]") for number, rest in states if number == str(VERSION))
