"""The command line: arguments in, tables or JSON lines out, errors to exit codes.

endings.py    exit codes, and errors in one line
streams.py    lines and text to stdout and stderr
app.py        the program and its help
options.py    the options that commands share
commands/     what can be typed: names, options and help, and nothing of what they do
program.py    one command, from the arguments to the exit code
render.py     values as text; touches nothing
screen.py     what a terminal can show
terminal.py   what a command found, on stdout
progress.py   what is to be seen while a command reads
reading.py    `get`, `snapshot`, `symbols`
watching.py   `watch`
history.py    `history`
recording.py  `record`
outputs.py    `export`, `backup`, `plot`, `report`
budgets.py    `budget`
simulating.py `simulate`

Needs the extra ``cli`` (cyclopts and rich). A command imports what it does when it runs.
"""

from binance_oi.cli.program import main

__all__ = ["main"]
