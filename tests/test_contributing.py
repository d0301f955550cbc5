"""The programs and sessions that our texts name exist, and so do the files that guides name.

Rule of this file: it reads texts, and starts the programs of the project only for their help.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import first_steps
from support.lanes import some

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
CONTRIBUTING = (GITHUB / "CONTRIBUTING.md").read_text(encoding="utf-8")
ARCHITECTURE = (GITHUB / "ARCHITECTURE.md").read_text(encoding="utf-8")
SESSIONS = set(
    re.findall(r"^@nox\.session\ndef (\w+)", (ROOT / "noxfile.py").read_text("utf-8"), re.MULTILINE)
)
PROGRAM = re.compile(r"python -m (tests(?:\.\w+)+)")
FIGURE = re.compile(r"python -m tests\.benchmarks ([a-z]\w*)")
SESSION = re.compile(r"nox -s ((?:\w+ ?)+)")
QUOTED = re.compile(r"`([\w./]+)`")
SOURCES = ("binance_oi", "tests", "examples", ".github", ".docs", "README.md", "noxfile.py")


def texts() -> list[str]:
    places = [ROOT / name for name in SOURCES]
    files = [file for place in places for file in (place.rglob("*") if place.is_dir() else [place])]
    return [file.read_text("utf-8") for file in files if file.suffix in {".md", ".py", ".yml"}]


TEXTS = texts()
PROGRAMS = sorted({found[1] for text in TEXTS for found in PROGRAM.finditer(text)})
# Other programs start these servers, so the servers have no `--help`.
SERVERS = {"tests.benchmarks.loopback", "tests.fuzz.exchange", "tests.service.served"}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a checkout, without `PYTHONPATH`; return the finished process."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("module", some(sorted(set(PROGRAMS) - SERVERS), always=1))
def test_each_program_that_the_texts_name_runs_from_a_checkout(module: str) -> None:
    done = run("-m", module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage:")


def test_every_program_that_the_texts_name_can_be_imported_in_a_checkout() -> None:
    modules = [
        f"{name}.__main__" if (ROOT / name.replace(".", "/")).is_dir() else name
        for name in PROGRAMS
    ]
    source = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = run("-c", source, *modules)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_texts_name_the_programs_of_benchmarks_and_simulations() -> None:
    assert {"tests.benchmarks", "tests.simulation", "tests.simulation.traces"} <= set(PROGRAMS)


def test_each_benchmark_that_the_texts_name_exists() -> None:
    from benchmarks.__main__ import FIGURES

    named = {name for text in TEXTS for name in FIGURE.findall(text)}
    assert named
    assert named <= set(FIGURES)


def test_every_session_that_a_text_names_exists() -> None:
    named = {name for text in TEXTS for found in SESSION.findall(text) for name in found.split()}
    assert named - SESSIONS - {"NAME"} == set()


def paths_in(text: str) -> set[str]:
    """The paths in backquotes: names with a slash, or that end with `.py`."""
    named = {name for name in QUOTED.findall(text) if "/" in name or name.endswith(".py")}
    return {name for name in named if not name.startswith(".venv/")}


def is_there(name: str) -> bool:
    # A row of a table may name a second file without its folder.
    places = (ROOT / name, ROOT / "binance_oi" / name)
    return any(place.exists() for place in places) or any(
        (ROOT / "binance_oi").rglob(name if "/" in name else f"*/{name}")
    )


@pytest.mark.parametrize("text", [CONTRIBUTING, ARCHITECTURE], ids=["guide", "architecture"])
def test_every_file_that_contributors_are_sent_to_exists(text: str) -> None:
    named = paths_in(text)
    assert len(named) > 10
    assert [name for name in sorted(named) if not is_there(name)] == []


def test_the_guide_lists_every_decision() -> None:
    records = {file.name for file in (GITHUB / "decisions").glob("*.md")}
    assert set(re.findall(r"decisions/([\w-]+\.md)", CONTRIBUTING)) == records


def test_every_folder_has_a_row_in_the_architecture() -> None:
    folders = {file.parent.name for file in (ROOT / "binance_oi").glob("*/__init__.py")}
    rows = set(re.findall(r"^\| `(\w+)` \|", ARCHITECTURE, re.MULTILINE))
    assert rows == folders


def test_the_guide_begins_with_a_command_of_the_readme_and_a_nox_session() -> None:
    first, second = re.findall(r"```text\n(.*)\n(.*)\n```", CONTRIBUTING)[0]
    assert first in (ROOT / "README.md").read_text("utf-8")
    assert SESSION.search(second)


PAGE = """
```sh
echo one
```
Save it as `first.py`, and run it with `python first.py`:
```python
print("two", 3)
```

```text
two 4
```
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it needs a POSIX shell")
@pytest.mark.parametrize(
    "page",
    [
        PAGE.replace("two 4", "three 4"),
        PAGE.replace("echo one", "false"),
        PAGE.replace("echo one", "true"),
        PAGE.replace("run it with", "start"),
        PAGE.replace('"two"', "two"),
    ],
)
def test_a_first_step_that_fails_as_written_is_found(page: str, tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    path = f"PATH='{Path(sys.executable).parent}':$PATH\n"
    (tmp_path / ".venv" / "bin" / "activate").write_text(path, encoding="utf-8")
    assert first_steps.follow(tmp_path, PAGE) == 2
    with pytest.raises(SystemExit):
        first_steps.follow(tmp_path, page)
