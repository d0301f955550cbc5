"""Writes the sources from which mkdocs builds the site: `python tests/support/site.py TARGET`.

Rule of this file: no text exists twice. Pages come from `.docs` and from texts beside the code. The
reference comes from `__all__` and the docstrings. The page about commands has the printed help of
each command. A link to another file of the project becomes a link to the page of that file.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Every module whose `__all__` is public according to README.
PUBLIC = (
    "binance_oi",
    *(
        f"binance_oi.{name}"
        for name in (
            *("budget", "exchange", "sending", "market", "recorder", "output"),
            *("web", "simulator", "testing"),
        )
    ),
)
# Texts that are beside the code, and their pages.
BESIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    ".github/ARCHITECTURE.md": "contributing/architecture.md",
    ".github/CONTRIBUTING.md": "contributing/index.md",
    ".github/RELEASE.md": "contributing/release.md",
    ".github/SECURITY.md": "security.md",
    "binance_oi/budget/README.md": "theory.md",
    "examples/README.md": "examples/index.md",
    "tests/benchmarks/README.md": "figures.md",
}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
IMAGE = {".svg", ".png"}


def pages() -> dict[str, str]:
    """Each text of the project that becomes a page, and its page; both are relative paths."""
    found = {f".docs/{file.name}": file.name for file in sorted((ROOT / ".docs").glob("*.md"))}
    found |= {
        f".github/decisions/{file.name}": f"contributing/decisions/{file.name}"
        for file in sorted((ROOT / ".github" / "decisions").glob("*.md"))
    }
    found |= {
        f"examples/{file.name}": f"examples/{file.stem}.md"
        for file in sorted((ROOT / "examples").glob("*.py"))
    }
    return found | BESIDE


def with_links_of_the_site(text: str, source: str, page: str, known: dict[str, str]) -> str:
    """The text with each link to a file of the project replaced by a link to its page.

    Raises:
        LookupError: a link leads to a file that has no page.
    """

    def replaced(found: re.Match[str]) -> str:
        place, anchor = found[1], found[2] or ""
        target = os.path.normpath(os.path.join(os.path.dirname(source), place)).replace("\\", "/")
        if Path(target).suffix in IMAGE:
            return os.path.basename(target) + anchor
        if target not in known:
            raise LookupError(f"{source} links to {place}, which is no page of the site")
        return os.path.relpath(known[target], os.path.dirname(page) or ".") + anchor

    return LINK.sub(replaced, text)


def reference(module: str) -> str:
    """The page of a public module: its docstring, and every name of its `__all__`."""
    names: list[str] = importlib.import_module(module).__all__
    identifiers = [f"::: {module}\n    options:\n      members: false\n"]
    identifiers += [f"::: {module}.{name}\n" for name in names]
    return f"# `{module}`\n\n" + "\n".join(identifiers)


def help_of(*arguments: str) -> str:
    env = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "binance_oi", *arguments, "--help"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def command_line() -> str:
    """The printed help of the program and of each command."""
    from binance_oi.cli.commands import app

    commands = sorted(name for name in app if not name.startswith("-"))
    parts = ["# Help of each command\n", f"```text\n{help_of().strip()}\n```\n"]
    parts += [f"## {name}\n\n```text\n{help_of(name).strip()}\n```\n" for name in commands]
    return "\n".join(parts)


def example(file: Path) -> str:
    source = file.read_text(encoding="utf-8")
    return f"# `{file.name}`\n\n```python\n{source}```\n"


def write(target: Path) -> None:
    """Empty a directory, and write the configuration and every page of the site into it."""
    shutil.rmtree(target, ignore_errors=True)
    out = target / "docs"
    known = pages()
    texts: dict[str, str] = {}
    for source, page in known.items():
        path = ROOT / source
        text = example(path) if path.suffix == ".py" else path.read_text(encoding="utf-8")
        is_text = path.suffix == ".md"
        texts[page] = with_links_of_the_site(text, source, page, known) if is_text else text
    texts |= {f"reference/{module}.md": reference(module) for module in PUBLIC}
    texts["help.md"] = command_line()
    for page, text in texts.items():
        (out / page).parent.mkdir(parents=True, exist_ok=True)
        (out / page).write_text(text, encoding="utf-8")
    for folder in (ROOT / "tests" / "benchmarks", ROOT / ".docs"):
        for image in folder.iterdir():
            if image.suffix in IMAGE:
                shutil.copy(image, out / image.name)
    shutil.copy(ROOT / ".github" / "mkdocs.yml", target / "mkdocs.yml")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
