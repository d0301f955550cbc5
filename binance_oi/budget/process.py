"""Identifies the process that declared a demand, and checks whether it has ended.

The rule of this file: we treat a process as ended only if the system leaves no doubt. The system
reuses process ids. So on Linux we compare the start of the process too; elsewhere, a process with a
reused id looks like the old one. A process id means nothing in another namespace, such as that of
another container.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from binance_oi.budget.demand import Process

UNKNOWN_NAMESPACE = -1  # the system has namespaces, but does not say which one is ours
ENDED = ("Z", "X")  # states of a process that has ended, but that the system still lists


def _namespace() -> int:
    if sys.platform != "linux":
        return 0
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return UNKNOWN_NAMESPACE


def _stat(pid: int) -> str:
    """Read the `stat` file of a process on Linux.

    Raises:
        OSError: There is no such process, or we may not read the file.
    """
    return Path(f"/proc/{pid}/stat").read_text("ascii", "replace")


def _fields(stat: str) -> tuple[str, int]:
    """Return the state and the start of a process from the text of its `stat` file.

    Both follow the name of the process, which is in brackets and may itself contain brackets. So we
    read what follows the last bracket.
    """
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def this_process(stat: Callable[[int], str] = _stat) -> Process:
    """Return the identity of the current process."""
    pid, namespace = os.getpid(), _namespace()
    if namespace <= 0:
        return Process(namespace, pid, 0)
    try:
        return Process(namespace, pid, _fields(stat(pid))[1])
    except (OSError, IndexError, ValueError):
        return Process(UNKNOWN_NAMESPACE, pid, 0)


def is_gone(process: Process, stat: Callable[[int], str] = _stat) -> bool:
    """Whether a process has certainly ended."""
    if process.namespace != _namespace() or process.namespace < 0 or process.pid <= 0:
        return False
    if process.namespace == 0:
        return _is_unknown(process.pid)
    try:
        state, start = _fields(stat(process.pid))
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (OSError, IndexError, ValueError):
        return False
    return state in ENDED or start != process.start


def _is_unknown(pid: int) -> bool:
    """Whether no process has this id."""
    if sys.platform == "win32":  # there `os.kill` with a signal of 0 would end the process
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
