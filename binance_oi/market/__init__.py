"""Many symbols at one moment, again and again, and back in time.

gap.py        slots without a snapshot, with the reason
rows.py       one observation as a row
arrow.py      rows as Arrow and Parquet
snapshot.py   the market at one moment
schedule.py   when each slot is due
plan.py       which schedule fits into a budget
requested.py  the slots of the requested schedule, while a slower one runs
listing.py    the list of symbols, and its age
answers.py    the latest answers, and which calls share a request
sweep.py      one pass over many symbols
pollers.py    the polls of one client: shared requests, one schedule, one demand
polling.py    snapshots on a schedule
moments.py    bounds of a stretch of the past
past.py       what was read of the past
history.py    the past, page by page
archive.py    the past since 2020, day by day
windows.py    lengths of time over which open interest is compared
spread.py     how unusual one number is among those of the last days
changes.py    how open interest changes, in rows that are there and during a poll
"""

from binance_oi.market.changes import Change, ChangeTracker, changes_of
from binance_oi.market.gap import Gap
from binance_oi.market.past import History, HistoryProgress, Instant, Point
from binance_oi.market.snapshot import Snapshot

__all__ = [
    "Change",
    "ChangeTracker",
    "Gap",
    "History",
    "HistoryProgress",
    "Instant",
    "Point",
    "Snapshot",
    "changes_of",
]
