"""Which process this is: a child that was forked is another one than its parent.

The rule of this file: an object to compare, and nothing to ask the system for at a request. A
process id would be one question more for each request, and is given out again after a process has
ended.
"""

import os

current: object = object()
"""This process; whoever keeps it and finds another one here was made before a fork."""


def _after_fork() -> None:
    global current
    current = object()


if hasattr(os, "register_at_fork"):  # Windows has neither
    os.register_at_fork(after_in_child=_after_fork)
