"""Tells a file from a database by the name of a recording.

The rule of this file: it opens nothing. The names that it makes for messages contain no password.
"""

import os
import re
from pathlib import Path
from typing import TypeGuard

from binance_oi.arguments import StrPath, check_path

SCHEMES = ("postgresql://", "postgres://")

# Two characters at least, because C:// is a drive of Windows.
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{1,30}://", re.IGNORECASE | re.ASCII)

_HOST = r"(?:\[[^][@/?#&=]*\]|[^][:@/?#,&=]*)(?::\d*)?"  # in brackets if it is an IPv6 address
_PLACE = re.compile(rf"(?P<hosts>{_HOST}(?:,{_HOST})*)(?P<path>(?:/[^@?#]*)?)(?:\?[^@]*)?")


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
        ValueError: `place` is empty, or a URL. A file whose name looks like a URL needs a leading
            ``./``, as in ``./mysql:/...``.
    """
    if isinstance(place, str) and (scheme := _SCHEME.match(place)) is not None:
        known = " or ".join(SCHEMES)
        raise ValueError(f"{name} must be a file, or a URL with {known}, not with {scheme[0]}")
    return check_path(name, place)


def shown(url: str) -> str:
    """Return the URL of a database without its user, password and parameters, for messages.

    Users forget to escape special characters in a password. PostgreSQL's own client accepts
    ``#`` and ``?`` there. After a ``/`` or an ``@``, part of the password may stand where the
    host should be. So a URL whose hosts and ports look wrong is shown as ``the database``.
    """
    head, slash, rest = url.partition("://")[2].partition("/")
    found = _PLACE.fullmatch(head.rpartition("@")[2] + slash + rest)
    return f"postgresql://{found['hosts']}{found['path']}" if found else "the database"


def is_ambiguous(url: str) -> bool:
    """Whether it is unclear where the host begins, because an ``@`` or ``/`` has no escape."""
    head, _, rest = url.partition("://")[2].partition("/")
    user, at, host = head.rpartition("@")
    if not at:
        return "?" not in head and "@" in rest.partition("?")[0]
    return "@" in user or "&" in host or "=" in host or "@" in rest.partition("?")[0]


def title_of(url: str) -> str:
    """Return a short name: ``oi`` for ``postgresql://host/oi``, ``host`` for a URL without ``oi``.

    It is ``PostgreSQL`` if the URL has neither, and ``the database`` if the URL is malformed.
    """
    host, _, name = shown(url).removeprefix("postgresql://").partition("/")
    return name or host or "PostgreSQL"


def same_file(one: object, other: object) -> bool:
    """Whether two names lead to one file, or are the same URL of a database."""
    if is_database(one) or is_database(other):
        return one == other
    try:
        return os.path.samefile(str(one), str(other))
    except OSError:
        return os.path.realpath(str(one)) == os.path.realpath(str(other))
