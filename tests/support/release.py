"""Checks that tag, version and changelog agree: `python tests/support/release.py [v0.2.0]`.

Rule of this file: it reads files, and changes none.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECTION = re.compile(r"^## \[(?P<version>[^\]]+)\] - (?P<date>\d{4}-\d\d-\d\d)$", re.MULTILINE)
VERSION = re.compile(r'^VERSION(?:: \S+)? = "([^"]+)"$', re.MULTILINE)


def version_of(source: str) -> str:
    (version,) = VERSION.findall(source)
    return str(version)


def faults(version: str, changelog: str, tag: str | None = None) -> list[str]:
    """The faults that prevent a release; an empty list allows it."""
    found = []
    if tag is not None and tag != f"v{version}":
        found.append(f"the tag is {tag}, and the version is {version}")
    sections = [section["version"] for section in SECTION.finditer(changelog)]
    if version not in sections:
        found.append(f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD'")
    elif sections[0] != version:
        found.append(f"the newest section of CHANGELOG.md is {sections[0]}, not {version}")
    return found


if __name__ == "__main__":
    source = (ROOT / "binance_oi" / "version.py").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for line in (found := faults(version_of(source), changelog, *sys.argv[1:2])):
        print(line, file=sys.stderr)
    sys.exit(bool(found))
