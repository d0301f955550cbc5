"""A command that pauses in the middle of writing: `python exporting_process.py export ...`.

Rule of this file: it is the command line itself, but after the first rows it prints `writing` and
waits until its input ends, so that a test knows when to send a signal.
"""

import sys
from typing import Any

from binance_oi.cli import main, recording
from binance_oi.output.export import export


def wait(_: int) -> None:
    print("writing", flush=True)
    sys.stdin.read()


def export_and_wait(*arguments: Any, **options: Any) -> int:
    return export(*arguments, **{**options, "on_rows": wait})


if __name__ == "__main__":
    setattr(recording, "export_to", export_and_wait)  # noqa: B010 - it is not a public name
    sys.exit(main(sys.argv[1:]))
