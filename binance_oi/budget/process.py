"""Which process a demand is of, and whether that process has ended.

The rule of this file: a process is said to be gone only where the system says so for certain. A
process id is given out again, so it is compared with the moment at which the process started; and
it means nothing in another namespace, such as that of another container.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from binance_oi.budget.demand import Process

UNTOLD = -1  # the namespace, where the system has several and does not tell which one it is
ENDED = ("Z", "X")  # states of a process that runs no more, and that nobody has waited for


def _namespace() -> int:
    if sys.platform != "linux":
        return 0
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return UNTOLD


def _stat(pid: int) -> str:
    """What Linux says of a process; OSError when there is none."""
    return Path(f"/proc/{pid}/stat").read_text("ascii", "replace")


def _fields(stat: str) -> tuple[str, int]:
    """State and start. Its name comes before them, and may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def this_process(stat: Callable[[int], str] = _stat) -> Process:
    """The process that asks."""
    pid, namespace = os.getpid(), _namespace()
    if namespace <= 0:
        return Process(namespace, pid, 0)
    try:
        return Process(namespace, pid, _fields(stat(pid))[1])
    except (OSError, IndexError, ValueError):
        return Process(UNTOLD, pid, 0)


def is_gone(process: Process, stat: Callable[[int], str] = _stat) -> bool:
    """Whether it has ended for certain."""
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
    if sys.platform == "win32":  # where a signal of 0 ends the process
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
