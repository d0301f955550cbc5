"""Shared parts of tests: exchanges, clocks, recordings, and paths."""

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent  # the working directory of processes that import `support`
ROOT = TESTS.parent
