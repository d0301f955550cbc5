"""Finds the values of many symbols at a few instants, also in a long recording.

The rule of this file: the cost grows with the number of values that it finds, not with the number
of samples. Each value takes one search in an index.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from binance_oi.recorder.samples import LAST, SAMPLES, Sample, check_samples, open_for, sample
from binance_oi.recorder.schema import translate_read_errors


def values_at(
    path: Path, symbols: Iterable[str], instants: Sequence[int], within: int
) -> Iterator[tuple[str, list[Sample | None]]]:
    """Yield each symbol with its last sample at or before each instant.

    Args:
        path: The recording.
        symbols: The symbols to look up.
        instants: Unix ms.
        within: The greatest age of a sample at an instant, ms; an older one counts as none.

    Raises:
        RecordingError: The file cannot be read, or is damaged.
    """
    names = tuple(symbols)
    query = f"{SAMPLES} {LAST}"
    with translate_read_errors(path), closing(open_for(path, names)) as connection:
        for symbol in names:
            found: list[Sample | None] = []
            for instant in instants:
                rows = connection.execute(query, (symbol, instant - within, instant + 1)).fetchall()
                if rows:
                    check_samples(rows, path)
                found.append(sample(rows[0]) if rows else None)
            yield symbol, found
