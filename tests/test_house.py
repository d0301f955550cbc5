"""The structure of the package: imports go one way, functions are short, no file is out of place.

Rule of this file: the data at the top defines what is allowed. A new folder needs an entry there,
and so does a new module at the top level or in `budget`.
"""

import ast
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from statistics import median

import pytest

import binance_oi

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "binance_oi"

# A folder or module at the top level may import those before it, and none after it.
ORDER = (
    *("version", "lazy", "arguments", "times", "extras", "encoding", "errors", "fork"),
    *(
        "exchange",
        "budget",
        "sending",
        "market",
        "client",
        "recorder",
        "output",
        "simulator",
        "testing",
        "web",
        "cli",
        "__main__",
    ),
)
# These folders may import less than their place in the order allows.
ONLY = {"simulator": set[str]()}  # shared code could give it and the client the same wrong number
# Which modules may import which third-party package.
THIRD_PARTY = {
    "aiohttp.web_protocol": {"web/server"},  # the type of a connection
    "aiohttp.http_exceptions": {"web/server"},  # the errors of a malformed request
    "aiohttp": {
        *(
            "sending/connections",
            "sending/guard",
            "sending/parked_connections",
            "sending/transport",
        ),
        "sending/caller_session",
        "sending/wire",
    },
    "aiohttp.web": {"simulator", "web/aiohttp_app", "web/server"},
    "aiolimiter": {"sending/pacer"},
    "cyclopts": {"cli"},
    "msgspec": {"budget", "cli", "exchange", "simulator", "web/events"},
    "multidict": {"simulator"},  # aiohttp's own type for headers
    "pytest": {"testing"},
    "rich": {"cli"},
    # aiohttp's own type for URLs
    "yarl": {"sending/connections", "sending/sender", "sending/transport", "sending/wire"},
}
FORBIDDEN_NAMES = {"common", "helpers", "misc", "types", "util", "utils"}
TOP_LEVEL = {
    ".ci",
    ".docs",
    ".github",
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "binance_oi",
    "examples",
    "noxfile.py",
    "pyproject.toml",
    "tests",
}
# In `budget`, a module imports only those before it. So no decision module uses a pool or a file.
DECISION = (
    *("usage", "tuning", "server_clock", "ledger", "bursts", "others", "knowledge"),
    *("attribution", "probing", "admission", "learning", "bucket"),
)
BUDGET = (
    *("boot", "window", "demand", "process", *DECISION, "rolling", "record", "place", "pool"),
    *("beside", "deferred", "stored"),
    *("shared", "pool_file", "machine"),
    *("journal", "record_time", "record_server", "member_record", "record_pool", "turns", "apart"),
    *("member", "courier", "redis_server", "redis", "__init__"),
)
LONGEST, MEDIAN = 50, 10  # lines of code in one function
# Lines of code in a function and in a class of a decision module.
LONGEST_TO_DECIDE, LARGEST_TO_DECIDE = 40, 200
# Lines of code in a module, in a class, and in `client.py`.
LARGEST_MODULE, LARGEST_CLASS, LARGEST_CLIENT = 400, 260, 220

FILES = sorted(PACKAGE.rglob("*.py"))


def room(file: Path) -> str:
    """The top-level module or folder that a file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes())


def imported(file: Path) -> Iterator[str]:
    """The full name of every module that a file imports anywhere."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _imported_from(file, node)


def ours_imported(file: Path) -> Iterator[str]:
    """The modules in `from … import` lines, and each imported name as if it were a module."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _imported_from(file: Path, node: ast.ImportFrom) -> Iterator[str]:
    package = ("binance_oi", *file.relative_to(PACKAGE).parts[:-1])
    base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
    module = ".".join(part for part in (base, node.module) if part)
    # `from aiohttp import web` and `from . import errors` name a module after `import`.
    if module in ("aiohttp", "binance_oi"):
        yield from (f"{module}.{alias.name}" for alias in node.names)
    else:
        yield module


def may_import(importer: str) -> set[str]:
    if importer == "__init__":
        return set(ORDER)
    return ONLY.get(importer, set(ORDER[: ORDER.index(importer)])) | {importer}


def third_party(module: str) -> str | None:
    """The key of THIRD_PARTY for a module, or the module itself; None for the standard library."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return None
    rows = [row for row in THIRD_PARTY if module == row or module.startswith(f"{row}.")]
    return max(rows, key=len, default=module)


