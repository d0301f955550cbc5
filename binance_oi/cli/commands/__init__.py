"""The name, the options and the help of each command.

The rule of this folder: a command imports its implementation when it runs. So the help page imports
no implementation, and a command imports only its own.

market.py      the exchange: get, snapshot, symbols, watch, changes, history, archive
recordings.py  recordings: record, backfill, export, copy, prune, compact, check, backup, plot,
               report
service.py     the service: serve
machine.py     this machine: budget, simulate, completion
"""

from binance_oi.cli.app import app
from binance_oi.cli.commands import machine, market, recordings, service

__all__ = ["app", "machine", "market", "recordings", "service"]
