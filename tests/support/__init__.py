"""What several tests need: exchanges, clocks, recordings, and where files of ours are."""

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent  # a process that imports `support` starts here
ROOT = TESTS.parent
