"""Many symbols at one moment, again and again, and back in time.

gap.py        slots without a snapshot, and why
rows.py       one observation as a row
arrow.py      rows as Arrow and Parquet
snapshot.py   the market at one moment
schedule.py   when it is the turn of a slot
listing.py    the list of symbols, and its age
sweep.py      one pass over many symbols
polling.py    snapshots on a schedule
history.py    the past, page by page
"""

from binance_oi.market.gap import Gap
from binance_oi.market.history import History, HistoryProgress
from binance_oi.market.snapshot import Snapshot

__all__ = ["Gap", "History", "HistoryProgress", "Snapshot"]
