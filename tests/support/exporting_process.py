"""A command that pauses in the middle of writing: `python exporting_process.py export ...`.

Rule of this file: it runs the command line itself. After the first rows, it prints `writing` and
waits until its input ends, so that a test knows when to send a signal.
"""

import sys
from typing import Any

from binance_oi import output
from binance_oi.cli import main
from binance_oi.output import export


def wait(_: int) -> None:
    print("writing", flush=True)
    sys.stdin.read()


def export_and_wait(*arguments: Any, **options: Any) -> int:
    return export(*arguments, **{**options, "on_rows": wait})


if __name__ == "__main__":
    setattr(output, "export", export_and_wait)  # noqa: B010 - of another type
    sys.exit(main(sys.argv[1:]))