def wrong_imports(file: Path) -> list[str]:
    wrong: list[str] = []
    for module in imported(file):
        top, *rest = module.split(".")
        if top == "binance_oi":
            # From `__init__`, a module may import only the version.
            allowed = rest == ["__version__"] or (bool(rest) and rest[0] in may_import(room(file)))
        else:
            row = third_party(module)
            here = file.relative_to(PACKAGE).with_suffix("").as_posix()
            allowed = row is None or not {room(file), here}.isdisjoint(THIRD_PARTY.get(row, ()))
        if not allowed:
            wrong.append(module)
    return wrong


FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef
NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    tokenize.ENDMARKER,
}


def lengths(file: Path, kinds: tuple[type[ast.stmt], ...] = FUNCTIONS) -> Iterator[tuple[int, str]]:
    """Lines of code of every function or class, without docstrings, comments and blank lines."""
    code = code_lines(file)
    tree = parsed(file)
    for node in ast.walk(tree):
        if isinstance(node, kinds):
            name = getattr(node, "name", "")
            yield len(span(node) & code), f"{file.relative_to(ROOT)}:{node.lineno} {name}"


@cache
def code_lines(file: Path) -> set[int]:
    """The lines of code of a file, without docstrings, comments and blank lines."""
    with tokenize.open(file) as opened:
        tokens = list(tokenize.generate_tokens(opened.readline))
    code = {n for t in tokens if t.type not in NO_CODE for n in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            code -= span(node)  # a docstring of a module, class, function or field
    return code


def span(node: ast.stmt) -> set[int]:
    """The line numbers of a statement."""
    return set(range(node.lineno, (node.end_lineno or 0) + 1))


def listed_files() -> list[str]:
    """The files that git tracks or would add."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_every_module_has_its_place_in_the_order() -> None:
    assert {room(file) for file in FILES} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file: Path) -> None:
    assert wrong_imports(file) == []


def test_imports_within_the_budget_go_one_way() -> None:
    files = {file.stem: file for file in (PACKAGE / "budget").glob("*.py")}
    assert files.keys() == set(BUDGET)
    for place, name in enumerate(BUDGET):
        found = {module for module in imported(files[name]) if ".budget." in module}
        inside = {module.split(".budget.")[1].split(".")[0] for module in found}
        assert inside <= set(BUDGET[:place]), name


@pytest.mark.parametrize(
    "where, source, wrong",
    [
        ("errors.py", "from binance_oi.exchange.models import X", ["binance_oi.exchange.models"]),
        ("errors.py", "def f():\n    from .client import X", ["binance_oi.client"]),
        ("exchange/headers.py", "from ..budget import X", ["binance_oi.budget"]),
        ("budget/window.py", "from ..exchange.limits import X\nfrom .ledger import Y", []),
        ("errors.py", "import msgspec, time\nfrom .arguments import X", ["msgspec"]),
        ("client.py", "import aiohttp", ["aiohttp"]),
        ("client.py", "from binance_oi import Usage", ["binance_oi.Usage"]),
        ("client.py", "import binance_oi", ["binance_oi"]),
        ("client.py", "from binance_oi import __version__", []),
        ("client.py", "from binance_oi.sending.transport import X\nfrom .errors import Y", []),
        ("sending/transport.py", "from aiohttp import web", ["aiohttp.web"]),
        ("sending/transport.py", "import aiohttp\nfrom aiohttp import ClientSession", []),
        ("sending/governor.py", "import aiohttp", ["aiohttp"]),
        ("sending/governor.py", "from ..market.snapshot import X", ["binance_oi.market.snapshot"]),
        ("simulator/server.py", "from aiohttp import web\nfrom .market import X", []),
        ("simulator/server.py", "from ..errors import X", ["binance_oi.errors"]),
        ("simulator/server.py", "import aiohttp", ["aiohttp"]),
        ("exchange/models.py", "import requests.sessions", ["requests.sessions"]),
    ],
)
def test_the_check_finds_a_wrong_import(
    where: str, source: str, wrong: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    file = tmp_path / where
    file.parent.mkdir(exist_ok=True)
    file.write_text(source)
    assert wrong_imports(file) == wrong


def test_no_module_has_a_meaningless_name() -> None:
    assert not {file.stem for file in FILES} & FORBIDDEN_NAMES


def test_functions_are_short() -> None:
    counted = sorted(length for file in FILES for length in lengths(file))
    assert counted[-1][0] <= LONGEST, counted[-1]
    assert median(length for length, _ in counted) <= MEDIAN


def test_modules_and_classes_are_small() -> None:
    for file in FILES:
        most = LARGEST_CLIENT if file == PACKAGE / "client.py" else LARGEST_MODULE
        assert len(code_lines(file)) <= most, file
    counted = max(length for file in FILES for length in lengths(file, (ast.ClassDef,)))
    assert counted[0] <= LARGEST_CLASS, counted


def test_no_module_imports_one_that_imports_it() -> None:
    names = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in FILES}
    ours = set(names.values())
    graph = {name: ours & set(ours_imported(file)) for file, name in names.items()}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, with the cycle


@pytest.mark.parametrize(
    "kinds, most", [(FUNCTIONS, LONGEST_TO_DECIDE), ((ast.ClassDef,), LARGEST_TO_DECIDE)]
)
@pytest.mark.parametrize("name", DECISION)
def test_decision_modules_have_small_functions_and_classes(
    name: str, kinds: tuple[type[ast.stmt], ...], most: int
) -> None:
    assert [
        found for found in lengths(PACKAGE / "budget" / f"{name}.py", kinds) if found[0] > most
    ] == []


def test_only_code_counts_towards_a_functions_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    file = tmp_path / "sample.py"
    file.write_text(
        'def f(\n    a,\n):\n    """Doc.\n\n    More.\n    """\n    # why\n\n    return a\n'
    )
    assert list(lengths(file)) == [(4, "sample.py:1 f")]


def test_no_code_is_excluded_from_coverage() -> None:
    assert [file.name for file in FILES if "pragma: no cover" in file.read_text("utf-8")] == []


def test_every_module_begins_with_its_docstring() -> None:
    bare = [file.name for file in FILES if not ast.get_docstring(parsed(file))]
    assert bare == []


def test_the_public_names_are_sorted_and_complete() -> None:
    assert sorted(binance_oi.__all__) == binance_oi.__all__
    assert [name for name in binance_oi.__all__ if not hasattr(binance_oi, name)] == []


def test_the_top_folder_has_only_the_expected_files() -> None:
    assert {name.split("/")[0] for name in listed_files()} == TOP_LEVEL


IMPORT_ALONE = """
import sys
sys.modules.update(dict.fromkeys(["cyclopts", "rich", "pyarrow"]))  # importing one of these fails
calls = []
sys.addaudithook(lambda event, args: event.startswith("socket.") and calls.append(event))
import binance_oi
for name in binance_oi.__all__:
    getattr(binance_oi, name)
touched = sorted(set(calls) - {"socket.gethostname"})
sys.exit(f"importing it does {touched}" if touched else 0)
"""


def test_importing_the_package_needs_no_extra_and_no_network() -> None:
    command = [sys.executable, "-W", "error", "-c", IMPORT_ALONE]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_library_prints_nothing_without_a_log_handler() -> None:
    source = "import binance_oi, logging; logging.getLogger('binance_oi').error('x')"
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "folder",
    [
        *("budget", "exchange", "market", "output", "recorder", "sending", "simulator", "testing"),
        "web",
    ],
)
def test_every_name_in_all_of_a_folder_exists(folder: str) -> None:
    package = import_module(f"binance_oi.{folder}")
    assert package.__all__
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    assert f"`binance_oi.{folder}`" in (ROOT / "README.md").read_text("utf-8")
