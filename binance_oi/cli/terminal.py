"""What a command found, on stdout.

The rule of this file: in one piece, and when it is whole.
"""

import sys

from binance_oi.cli.render import Sheet, csv_text, fitting, json_lines, table
from binance_oi.cli.screen import console
from binance_oi.cli.streams import put

BELOW = 3  # lines below a table that fits: how many more, a summary, and where to type


def show(
    sheet: Sheet,
    *,
    as_json: bool = False,
    as_csv: bool = False,
    csv_safe: bool = False,
    is_cut: bool = False,
    below: int = 0,
) -> None:
    """Print all of it: a table on a terminal and JSON lines elsewhere, or as the caller says.

    Args:
        sheet: What to print.
        as_json: JSON lines everywhere.
        as_csv: CSV everywhere.
        csv_safe: In CSV, no cell can be a formula.
        is_cut: Print no more of a table than the terminal shows, and how many rows are left.
        below: Lines that the command prints after it, beside its summary.
    """
    if as_csv:
        put(csv_text(sheet, safe=csv_safe))
    elif as_json or not sys.stdout.isatty():
        put(json_lines(sheet))
    elif is_cut:
        screen = console(sys.stdout)
        drawn, left = fitting(sheet, screen, screen.height - BELOW - min(below, screen.height // 2))
        screen.print(drawn)
        if left:
            put(f"  and {left} more; --all shows them, and so does a pipe\n")
    else:
        screen = console(sys.stdout)
        screen.print(table(sheet, screen))
