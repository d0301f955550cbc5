"""Programs, commands and links work in README.md, in the list of examples and in `.docs`.

Rule of this file: a ```python block is a script. It runs alone, exactly as pasted into a file, and
reads only a local exchange. A ```text block right after it is its output; numbers may differ.
Scripts run in virtual time, so that a busy machine misses no slot. Some also run in a separate
process.
"""

import ast
import asyncio
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cyclopts import CycloptsError

from binance_oi import OpenInterestClient, errors
from binance_oi.cli import main
from binance_oi.cli.commands import app
from binance_oi.cli.endings import EXIT_CODE_MEANINGS
from binance_oi.cli.options import VARIABLES
from binance_oi.market.gap import REASONS
from binance_oi.recorder import Recorder
from binance_oi.simulator import LocalExchange
from binance_oi.testing import VirtualTime, simulated_client
from support.blocks import Block, python_blocks, shape, shell_blocks
from support.lanes import some

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = ROOT / ".docs"
EXAMPLES = ROOT / "examples"
PAGES = (README, EXAMPLES / "README.md", *sorted(DOCS.glob("*.md")))
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}

LONGEST_README, LONGEST_PARAGRAPH, LONGEST_LINE = 150, 5, 100  # lines, lines, characters
LONGEST_EXAMPLE = 40  # lines
NOWHERE = "http://127.0.0.1:9"  # nothing listens there
ENDLESS = ("record", "watch", "simulate", "serve")  # run until they are stopped: only parsed here

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^binance-oi (.*)$", re.MULTILINE)
INLINE_COMMAND = re.compile(r"`binance-oi ([a-z]+)")
VENV_COMMAND = re.compile(r"^\s*(?:\$ )?(python3 -m venv .*)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
DATE = re.compile(r"\b20\d\d-\d\d")


def is_runnable(block: Block) -> bool:
    """Whether the block's packages are installed. pydantic has no wheels for Python 3.15 yet."""
    return "fastapi" not in block.source or find_spec("fastapi") is not None


def commands(text: str) -> list[list[str]]:
    """The arguments of each `binance-oi` command in the shell blocks of a page."""
    blocks = shell_blocks(text)
    return [shlex.split(line, comments=True) for block in blocks for line in COMMAND.findall(block)]


def without_code(text: str) -> str:
    """A page without its fenced blocks."""
    return FENCED.sub("", text)


def paragraphs(text: str) -> Iterator[list[str]]:
    """The lines of each paragraph and of each list item, without headings and tables."""
    for part in re.split(r"\n\s*\n|\n(?=- )", without_code(text)):
        lines = part.strip("\n").splitlines()
        if lines and not lines[0].startswith(("#", "|")):
            yield lines


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = (re.sub(r"[^\w\- ]", "", title.lower()) for title in HEADING.findall(text))
    return {title.replace(" ", "-") for title in titles}


BLOCKS = [block for page, text in TEXTS.items() for block in python_blocks(page.name, text)]
COMMANDS = {" ".join(found): found for text in TEXTS.values() for found in commands(text)}


RUNNABLE = [block for block in BLOCKS if is_runnable(block)]


def name_of(block: Block) -> str:
    return f"{block.page}:{block.line}"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file into which a block is pasted; the block may write files beside it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pasted.py"


@pytest.mark.parametrize("block", RUNNABLE, ids=name_of)
def test_a_python_block_runs_as_a_script_and_prints_what_the_page_says(
    block: Block, script: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script.write_text(block.source, encoding="utf-8")
    monkeypatch.setitem(_defaults_of_a_client(), "base_url", NOWHERE)  # and not the real exchange
    with VirtualTime().installed(monkeypatch):
        runpy.run_path(str(script), run_name="__main__")
    assert shape(capsys.readouterr().out) == shape(block.output or "")


async def test_the_aiohttp_application_of_the_page_about_web_services_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (block,) = (block for block in BLOCKS if "client_for_life" in block.source)
    names: dict[str, Any] = {"__name__": "pasted"}
    exec(block.source, names)
    async with LocalExchange() as exchange:
        exchange.set_open_interest("BTCUSDT", "7.50")
        monkeypatch.setitem(_defaults_of_a_client(), "base_url", exchange.url)
        monkeypatch.setitem(_defaults_of_a_client(), "timeout", 600.0)
        app: web.Application = names["app"]
        async with TestClient(TestServer(app)) as visitor:
            answer = await visitor.get("/open-interest/BTCUSDT")
            assert (await answer.json())["open_interest"] == "7.50"


def _defaults_of_a_client() -> dict[str, object]:
    defaults: dict[str, object] = OpenInterestClient.__init__.__kwdefaults__ or {}
    assert "base_url" in defaults
    return defaults


@pytest.mark.parametrize("block", some(RUNNABLE, always=1))
def test_a_python_block_runs_in_a_separate_process(block: Block, script: Path) -> None:
    script.write_text(block.source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script.name], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert shape(done.stdout) == shape(block.output or "")


def test_no_python_block_awaits_outside_of_a_coroutine() -> None:
    for block in BLOCKS:
        compile(block.source, name_of(block), "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_language_of_a_block_is_known(page: Path) -> None:
    opened = re.findall(r"^```(.+)$", TEXTS[page], re.MULTILINE)
    assert set(opened) <= {"python", "text", "sh", "diff"}


def test_the_readme_shows_an_example_with_its_output() -> None:
    assert [block for block in BLOCKS if block.page == README.name and block.output]


def test_the_readme_says_how_its_example_becomes_a_client_of_the_real_exchange() -> None:
    (example,) = (block.source for block in BLOCKS if block.page == README.name)
    (change,) = re.findall(r"^```diff\n(.*?)^```$", TEXTS[README], re.MULTILINE | re.DOTALL)
    removed = [line[1:] for line in change.splitlines() if line.startswith("-")]
    added = [line[1:] for line in change.splitlines() if line.startswith("+")]
    for old, new in zip(removed, added, strict=True):
        assert example.count(old) == 1
        example = example.replace(old, new)
    names = {node.id for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Name)}
    assert "OpenInterestClient" in names
    assert "simulated_client" not in names


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_the_program_understands_every_command_of_the_pages(arguments: list[str]) -> None:
    app.parse_args(arguments, exit_on_error=False, print_error=False)


def test_a_wrong_command_in_a_page_is_found() -> None:
    with pytest.raises(CycloptsError):
        app.parse_args(["snapshot", "--nothing"], exit_on_error=False, print_error=False)


def test_every_command_within_a_sentence_or_table_exists() -> None:
    named = {name for text in TEXTS.values() for name in INLINE_COMMAND.findall(text)}
    assert {"record", "budget"} <= named <= set(app)


async def record_once(path: str) -> None:
    async with simulated_client() as client:
        names = ["BTCUSDT", "ETHUSDT"]
        recorder = Recorder(
            client, path, every=1.0, symbols=names, on_sweep=lambda _: recorder.stop()
        )
        await recorder.run()


ENDING = {name: found for name, found in COMMANDS.items() if found[0] not in ENDLESS}


@pytest.mark.parametrize("arguments", ENDING.values(), ids=ENDING)
def test_every_command_of_the_pages_succeeds(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BINANCE_OI_TIMEOUT", "600")  # s, for a busy machine
    monkeypatch.setenv("BINANCE_OI_BASE_URL", NOWHERE)  # and not the real exchange
    with pytest.MonkeyPatch.context() as patch, VirtualTime().installed(patch):
        asyncio.run(record_once("oi.db"))
    assert main(arguments) == 0


def test_the_venv_commands_of_the_readme_are_run_by_ci() -> None:
    ci = ROOT / ".ci" / "run"
    named = VENV_COMMAND.findall(TEXTS[README])
    assert len(named) >= 2
    assert named == VENV_COMMAND.findall(ci.read_text(encoding="utf-8"))


def test_no_command_has_a_fixed_date() -> None:
    dated = [block for text in TEXTS.values() for block in shell_blocks(text)]
    assert dated
    assert not [block for block in dated if DATE.search(block)]


def test_the_readme_is_short() -> None:
    assert len(TEXTS[README].splitlines()) <= LONGEST_README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_and_paragraphs_of_a_page_are_short(page: Path) -> None:
    lines = without_code(TEXTS[page]).splitlines()
    assert [line for line in lines if len(line) > LONGEST_LINE] == []
    assert [found for found in paragraphs(TEXTS[page]) if len(found) > LONGEST_PARAGRAPH] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(without_code(TEXTS[page])):
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert "://" in link or target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_the_readme_links_every_page() -> None:
    links = set(LINK.findall(TEXTS[README]))
    pages = [f".docs/{page.name}" for page in PAGES if page.parent == DOCS]
    assert [link for link in (*pages, "examples/README.md") if link not in links] == []


def test_the_list_of_examples_names_every_example() -> None:
    links = LINK.findall(TEXTS[EXAMPLES / "README.md"])
    assert sorted(links) == sorted(file.name for file in EXAMPLES.glob("*.py"))


def test_the_page_about_errors_names_every_exception() -> None:
    page = TEXTS[DOCS / "errors.md"]
    kinds = [getattr(errors, name) for name in errors.__all__]
    public = {kind.__name__ for kind in kinds if isinstance(kind, type)}
    public -= {"BinanceOIError", "Reason"}
    rows = re.findall(r"^\| `(\w+Error)`", page, re.MULTILINE)
    assert sorted(rows) == sorted(public)


def test_the_page_about_polling_names_every_reason_of_a_gap() -> None:
    page = TEXTS[DOCS / "polling.md"]
    words = {word for _, word in REASONS} | {"overrun", "outage", "late", "clock"}
    words |= {"storage", "stopped"}  # reasons of a recorder
    cells = re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
    assert {word for cell in cells for word in re.findall(r"`(\w+)`", cell)} == words


def test_the_page_about_the_command_line_names_every_exit_code_and_variable() -> None:
    page = TEXTS[DOCS / "command-line.md"]
    cells = re.findall(r"^\| ([\d, ]+) \|", page, re.MULTILINE)
    assert {int(code) for cell in cells for code in cell.split(",")} == EXIT_CODE_MEANINGS.keys()
    assert set(re.findall(r"^\| `--[\w-]+` \| `(\w+)`", page, re.MULTILINE)) == set(VARIABLES)


def test_an_example_is_short() -> None:
    files = sorted((ROOT / "examples").glob("*.py"))
    lengths = {file.name: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_EXAMPLE} == {}


SAMPLE = """
```python
print("a", 1)
```

```text
a    22.5
```

```sh
$ python3 -m venv .venv && true
binance-oi get BTCUSDT # it has ended
```

- one
  two
- three
"""


def test_blocks_are_found_with_their_lines_and_outputs() -> None:
    (block,) = python_blocks("sample", SAMPLE)
    assert (block.line, block.output) == (3, "a    22.5\n")
    assert VENV_COMMAND.findall(SAMPLE) == ["python3 -m venv .venv && true"]
    assert commands(SAMPLE) == [["get", "BTCUSDT"]]


def test_each_list_item_counts_as_a_paragraph() -> None:
    assert list(paragraphs(SAMPLE)) == [["- one", "  two"], ["- three"]]


def test_outputs_may_differ_in_numbers_and_not_in_words() -> None:
    assert shape("BTCUSDT  96,012.544\n") == shape("BTCUSDT 7\n")
    assert shape("BTCUSDT 7") != shape("ETHUSDT 7")


def test_the_page_about_containers_shows_the_file_that_builds_one() -> None:
    source = (EXAMPLES / "Containerfile").read_text(encoding="utf-8")
    assert source[source.index("FROM ") :] in TEXTS[DOCS / "containers.md"]


def test_the_container_records_without_root_into_its_volumes() -> None:
    source = (EXAMPLES / "Containerfile").read_text(encoding="utf-8")
    lines = dict(line.split(" ", 1) for line in source.splitlines() if not line.startswith("#"))
    user, volumes = lines["USER"], json.loads(lines["VOLUME"])
    assert user not in ("root", "0")
    assert source.index(f"USER {user}\n") < source.index("ENTRYPOINT")
    assert lines["ENV"].removeprefix("BINANCE_OI_BUDGET_DIR=") in volumes
    program, arguments = json.loads(lines["ENTRYPOINT"]), json.loads(lines["CMD"])
    assert program == ["binance-oi"]
    _, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    assert Path(arguments[-1]).parent.as_posix() in volumes
    assert bound.arguments
