"""Many symbols at one moment, again and again, and back in time.

gap.py        slots without a snapshot, and why
rows.py       one observation as a row
arrow.py      rows as Arrow and Parquet
snapshot.py   the market at one moment
schedule.py   when it is the turn of a slot
plan.py       which schedule fits into a budget
asked.py      slots that were asked for, while a slower schedule is kept
listing.py    the list of symbols, and its age
answers.py    what was answered last, and who shares a request
sweep.py      one pass over many symbols
pollers.py    the polls of one client: shared requests, one schedule, one demand
polling.py    snapshots on a schedule
past.py       what was read of the past
history.py    the past, page by page
"""

from binance_oi.market.gap import Gap
from binance_oi.market.past import History, HistoryProgress
from binance_oi.market.snapshot import Snapshot

__all__ = ["Gap", "History", "HistoryProgress", "Snapshot"]
