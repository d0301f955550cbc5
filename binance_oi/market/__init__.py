"""Reads many symbols: at one moment, on a schedule, and in the past.

gap.py        describes slots without a snapshot, with the reason
rows.py       converts values to rows
arrow.py      converts rows to Arrow and Parquet
snapshot.py   shows the values of many symbols at one moment
schedule.py   waits for slots, and finds the missed ones
plan.py       finds the schedules that fit into a budget
requested.py  says which requested slots have no snapshot while a slower schedule runs
listing.py    reads the list of symbols, and knows its age
answers.py    keeps the latest answers, and lets calls share a request
sweep.py      reads many symbols once
pollers.py    lets the polls of one client share requests, schedules and a budget
polling.py    snapshots on a schedule
moments.py    checks the bounds of a stretch of the past
pages.py      makes pages of the past, and finds the holes between their rows
past.py       defines the values that describe the past
history.py    reads the past 30 days, page by page
archive.py    reads the past since 2020, day by day
windows.py    checks lengths of time: steps and windows
spread.py     computes how unusual a number is among the numbers of the last days
changes.py    computes changes of open interest, from rows or during a poll
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
