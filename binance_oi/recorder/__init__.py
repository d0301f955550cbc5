"""Recording for weeks, and reading what was recorded.

schema.py      the tables, their versions, and the migration
sides.py       the files beside a recording
opening.py     opening a recording to read it
statements.py  SQL that every store runs
tables.py      what a reader needs of the place that holds a recording
sqlite_tables.py  the same, of a file
coverage.py    sweeps and gaps, as SQL
samples.py     its samples, in order
series.py      samples and the past as one series
recording.py   reading it: samples, series, sweeps, gaps, the past
past.py        rows of the past in it: written once, read in order
lock.py        one recorder for each recording
slots.py       what a recording knows of a slot, also when a slot occurs again
store.py       writing it: one transaction for each sweep
place.py       where an open file is now, and the files that SQLite keeps beside it
readers.py     whether a connection still reads an earlier state
log.py         which file a log belongs to
atomic.py      files that appear as a whole
backup.py      a copy of a recording, also while a recorder writes it
pending.py     sweeps and gaps that are not written yet
sink.py        what a recorder requires of a store
sqlite.py      a recording as such a store, whatever others do to its file
writing_thread.py  the one thread in which a sink works
backfill.py    instants of the past into a sink
gap_filler.py  what a recorder reads of the past for its gaps
history_cache.py  recent history in the user's cache directory
address.py     a file or a database, by its name
postgres.py    a recording in PostgreSQL as such a store
postgres_connection.py  a connection that waits for nothing for ever
postgres_schema.py      its tables and their months
postgres_tables.py      the tables, for reading
stored.py      which sink a name means
retention.py   how old days leave; sqlite_keeper.py and postgres_keeper.py: in each store
rotating.py    one file for each day or month
copying.py     one recording into another
check.py       what is damaged or missing
care.py        prune, compact, copy
standby.py     a recorder that waits until another one ends
recorder.py    polls into a sink, and outlasts the failures of both
"""

from typing import TYPE_CHECKING

from binance_oi.lazy import on_first_use

if TYPE_CHECKING:
    from binance_oi.recorder.backfill import Backfilled, BackfillProgress
    from binance_oi.recorder.past import Past
    from binance_oi.recorder.recorder import Recorder, Status
    from binance_oi.recorder.recording import Recording, Sweep
    from binance_oi.recorder.samples import Sample, Samples
    from binance_oi.recorder.series import Series
    from binance_oi.recorder.sink import Saved, Sink

__all__ = [
    "BackfillProgress",
    "Backfilled",
    "Past",
    "Recorder",
    "Recording",
    "Sample",
    "Samples",
    "Saved",
    "Series",
    "Sink",
    "Status",
    "Sweep",
]

if not TYPE_CHECKING:  # who only reads a recording imports no client
    __getattr__ = on_first_use(
        __name__,
        {
            "backfill": ("Backfilled", "BackfillProgress"),
            "past": ("Past",),
            "recorder": ("Recorder", "Status"),
            "recording": ("Recording", "Sweep"),
            "samples": ("Sample", "Samples"),
            "series": ("Series",),
            "sink": ("Saved", "Sink"),
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
