"""Distinguishes a forked child from its parent.

The rule of this file: compare an object instead of asking the system. A process id would cost a
system call for each request, and the system reuses it after a process has ended.
"""

import os

current: object = object()
"""Identifies this process. If an object has kept another value, it was made before a fork."""


def _after_fork() -> None:
    global current
    current = object()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)
