"""Runs a command, kills it at random moments, and runs it again: `python killed_runs.py JSON`.

Rule of this file: it imports the program once, and forks a child for each run. A child is a real
process with real files and sockets. The first run is undisturbed. In each later run, the program
sends SIGKILL to a child at a random moment within the duration of the first run. Then another child
works to the end in the same directory. For each run, the program prints a line of JSON: whether
SIGKILL ended a child, the exit code of the last child, and a digest of the output.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from binance_oi.cli import main
from binance_oi.output.export import export
from binance_oi.recorder import Recording


def start(arguments: list[str], directory: Path) -> int:
    """Begin a run in a child; return its process id."""
    child = os.fork()
    if child:
        return child
    os.environ["BINANCE_OI_BUDGET_DIR"] = str(directory / "budget")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(null, stream)
    error = os.open(directory / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(error, 2)
    code = 99
    try:
        code = main([word.format(dir=directory) for word in arguments])
    finally:
        os._exit(code)


def finished(child: int) -> int:
    """Wait for the child; return its exit code, negative after a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def digest(directory: Path) -> str:
    """A digest of a run's output: history rows and an export of a recording, and CSV files."""
    found = hashlib.sha256()
    recording = directory / "oi.db"
    if recording.exists():
        with Recording(recording) as opened:
            rows = list(opened.past().rows())
            export(opened, directory / "export.csv")
        assert rows
        found.update(repr(rows).encode())
        found.update((directory / "export.csv").read_bytes())
    for file in sorted((directory / "out").glob("*.csv")):
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()


def run(arguments: list[str], template: Path, to: Path, kill_after: float | None) -> str:
    """In a copy of `template`, kill a run after `kill_after` s if given, then run to the end."""
    shutil.copytree(template, to)
    was_running = False
    if kill_after is not None:
        child = start(arguments, to)
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
        was_running = finished(child) == -signal.SIGKILL
    code = finished(start(arguments, to))
    seen = {"killed": was_running, "code": code, "digest": digest(to)}
    shutil.rmtree(to)
    return json.dumps(seen)


def main_of(asked: dict[str, object]) -> None:
    arguments = [str(word) for word in asked["arguments"]]  # type: ignore[attr-defined]
    draw, directory = random.Random(int(str(asked["seed"]))), Path(str(asked["directory"]))
    began = time.monotonic()
    print(run(arguments, directory / "template", directory / "first", None), flush=True)
    longest, hits = time.monotonic() - began, 0
    while hits < int(str(asked["kills"])):
        seen = run(arguments, directory / "template", directory / "run", draw.uniform(0.0, longest))
        print(seen, flush=True)
        hits += json.loads(seen)["killed"]


if __name__ == "__main__":
    main_of(json.loads(sys.argv[1]))
