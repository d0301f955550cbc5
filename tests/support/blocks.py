"""Reads the fenced blocks of a page, and compares a program's output with a block.

Rule of this file: a block is the text that a reader copies. Outputs may differ in numbers and in
column widths, but not in words.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

PYTHON = re.compile(
    r"^```python\n(?P<source>.*?)^```\n(?:\s*^```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:[.,:_T+-]*\d+)*Z?")  # such as 1_000 or 2026-11-23T12:00:00Z
GAP = re.compile(r"[ \t]+")


class Block(NamedTuple):
    """A program, and its output according to the page."""

    page: str
    line: int
    source: str
    output: str | None


def python_blocks(page: str, text: str) -> list[Block]:
    return [
        Block(page, text.count("\n", 0, found.start()) + 2, found["source"], found["output"])
        for found in PYTHON.finditer(text)
    ]


def shell_blocks(text: str) -> Iterator[str]:
    return (found[1] for found in SHELL.finditer(text))


def shape(output: str) -> str:
    """The output with `#` for each number, and with one space for each gap in a line."""
    lines = (GAP.sub(" ", NUMBER.sub("#", line)).rstrip() for line in output.strip().splitlines())
    return "\n".join(lines)
