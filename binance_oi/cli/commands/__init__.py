"""What can be typed: the name, the options and the help of each command.

The rule of this folder: no command imports what it does before it runs, so that help costs nothing
and each command pays for itself alone.

market.py      the exchange: get, snapshot, symbols, watch, history
recordings.py  recordings: record, export, backup, plot, report
machine.py     this machine: budget, simulate, completion
"""

from binance_oi.cli.app import app
from binance_oi.cli.commands import machine, market, recordings

__all__ = ["app", "machine", "market", "recordings"]
