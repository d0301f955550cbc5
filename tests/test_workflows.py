"""The workflows run only programs that contributors can run; releases and the site are complete.

Rule of this file: it reads the workflows as YAML, and starts none of them.
"""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import release, site

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = {file.name: file for file in sorted((GITHUB / "workflows").glob("*.yml"))}
NOXFILE = (ROOT / "noxfile.py").read_text(encoding="utf-8")
SESSIONS = set(re.findall(r"^@nox\.session\ndef (\w+)", NOXFILE, re.MULTILINE))
PINNED = re.compile(r"^[\w.-]+/[\w.-]+@[0-9a-f]{40}$")

# Standard modules that Windows lacks.
ONLY_POSIX = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
PROGRAMS = {"benchmarks", "browser", "fuzz", "service", "simulation"}  # folders that need POSIX
# A step may also run these: they install nox, run the contributors' script, and run the sessions
# that a caller of the workflow passes.
OTHER_COMMANDS = {"python -m pip install nox", "bash .ci/run", "nox -s $SESSIONS"}


def read(file: Path) -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return loaded


def jobs(file: Path) -> Iterator[dict[str, Any]]:
    yield from read(file)["jobs"].values()


def steps(file: Path) -> Iterator[dict[str, Any]]:
    for job in jobs(file):
        yield from job.get("steps", [])


def sessions_asked(text: str) -> list[str]:
    """The names of sessions in the arguments of `nox -s`."""
    return shlex.split(text.partition(" -- ")[0])


def asked_by(job: dict[str, Any]) -> list[str]:
    """The arguments that a job passes to `nox -s`, for every case of its matrix."""
    asked = job.get("with", {}).get("sessions")
    if asked is None:
        return []
    if "matrix.sessions" in asked:
        return [str(case) for case in job["strategy"]["matrix"]["sessions"]]
    return [str(asked)]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_no_permission_unless_a_job_asks_for_it(name: str) -> None:
    assert read(WORKFLOWS[name])["permissions"] == {}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_session_that_a_workflow_names_exists(name: str) -> None:
    for job in jobs(WORKFLOWS[name]):
        for asked in asked_by(job):
            names = sessions_asked(asked)
            assert names, asked
            assert set(names) <= SESSIONS, asked


@pytest.mark.parametrize("name", WORKFLOWS)
def test_each_step_runs_nox_or_the_script_of_contributors(name: str) -> None:
    for step in steps(WORKFLOWS[name]):
        for line in step.get("run", "").strip().splitlines():
            if line not in OTHER_COMMANDS:
                assert line.startswith("nox -s "), line
                assert set(sessions_asked(line.removeprefix("nox -s "))) <= SESSIONS, line


@pytest.mark.parametrize("name", WORKFLOWS)
def test_each_foreign_action_is_pinned_to_a_commit(name: str) -> None:
    for step in steps(WORKFLOWS[name]):
        if "uses" in step:
            assert PINNED.match(step["uses"]), step["uses"]


def test_the_workflows_run_the_suite_on_every_python_that_the_project_names() -> None:
    classifiers = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', classifiers)
    assert read(WORKFLOWS["ci.yml"])["jobs"]["tests"]["strategy"]["matrix"]["python"] == named


def test_every_test_can_be_collected_on_every_system_of_the_workflows() -> None:
    """A test that needs POSIX is skipped elsewhere, but its file is imported everywhere."""
    found = []
    for file in sorted((ROOT / "tests").rglob("*.py")):
        folder = file.relative_to(ROOT / "tests").parts[0]
        if folder in PROGRAMS or file.name.endswith("_process.py"):  # not imported by tests
            continue
        for statement in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                names = {name.name for name in statement.names}
                module = statement.module if isinstance(statement, ast.ImportFrom) else None
                found += [f"{file.name}: {name}" for name in ({module} | names) & ONLY_POSIX]
    assert found == []


def test_no_workflow_asks_the_real_exchange() -> None:
    for file in WORKFLOWS.values():
        for job in jobs(file):
            assert "live" not in [name for asked in asked_by(job) for name in sessions_asked(asked)]


def test_every_placeholder_is_listed_in_the_release_guide() -> None:
    listed = set(re.findall(r"PLACEHOLDER-[A-Z-]+", (GITHUB / "RELEASE.md").read_text("utf-8")))
    used: set[str] = set()
    for file in (*GITHUB.rglob("*.md"), *GITHUB.rglob("*.yml"), ROOT / "pyproject.toml"):
        if file.name != "RELEASE.md":
            used |= set(re.findall(r"PLACEHOLDER-[A-Z-]+", file.read_text("utf-8")))
    assert used == listed != set()


CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n## [0.1.0] - 2026-11-01\n"


def test_a_release_needs_a_tag_and_a_dated_changelog_section() -> None:
    assert release.faults("0.2.0", CHANGELOG, "v0.2.0") == release.faults("0.2.0", CHANGELOG) == []
    assert release.faults("0.2.0", CHANGELOG, "v0.2.1")
    assert release.faults("0.1.0", CHANGELOG)
    assert release.faults("0.3.0", CHANGELOG)


def test_the_version_is_read_without_importing_the_package() -> None:
    source = (ROOT / "binance_oi" / "version.py").read_text(encoding="utf-8")
    assert release.version_of(source) == importlib.import_module("binance_oi").__version__


def test_the_site_has_every_public_name_of_every_public_module() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(binance_oi(?:\.\w+)?)`", readme.partition("## Public modules")[2]))
    assert set(site.PUBLIC) == named
    for module in site.PUBLIC:
        page = site.reference(module)
        for name in importlib.import_module(module).__all__:
            assert f"::: {module}.{name}\n" in page


def test_every_page_is_in_the_menu_of_the_site_once() -> None:
    text = (GITHUB / "mkdocs.yml").read_text(encoding="utf-8")
    menu = text.partition("\nnav:\n")[2].partition("not_in_nav")[0]
    listed = re.findall(r"^ *- (\S+\.md)$", menu, re.MULTILINE)
    found = [*site.pages().values(), *(f"reference/{name}.md" for name in site.PUBLIC)]
    elsewhere = ("examples/", "contributing/decisions/")  # a page of the menu links to these
    pages = [page for page in found if not page.startswith(elsewhere)]
    assert sorted(listed) == sorted([*pages, "examples/index.md", "help.md"])


def test_a_link_to_a_file_of_the_project_becomes_a_link_to_its_page() -> None:
    known = {".docs/budget.md": "budget.md", "binance_oi/budget/README.md": "theory.md"}
    text = "[a](../binance_oi/budget/README.md#rules) [b](budget.md) [c](https://example.org/x.md)"
    changed = site.with_links_of_the_site(text, ".docs/client.md", "client.md", known)
    assert changed == "[a](theory.md#rules) [b](budget.md) [c](https://example.org/x.md)"
    with pytest.raises(LookupError, match=r"nowhere\.md"):
        site.with_links_of_the_site("[d](nowhere.md)", ".docs/client.md", "client.md", known)


def test_every_link_of_every_page_leads_to_a_page() -> None:
    known = site.pages()
    for source, page in known.items():
        if source.endswith(".md"):
            text = (ROOT / source).read_text(encoding="utf-8")
            site.with_links_of_the_site(text, source, page, known)
