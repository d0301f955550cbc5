"""A local exchange that answers and counts weight as Binance USDⓈ-M Futures does.

It serves our tests and yours. It shares no code with the client and imports no other
part of `binance_oi`: otherwise an error that both sides share would pass every test.
"""

from binance_oi.simulator.app import Change
from binance_oi.simulator.archive import Files
from binance_oi.simulator.commands import Admin, Commands
from binance_oi.simulator.counter import Bans, Bursts, Others, Steady
from binance_oi.simulator.history import Pages, Row
from binance_oi.simulator.local import LocalExchange, spawn
from binance_oi.simulator.responses import Headers

__all__ = [
    "Admin",
    "Bans",
    "Bursts",
    "Change",
    "Commands",
    "Files",
    "Headers",
    "LocalExchange",
    "Others",
    "Pages",
    "Row",
    "Steady",
    "spawn",
]
