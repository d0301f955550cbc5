"""Tells a file from a database by the name of a recording.

The rule of this file: it opens nothing. The names that it makes for messages contain no password.
"""

import os
import re
from pathlib import Path
from typing import TypeGuard
from urllib.parse import urlsplit

from binance_oi.arguments import StrPath, check_path

SCHEMES = ("postgresql://", "postgres://")

# Two characters at least, because C:// is a drive of Windows.
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{1,30}://", re.IGNORECASE | re.ASCII)


def is_database(place: object) -> TypeGuard[str]:
    """Whether a name is the URL of a PostgreSQL database. A `Path` never is."""
    return isinstance(place, str) and place.lower().startswith(SCHEMES)


def check_recording(name: str, place: StrPath) -> StrPath:
    """Return the place of a recording: the URL of a database, or a path.

    Args:
        name: The name of the argument.
        place: The caller's value.

    Raises:
        TypeError: `place` is neither.
        ValueError: `place` is empty, or a URL of another kind.
    """
    return place if is_database(place) else check_file(name, place)


def check_file(name: str, place: object) -> Path:
    """Return the path of a recording in a file.

    Args:
        name: The name of the argument.
        place: The caller's value.

    Raises:
        TypeError: `place` is not a path.
        ValueError: `place` is empty, or a URL. To name a file like that, write ``./mysql:/...``.
    """
    if isinstance(place, str) and (scheme := _SCHEME.match(place)) is not None:
        known = " or ".join(SCHEMES)
        raise ValueError(f"{name} must be a file, or a URL with {known}, not with {scheme[0]}")
    return check_path(name, place)


def shown(url: str) -> str:
    """Return the URL of a database without its user, password and parameters, for messages."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:  # a bracket that is not closed
        return "the database"
    return f"postgresql://{host}{parts.path}"


def title_of(url: str) -> str:
    """Return the name of a database, such as ``oi`` for ``postgresql://host/oi``."""
    return shown(url).rpartition("/")[2] or "PostgreSQL"


def same_file(one: object, other: object) -> bool:
    """Whether two names lead to one file, or are the same URL of a database."""
    if is_database(one) or is_database(other):
        return one == other
    try:
        return os.path.samefile(str(one), str(other))
    except OSError:
        return os.path.realpath(str(one)) == os.path.realpath(str(other))
