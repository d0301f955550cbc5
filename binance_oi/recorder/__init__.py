"""Recording for weeks, and reading what was recorded.

A sweep reads all symbols once. A slot is a time at which a sweep is due, and a gap is one or more
slots without a sweep. A row of the past is a value that the exchange published later, in its
history or its archive.

schema.py      the tables, their versions, and the migration
sides.py       the names of the files that SQLite and a recorder keep beside a recording
connection.py  a connection to SQLite, whose statements work alike in every version of Python
opening.py     opening a recording to read it
statements.py  SQL that every store runs
tables.py      the interface through which readers use a recording
sqlite_tables.py  this interface for a file
coverage.py    sweeps and gaps, as SQL
samples.py     the samples of a recording, in order
lookup.py      the values of many symbols at a few instants
series.py      samples and rows of the past as one series
recording.py   reading a recording: samples, series, sweeps, gaps, the past
past.py        writing and reading rows of the past
lock.py        the lock that allows one recorder for each recording
slots.py       writing sweeps and gaps, even if someone sets the clock back
store.py       writing a file: one transaction for each sweep
place.py       finding an open recording, and the files of SQLite beside it, after a move
readers.py     whether a connection still reads an earlier state
log.py         whether the SQLite log beside a file belongs to that file
atomic.py      writing files that appear only when they are complete
backup.py      copying a recording while a recorder may write it
pending.py     sweeps and gaps that are not written yet
sink.py        the interface through which a recorder writes
sqlite.py      this interface for a file, even if other programs move or replace the file
writing_thread.py  the one thread in which a sink works
backfill.py    writing rows of the past into a sink
gap_filler.py  reading rows of the past for a recorder's gaps
history_cache.py  recent history in the user's cache directory
address.py     telling a file from a database by its name
postgres.py    the interface for writing, for PostgreSQL
postgres_connection.py  a connection to PostgreSQL that does not wait for ever for the server
postgres_schema.py      the tables of a database and their partitions
postgres_tables.py      the interface for reading, for PostgreSQL
postgres_compacting.py, postgres_vacuum.py  giving free space of a database to the system
stored.py      making the sink for a path or a URL
retention.py   removing old days; sqlite_keeper.py and postgres_keeper.py do it in each store
rotating.py    one file for each day or month
copying.py     copying one recording into another
check.py       finding damage and missing sweeps
care.py        pruning, compacting, copying
standby.py     waiting until another recorder ends
recorder.py    polling into a sink, and surviving failures of the poll and of the sink
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

if not TYPE_CHECKING:  # a program that only reads recordings need not import the client
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
