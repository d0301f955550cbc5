"""Where the shared file is: one directory for all processes of a user.

The rule of this file: nothing of a session counts. A login shell, cron, a service and `su` have
another `XDG_RUNTIME_DIR`, `TMPDIR`, `HOME` and working directory, and the same user id. So the
places are fixed, their order is fixed, and a place is left out only for a reason that every process
of this user finds. An error that passes is no such reason: it goes to the caller, who tries again.
The one variable that counts is ours, and the user sets it on purpose.
"""

import errno
import logging
import os
import stat
from functools import lru_cache
from pathlib import Path

logger: logging.Logger = logging.getLogger("binance_oi")

VARIABLE = "BINANCE_OI_BUDGET_DIR"
# In this order. /dev/shm: in memory, so that no write waits for a disk, and a service with
# `PrivateTmp=` sees it like everybody else; it has another /tmp and another /var/tmp.
# /run/user/UID is none of them: it comes with a login and goes with a logout. logind may empty
# /dev/shm of a user's files at the last logout (`RemoveIPC=`): processes that run write the file
# again with all that they know, and what only ended processes knew is gone.
PLACES = ("/dev/shm", "/var/tmp", "/tmp")
ADVICE = f"{VARIABLE} can name a private directory on a local disk"
# A lock there holds for one machine only, or not at all, and a write may wait for minutes.
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
    """The directory of this user's budgets; makes nothing.

    Every process of a user gets the same answer, whatever its environment is. A place that
    somebody else has taken is left out with a warning.

    Raises:
        OSError: There is no place for it, or nobody can say now whether a place is fit.
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
    raise OSError(f"there is no place for it: {'; '.join(reasons)} ({ADVICE})")


class _UnfitError(Exception):
    """Why a place is left out."""


class NotPrivateError(PermissionError):
    """A directory in which others can do something; found by us, not by the system."""


def _check_place(place: str, directory: str) -> None:
    """That the directory is in a fit place, or can be made there.

    Raises:
        _UnfitError: It is not, for every process of this user.
        OSError: That cannot be said now.
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
        raise _UnfitError(f"{place}: anybody can replace what is in it")
    if _is_place_on_network(place, found.st_dev):
        raise _UnfitError(f"{place} is on a network file system")
    _check_access(place, os.X_OK)  # before its entries are read: EACCES is then one that passes
    try:
        check_private(directory)
    except FileNotFoundError:
        directory = place  # to be made there
    except NotPrivateError as error:
        _warn_once(f"the budgets of this user are not kept there: {error}")
        raise _UnfitError(str(error)) from None
    _check_access(directory, os.W_OK | os.X_OK)


def _check_access(directory: str, mode: int) -> None:
    if not os.access(directory, mode):  # it says so after any error, so a second call has to raise
        os.statvfs(directory)
        raise _UnfitError(f"{directory} cannot be written to")


def check_private(directory: str | os.PathLike[str]) -> None:
    """That a directory is a real one, of this user, and that nobody else can write to it.

    Raises:
        FileNotFoundError: There is none.
        NotPrivateError: It is not private.
        OSError: That cannot be said now.
    """
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode):  # a link is none
        raise NotPrivateError(f"{directory} is not a directory")
    if found.st_uid != os.getuid():
        raise NotPrivateError(f"{directory} belongs to somebody else (user id {found.st_uid})")
    if found.st_mode & 0o022:
        raise NotPrivateError(
            f"{directory}: others can write to it (mode {found.st_mode & 0o777:o})"
        )


def is_on_network(path: str) -> bool:
    """Whether a path is on a file system that other machines share, as far as the system tells.

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
        if inside and len(mounted) >= best:  # of two at one point, the later one hides the other
            best, kind = len(mounted), right.split()[0]
    return kind in NETWORK or kind.startswith("fuse.")


@lru_cache(maxsize=8)
def _is_place_on_network(place: str, device: int) -> bool:
    return is_on_network(place)


def _unescaped(name: str) -> str:
    """A mount point as it is; the table writes blanks and backslashes as three octal digits."""
    for code in ("040", "011", "012", "134"):
        name = name.replace("\\" + code, chr(int(code, 8)))
    return name


@lru_cache(maxsize=64)
def _warn_once(text: str) -> None:
    logger.warning("%s", text)
