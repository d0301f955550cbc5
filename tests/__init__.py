"""Puts this folder on the path of a program such as `python -m tests.benchmarks`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
