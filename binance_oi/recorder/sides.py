"""The side files of a recording: SQLite's log, index and journal, and the recorder's lock.

The rule of this file: a side file is in the directory in which SQLite looks for it. If the path of
the recording is a link, this is the directory of the link's target. No file that we write for
another purpose may have the name of a side file.
"""

import os
import stat
import unicodedata
from contextlib import suppress
from pathlib import Path

from binance_oi.errors import RecordingError
from binance_oi.recorder.atomic import SIDES

SIDE_FILES = (*SIDES, "-lock")  # SQLite's, and the recorder's


def check_sides(path: Path) -> None:
    """Check that SQLite's side files are regular files or missing; SQLite would block on a pipe.

    Raises:
        RecordingError: One of them is a pipe, a device, a socket or a directory.
    """
    for side in (beside(path, ending) for ending in SIDES):
        with suppress(OSError):  # SQLite may remove it at any moment
            if not stat.S_ISREG(side.stat().st_mode):
                raise RecordingError(
                    f"{side} is not a regular file, and SQLite needs this name; remove it"
                )


def has_side_name(path: Path) -> bool:
    """Whether SQLite or a recorder would take a file of this name for a side file."""
    return path.name.casefold().endswith(SIDE_FILES)


def beside(path: Path, ending: str) -> Path:
    """Return the path of a side file of a recording; for a link, beside the link's target."""
    real = Path(os.path.realpath(path))  # `resolve` raises for a link to itself before 3.13
    return real.with_name(real.name + ending)


def is_same(target: Path, own: Path) -> bool:
    """Whether both paths are the same file, or would be if a file were made at `target`."""
    with suppress(OSError):
        if os.path.samefile(target, own):
            return True
    there, here = (Path(os.path.realpath(path)) for path in (target, own))
    with suppress(OSError):
        if os.path.samefile(there.parent, here.parent):
            return _folded(there.name) == _folded(here.name)
    return False


def _folded(name: str) -> str:
    """Return one spelling for all names that some file system treats as the same."""
    return unicodedata.normalize("NFC", name).casefold()
