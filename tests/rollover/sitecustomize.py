"""Python imports a module of this name when it starts, even in a process that a test starts."""

from moved_clock import install  # type: ignore[import-not-found]  # beside this file

install()
