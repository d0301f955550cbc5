"""README.md is true: its Python runs, prints what it says, and its commands are the ones CI runs.

Every ```python block runs as it stands, alone, against a local exchange that replaces the
default `base_url`. A block may `await` at its top level, as `python -m asyncio` allows; it runs on
the virtual clock, where no slot is missed however busy the machine is. A ```text block right after
it is what it prints, with any numbers.
"""

import ast
import asyncio
import inspect
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import pytest

from binance_oi import OpenInterestClient
from binance_oi.recorder import Recorder
from binance_oi.simulator import LocalExchange
from support import virtual_clock
from support.default_clocks import replace_default_clocks
from support.virtual_clock import wall_time

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"

PYTHON = re.compile(
    r"^```python\n(?P<source>.*?)^```\n(?:\s*^```(?:text|json|jsonl)\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
VENV_COMMAND = re.compile(r"^\s*(?:\$ )?(python3 -m venv .*)$", re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:[.,:_T+-]*\d+)*Z?")  # also 1_000, 12:00:00, 2026-11-23T12:00:00Z
GAP = re.compile(r"[ \t]+")


class Block(NamedTuple):
    line: int
    source: str
    output: str | None


def python_blocks(text: str) -> list[Block]:
    return [
        Block(text.count("\n", 0, found.start()) + 2, found["source"], found["output"])
        for found in PYTHON.finditer(text)
    ]


def shape(output: str) -> str:
    """Output without its numbers and column widths."""
    lines = (GAP.sub(" ", NUMBER.sub("#", line)).rstrip() for line in output.strip().splitlines())
    return "\n".join(lines)


def compiled(block: Block) -> CodeType:
    """The block's code, with the README's own line numbers in its tracebacks."""
    source = "\n" * (block.line - 1) + block.source
    code: CodeType = compile(source, str(README), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return code


def run(code: CodeType, around: AbstractAsyncContextManager[object] | None = None) -> None:
    """Run a block; when it awaits, on a virtual loop and inside of `around`."""
    names = {"__name__": "__main__"}
    if code.co_flags & inspect.CO_COROUTINE:

        async def main() -> None:
            async with around or nullcontext():
                await eval(code, names)

        virtual_clock.run(main())
    else:
        exec(code, names)


@asynccontextmanager
async def read_by_default(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[None]:
    """A local exchange on the running loop; a client that names no `base_url` reads from it."""
    async with LocalExchange() as exchange:
        monkeypatch.setitem(_defaults_of_a_client(), "base_url", exchange.url)
        yield


def _defaults_of_a_client() -> dict[str, object]:
    defaults: dict[str, object] = OpenInterestClient.__init__.__kwdefaults__ or {}
    assert {"base_url", "timeout"} <= defaults.keys()
    return defaults


@pytest.fixture
def virtual_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the clock of the running loop the default clock."""
    changed = replace_default_clocks(
        monkeypatch, steady=lambda: asyncio.get_running_loop().time(), wall=wall_time
    )
    assert {cls.__init__.__qualname__ for cls in (LocalExchange, Recorder)} <= set(changed)


@pytest.fixture
def local_exchange(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An exchange in a thread, in real time, for a block that has an event loop of its own."""
    monkeypatch.chdir(tmp_path)  # a block may write files
    with LocalExchange().in_thread() as exchange:
        monkeypatch.setitem(_defaults_of_a_client(), "base_url", exchange.url)
        monkeypatch.setitem(_defaults_of_a_client(), "timeout", 600.0)  # of a busy machine
        yield


@pytest.mark.usefixtures("local_exchange")
@pytest.mark.parametrize(
    "block", python_blocks(README.read_text(encoding="utf-8")), ids=lambda b: f"line_{b.line}"
)
def test_a_block_of_the_readme_runs_and_prints_what_it_says(
    block: Block, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    code, monkeypatch = compiled(block), request.getfixturevalue("monkeypatch")
    if code.co_flags & inspect.CO_COROUTINE:
        request.getfixturevalue("virtual_clocks")
    run(code, read_by_default(monkeypatch))
    if block.output is not None:
        assert shape(capsys.readouterr().out) == shape(block.output)


def test_the_readme_shows_an_example_with_its_output() -> None:
    blocks = python_blocks(README.read_text(encoding="utf-8"))
    assert [block for block in blocks if block.output]


def test_the_commands_of_the_readme_are_those_that_ci_runs() -> None:
    ci = ROOT / ".ci" / "run"
    shown = VENV_COMMAND.findall(README.read_text(encoding="utf-8"))
    assert len(shown) >= 2
    assert shown == VENV_COMMAND.findall(ci.read_text(encoding="utf-8"))


SAMPLE = """
```python
print("a", 1)
```

```text
a    22.5
```

```sh
$ python3 -m venv .venv && true
```

```python
import asyncio
await asyncio.sleep(0)
print("2026-11-23T12:00:00.5Z")
```
"""


def test_the_parser_finds_blocks_with_their_lines_and_outputs() -> None:
    first, second = python_blocks(SAMPLE)
    assert (first.line, first.output) == (3, "a    22.5\n")
    assert (second.line, second.output) == (15, None)
    assert VENV_COMMAND.findall(SAMPLE) == ["python3 -m venv .venv && true"]


def test_blocks_run_with_and_without_await(capsys: pytest.CaptureFixture[str]) -> None:
    for block in python_blocks(SAMPLE):
        run(compiled(block))
    assert shape(capsys.readouterr().out) == "a #\n#"


def test_outputs_may_differ_in_numbers_and_not_in_words() -> None:
    assert shape("BTCUSDT  96,012.544\n") == shape("BTCUSDT 7\n")
    assert shape("BTCUSDT 7") != shape("ETHUSDT 7")
