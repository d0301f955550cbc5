"""Recording for weeks, and reading what was recorded.

schema.py      the tables, the versions, and what makes one of another
sides.py       the files beside it
opening.py     opening it to read
recording.py   reading it: samples, sweeps, gaps
lock.py        one recorder for each recording
slots.py       what is known of a slot, also when slots come a second time
store.py       writing it: one transaction for each sweep
place.py       where an open file is by now, and the files that SQLite keeps beside it
readers.py     whether somebody still reads an earlier moment of it
backup.py      a copy of it, also while it is written
pending.py     what is not written yet, and how much of it is kept
sink.py        what a recorder needs of a place to store
sqlite.py      a recording as such a place, whatever happens to its file
recorder.py    polls into a sink, and goes on whatever happens to either
"""

from typing import TYPE_CHECKING

from binance_oi.lazy import on_first_use

if TYPE_CHECKING:
    from binance_oi.recorder.recorder import Recorder, Status
    from binance_oi.recorder.recording import Recording, Sample, Samples, Sweep
    from binance_oi.recorder.sink import Saved, Sink

__all__ = ["Recorder", "Recording", "Sample", "Samples", "Saved", "Sink", "Status", "Sweep"]

if not TYPE_CHECKING:  # who only reads a recording imports no client
    __getattr__ = on_first_use(
        __name__,
        {
            "recorder": ("Recorder", "Status"),
            "recording": ("Recording", "Sample", "Samples", "Sweep"),
            "sink": ("Saved", "Sink"),
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
