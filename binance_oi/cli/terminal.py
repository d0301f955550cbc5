"""What a command found, on stdout.

The rule of this file: in one piece, and when it is whole.
"""

import sys

from binance_oi.cli.render import Sheet, csv_text, json_lines, table
from binance_oi.cli.screen import console
from binance_oi.cli.streams import put


def show(sheet: Sheet, *, as_json: bool = False, as_csv: bool = False) -> None:
    """Print all of it: as told; otherwise a table on a terminal and JSON lines elsewhere."""
    if as_csv:
        put(csv_text(sheet))
    elif as_json or not sys.stdout.isatty():
        put(json_lines(sheet))
    else:
        console(sys.stdout).print(table(sheet))
