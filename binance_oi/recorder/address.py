"""Where a recording is: in a file, or in a database.

The rule of this file: a name decides, nothing is opened, and no password leaves in a message.
"""

import os
from typing import TypeGuard
from urllib.parse import urlsplit

SCHEMES = ("postgresql://", "postgres://")


def is_database(place: object) -> TypeGuard[str]:
    """Whether a name is the URL of a PostgreSQL database. A `Path` never is."""
    return isinstance(place, str) and place.lower().startswith(SCHEMES)


def shown(url: str) -> str:
    """The URL of a database without what only its owner may see: user, password, parameters."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:  # a bracket that is not closed
        return "the database"
    return f"postgresql://{host}{parts.path}"


def title_of(url: str) -> str:
    """The name of a database."""
    return shown(url).rpartition("/")[2] or "PostgreSQL"


def same_file(one: object, other: object) -> bool:
    """Whether two names lead to one file."""
    if is_database(one) or is_database(other):
        return one == other
    try:
        return os.path.samefile(str(one), str(other))
    except OSError:
        return os.path.realpath(str(one)) == os.path.realpath(str(other))
