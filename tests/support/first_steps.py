"""Runs the page of first steps: `python -m tests.support.first_steps DIRECTORY`.

The directory has only an environment `.venv` with the package and its extras. Every command and
program of the page runs there unchanged, with an empty home directory.

Rule of this file: it imports nothing from the package, and changes no word of the page. It skips
the block that makes the environment, because the directory has one.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from support.blocks import python_blocks, shape, shell_blocks

PAGE = Path(__file__).resolve().parents[2] / ".docs" / "first-steps.md"
SAVED = re.compile(r"`(\w+\.py)`, and run it with `(python \1)`")


def run(directory: Path, home: str, command: str) -> str:
    """Run a command in the environment, and return its output. If it fails, exit with an error."""
    print(f"$ {command.strip()}", flush=True)
    environment = {"HOME": home, "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    done = subprocess.run(
        ["sh", "-e", "-c", f". .venv/bin/activate\n{command}"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
    )
    print(done.stdout, end="", flush=True)
    if done.returncode or "Traceback" in done.stderr:
        sys.exit(f"ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def follow(directory: Path, text: str) -> int:
    """Run all blocks of the page but the one that makes the environment; return their number."""
    programs, names = python_blocks(PAGE.name, text), SAVED.findall(text)
    commands = [block for block in shell_blocks(text) if "-m venv" not in block]
    if len(programs) != len(names) or not commands:
        sys.exit("the page does not say how to run some program, or has no command")
    with tempfile.TemporaryDirectory() as home:
        for block in commands:
            if not run(directory, home, block):
                sys.exit("the command printed nothing")
        for program, (name, command) in zip(programs, names, strict=True):
            (directory / name).write_text(program.source, encoding="utf-8")
            found = run(directory, home, command)
            if shape(found) != shape(program.output or ""):
                sys.exit(f"the page says:\n{program.output}")
    return len(commands) + len(programs)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.first_steps")
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    print(follow(directory, PAGE.read_text(encoding="utf-8")), "blocks of the first steps")


if __name__ == "__main__":
    main()
