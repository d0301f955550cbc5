"""Shared parts of tests: exchanges, clocks, recordings, and paths."""

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent  # a process that imports `support` starts here
ROOT = TESTS.parent
