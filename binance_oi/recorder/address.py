"""Tells a file from a database by the name of a recording.

The rule of this file: it opens nothing. The names that it makes for messages contain no password.
"""

import os
from typing import TypeGuard
from urllib.parse import urlsplit

from binance_oi.arguments import StrPath, check_path

SCHEMES = ("postgresql://", "postgres://")


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
        ValueError: `place` is empty.
    """
    return place if is_database(place) else check_path(name, place)


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
