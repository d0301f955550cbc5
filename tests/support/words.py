"""Finds words and phrases that no text of the project may use: `python tests/support/words.py`.

Rule of this file: it searches names, comments and strings of `.py` and `.md` files. A phrase may
continue on the next line, or have underscores between its words.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

HELD = (".",)
SHOWN = (".docs", ".github")  # hidden folders that have texts
GENERATED = ("build", "dist", "site", "htmlcov", "__pycache__")  # folders without texts of ours
EXCEPT = ("tests/support/words.py", "tests/test_words.py")  # they contain the phrases

FORBIDDEN = {
    "mend": r"mend(?:s|ed|ing)?",
    "reckon": r"reckon(?:s|ed|ing)?",
    "told": "told",
    "bell": "bell",
    "wary": "wary",
    "in vain": "in vain",
    "for good": r"for good(?=\s*[.,;:)\"'])",
    "whoever has": "whoever (?:has|have|is|was)",
    "who has just": "who (?:has|have) (?:just|come)",
    "has just come": "(?:has|have|had) just come",
    "is looked at": "(?:is|are|was|were|be) looked (?:at|through)",
    "it is said": "it is said",
    "thick and fast": "thick and fast",
    "nobody can say": "nobody can say",
    "not known any more": "not known any more",
    "in the breath": "in the breath",
    "without a word": "without a word",
    "others are there": "others (?:are|were) there",
    "costs itself": "costs? (?:itself|nothing but itself)",
    "nothing but silence": "nothing but silence",
    "of before": r"of before(?=\s*[.,;:)\"'])",
    "is no slow one": "is no slow one",
    "at the most": "at the most(?! [a-z])",
    "is not there": "(?:is|are) not there",
    "as well": r"as well(?=\s*[.,;:)\"'])",
    "may be repeated": r"may be repeated(?=\s*[.,;:)\"'])",
    "may be called again": "may be called again",
    "whichever is there": "whichever is there",
    "goes on from": "(?:go|goes|went|going) on from",
    "heed": "heed(?:s|ed|ing)?",
}
"""The name of each fault, and its pattern; a space stands for any gap between two words."""

_GAP = r"(?:\s+(?:#:?\s*)?|_)"  # the next line of a comment begins with `#`
_PATTERNS = {
    name: re.compile(rf"(?<![a-zA-Z]){pattern.replace(' ', _GAP)}(?![a-zA-Z])", re.IGNORECASE)
    for name, pattern in FORBIDDEN.items()
}


def found(text: str) -> Iterator[tuple[int, str]]:
    """The line and the name of each forbidden phrase in `text`."""
    for name, pattern in _PATTERNS.items():
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, name


def texts() -> Iterator[Path]:
    """Every text except `EXCEPT`, generated folders, and hidden folders that are not in `SHOWN`."""
    for held in HELD:
        for place, folders, names in os.walk(ROOT / held):
            folders[:] = [
                name
                for name in folders
                if name in SHOWN or not (name.startswith(".") or name in GENERATED)
            ]
            for file in (Path(place, name) for name in names):
                inside = file.relative_to(ROOT).as_posix()
                if file.suffix in (".py", ".md") and inside not in EXCEPT:
                    yield file


def main() -> int:
    """Print every find; return 1 if there is one."""
    status = 0
    for file in texts():
        for line, name in sorted(found(file.read_text(encoding="utf-8"))):
            print(f"{file.relative_to(ROOT)}:{line}: {name}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
