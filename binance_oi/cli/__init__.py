"""The command line: it reads arguments, prints tables or JSON lines, and returns an exit code.

endings.py    exit codes, and errors in one line
streams.py    writes lines and text to stdout and stderr
app.py        the program and its help
options.py    the options that commands share
commands/     the name, the options and the help of each command
program.py    runs one command, from the arguments to the exit code
render.py     values as text; does no I/O
screen.py     rich's view of a terminal
terminal.py   prints the result of a command on stdout
progress.py   shows the progress of a command that reads
reading.py    `get`, `snapshot`, `symbols`
watching.py   `watch`
comparing.py  `changes`
history.py    `history`
archiving.py  `archive`, `backfill`
recording.py  `record`
outputs.py    `export`, `backup`, `plot`, `report`
caring.py     `copy`, `prune`, `compact`, `check`
budgets.py    `budget`
simulating.py `simulate`
serving.py    `serve`
signals.py    lets signals stop a long-running command

It needs the extra ``cli`` (cyclopts and rich). A command imports its implementation when it runs.
"""

from binance_oi.cli.program import main

__all__ = ["main"]
