"""Prints the result of a command on stdout.

The rule of this file: it prints nothing until the whole result is known.
"""

import sys

from binance_oi.cli.render import (
    Sheet,
    csv_text,
    fitting_table,
    json_lines,
    omitted_columns,
    table,
)
from binance_oi.cli.screen import console
from binance_oi.cli.streams import write_note, write_out

LINES_BELOW = 3  # lines below a table: the number of omitted rows, the summary, the shell's prompt


def show(
    sheet: Sheet,
    *,
    as_json: bool = False,
    as_csv: bool = False,
    csv_safe: bool = False,
    is_cut: bool = False,
    below: int = 0,
) -> None:
    """Print a sheet. By default, print a table on a terminal and JSON lines elsewhere.

    Args:
        sheet: The sheet to print.
        as_json: Print JSON lines everywhere.
        as_csv: Print CSV everywhere.
        csv_safe: Put an apostrophe before cells that a spreadsheet would run as a formula.
        is_cut: Print only the rows that fit on the terminal, and the number of omitted rows.
        below: The number of lines that the command prints between the table and the summary.
    """
    if as_csv:
        write_out(csv_text(sheet, safe=csv_safe))
    elif as_json or not sys.stdout.isatty():
        write_out(json_lines(sheet))
    else:
        _show_table(sheet, below if is_cut else None)


def _show_table(sheet: Sheet, below: int | None) -> None:
    """Print a table, and name on stderr the columns that do not fit.

    Args:
        sheet: The sheet to print.
        below: Leave room for this many lines, and print only the rows that fit; with None, print
            every row.
    """
    screen = console(sys.stdout)
    if below is None:
        drawn, left = table(sheet, screen), 0
    else:
        lines = screen.height - LINES_BELOW - min(below, screen.height // 2)
        drawn, left = fitting_table(sheet, screen, lines)
        if omitted_columns(sheet, drawn):  # the line that names them takes the room of a row
            drawn, left = fitting_table(sheet, screen, lines - 1)
    screen.print(drawn)
    if left:
        write_out(f"  and {left} more; --all shows them, and so does a pipe\n")
    if omitted := omitted_columns(sheet, drawn):
        write_note(f"no room for {', '.join(omitted)}; a pipe shows all columns")
