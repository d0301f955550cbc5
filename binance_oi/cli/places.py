"""Where a command keeps files that it can read again.

The rule of this file: it makes nothing. Other programs of the user follow the same variables.
"""

import os
import sys
from pathlib import Path

FOLDER = "binance-oi"


def cache_directory() -> Path:
    """The directory of this user's caches.

    `XDG_CACHE_HOME` counts on every system, if it is an absolute path; see the XDG Base Directory
    Specification.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(chosen):
        return Path(chosen) / FOLDER
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / FOLDER
    local = os.environ.get("LOCALAPPDATA", "")
    if os.name == "nt" and local:
        return Path(local) / FOLDER / "Cache"
    return Path.home() / ".cache" / FOLDER


def archive_cache() -> Path:
    """The directory of the archive's files."""
    return cache_directory() / "archive"
