"""A copy of a recording, also of one that is recorded into.

The rule of this file: the copy gets its name when it is whole. Until then it has the name of a part
and SQLite's journal beside it, so whoever opens what a killed copy has left finds nothing in it.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from binance_oi.atomic import SIDES
from binance_oi.errors import RecordingError
from binance_oi.recorder.log import settle
from binance_oi.recorder.place import set_aside_foreign_log
from binance_oi.recorder.recording import open_to_read
from binance_oi.recorder.store import RecorderLock

PAGES = 16_384  # in one step, 16 MiB: after each one a signal is heard

Pages = Callable[[int, int], object]


def copy(source: Path, target: Path, *, replace: bool, on_pages: Pages | None) -> None:
    """See `binance_oi.recorder.Recording.backup`."""
    if target.is_dir():
        raise RecordingError(f"{target} is a directory; a recording is a file")
    if not replace and (target.exists() or target.is_symlink()):
        raise RecordingError(f"{target} is there already; --replace, or replace=True, replaces it")
    try:
        lock = RecorderLock(target)  # nobody else writes it, or the part of it
        try:
            _copy_whole(source, target, on_pages)
        finally:
            lock.close()
    except (sqlite3.Error, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecordingError(f"{target} cannot be written: {reason}") from error


def _copy_whole(source: Path, target: Path, on_pages: Pages | None) -> None:
    part = target.with_name(f".{target.name}.part")
    if os.path.realpath(part) == os.path.realpath(source):
        raise RecordingError(f"{target} needs a name that is not of the recording itself")
    _remove(part)  # of a copy that was killed
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    os.close(os.open(part, flags, 0o666))
    try:
        _copy_pages(source, part, on_pages)
        _make_room(target)
        part.replace(target)
    finally:
        _remove(part)
    _sync_directory(target.parent)


def _copy_pages(source: Path, part: Path, on_pages: Pages | None) -> None:
    def tell(_: int, remaining: int, total: int) -> None:
        if on_pages is not None:
            on_pages(total - remaining, total)

    uri = f"{part.absolute().as_uri()}?mode=rw"
    with (
        closing(open_to_read(source)) as ours,
        closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as theirs,
    ):
        # As of this moment: without a transaction each commit would start the copy anew.
        ours.execute("BEGIN")
        ours.execute("SELECT count(*) FROM sqlite_master").fetchone()
        ours.backup(theirs, pages=PAGES, progress=tell)
        theirs.execute("PRAGMA journal_mode = DELETE")  # one file, also while it is read


def _make_room(target: Path) -> None:
    """What was recorded into the file before must not be found beside the copy."""
    set_aside_foreign_log(target)
    if target.is_file():
        with suppress(sqlite3.Error):  # no recording; or it is whole after this
            settle(target)
    for ending in SIDES:
        target.with_name(target.name + ending).unlink(missing_ok=True)


def _remove(part: Path) -> None:
    for name in (part.name, *(f"{part.name}{ending}" for ending in SIDES)):
        part.with_name(name).unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    with suppress(OSError):  # where a directory cannot be opened, nobody can do more
        opened = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
