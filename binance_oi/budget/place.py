"""Finds the directory of the shared file, the same for all processes of a user.

The rule of this file: the place depends on the user id alone. A login shell, cron, a service and
`su` have different values of `XDG_RUNTIME_DIR`, `TMPDIR`, `HOME` and the working directory. So the
places and their order are fixed. We skip a place only for a reason that holds for every process of
this user. A temporary error is no such reason: the caller gets the error, and tries again. Only the
environment variable `VARIABLE` overrides the places, because a user sets it on purpose.
"""

import errno
import logging
import os
import stat
from functools import lru_cache
from pathlib import Path

logger: logging.Logger = logging.getLogger("binance_oi")

VARIABLE = "BINANCE_OI_BUDGET_DIR"
# We try these places in order. /dev/shm is first because it is in memory, so no write waits for a
# disk. A service with `PrivateTmp=` has its own /tmp and /var/tmp, but the common /dev/shm.
# /run/user/UID does not qualify: it appears at login and disappears at logout. With `RemoveIPC=`,
# logind removes a user's files from /dev/shm at the last logout. Running processes then write the
# file again with all that they know; the knowledge of ended processes is lost.
PLACES = ("/dev/shm", "/var/tmp", "/tmp")
ADVICE = f"{VARIABLE} can name a private directory on a local disk"
# Network file systems. A lock there excludes only the processes of one machine, or none at all, and
# a write may take minutes.
NETWORK = frozenset(
    (
        *("9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse", "fuseblk"),
        *("gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs"),
        *("panfs", "pvfs2", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs"),
    )
)
MOUNTS = "/proc/self/mountinfo"
ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))  # no such path, for any process


def budget_directory() -> Path:
    """Return the directory of this user's budgets; it may not exist yet.

    Every process of a user gets the same answer, whatever its environment (except `VARIABLE`). If
    the path `binance-oi-UID` in a place is not a private directory of this user, we log a warning
    and skip the place.

    Raises:
        OSError: There is no suitable place, `VARIABLE` names an unsuitable one, or a temporary
            error prevents a check.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        if not os.path.isabs(chosen):
            raise OSError(f"{VARIABLE} is not an absolute path: {chosen!r}")
        if _is_place_on_network(chosen, 0):
            raise OSError(f"{VARIABLE} is on a network file system: {chosen}")
        return Path(chosen)
    if not hasattr(os, "getuid"):
        raise OSError("file locks are not available on this system")
    reasons: list[str] = []
    for place in PLACES:
        directory = os.path.join(place, f"binance-oi-{os.getuid()}")
        try:
            _check_place(place, directory)
        except _UnfitError as error:
            reasons.append(str(error))
        else:
            return Path(directory)
    raise OSError(f"no directory is suitable for the shared file: {'; '.join(reasons)} ({ADVICE})")


class _UnfitError(Exception):
    """We skip a place; the text says why."""


class NotPrivateError(PermissionError):
    """A path is not a directory of this user alone. Only `check_private` raises this."""


def _check_place(place: str, directory: str) -> None:
    """Check that `place` is suitable, and that we can use `directory` or make it there.

    Raises:
        _UnfitError: `place` is unsuitable for every process of this user.
        OSError: A temporary error prevents the check.
    """
    try:
        found = os.stat(place)
    except OSError as error:
        if error.errno in ABSENT:
            raise _UnfitError(f"{place}: {error.strerror}") from None
        raise
    if not stat.S_ISDIR(found.st_mode):
        raise _UnfitError(f"{place} is not a directory")
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise _UnfitError(f"{place}: other users can replace the files in it")
    if _is_place_on_network(place, found.st_dev):
        raise _UnfitError(f"{place} is on a network file system")
    _check_access(place, os.X_OK)  # after this, an EACCES of `check_private` is temporary
    try:
        check_private(directory)
    except FileNotFoundError:
        directory = place  # the caller makes it there later
    except NotPrivateError as error:
        _warn_once(f"the budgets of this user are kept elsewhere: {error}")
        raise _UnfitError(str(error)) from None
    _check_access(directory, os.W_OK | os.X_OK)


def _check_access(directory: str, mode: int) -> None:
    if not os.access(directory, mode):
        os.statvfs(directory)  # raises if a temporary error, and not the mode, is the reason
        raise _UnfitError(f"{directory} cannot be used with this user's rights")


def check_private(directory: str | os.PathLike[str]) -> None:
    """Check that a path is a directory of this user, and that no other user can write to it.

    Raises:
        FileNotFoundError: There is no such directory.
        NotPrivateError: The directory is not private.
        OSError: A temporary error prevents the check.
    """
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode):  # a symbolic link does not qualify
        raise NotPrivateError(f"{directory} is not a directory")
    if found.st_uid != os.getuid():
        raise NotPrivateError(f"{directory} belongs to another user (id {found.st_uid})")
    if found.st_mode & 0o022:
        raise NotPrivateError(
            f"{directory}: others can write to it (mode {found.st_mode & 0o777:o})"
        )


def is_on_network(path: str) -> bool:
    """Whether a path is on a network file system; False if the system has no table of mounts.

    Raises:
        OSError: The table of mounts cannot be read now.
    """
    try:
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.readlines()
    except FileNotFoundError:  # not Linux: the fixed places are local
        return False
    path, best, kind = os.path.realpath(path), -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        mounted = _unescaped(left.split()[4])
        inside = path == mounted or path.startswith(mounted.rstrip("/") + "/")
        if inside and len(mounted) >= best:  # of two mounts at one path, the later hides the other
            best, kind = len(mounted), right.split()[0]
    return kind in NETWORK or kind.startswith("fuse.")


@lru_cache(maxsize=8)
def _is_place_on_network(place: str, device: int) -> bool:
    return is_on_network(place)


def _unescaped(name: str) -> str:
    """Decode a mount point: the table writes blanks and backslashes as three octal digits."""
    for code in ("040", "011", "012", "134"):
        name = name.replace("\\" + code, chr(int(code, 8)))
    return name


@lru_cache(maxsize=64)
def _warn_once(text: str) -> None:
    logger.warning("%s", text)
