"""Finds the values of many symbols at a few instants.

The rule of this file: it searches an index once for each value. So its time grows with the number
of values, and not with the length of the recording.
"""

from collections.abc import Iterable, Iterator, Sequence

from binance_oi.recorder.samples import Sample, check_samples, sample
from binance_oi.recorder.tables import LAST, Tables


def values_at(
    tables: Tables, symbols: Iterable[str], instants: Sequence[int], within: int
) -> Iterator[tuple[str, list[Sample | None]]]:
    """Yield each symbol with its last sample at or before each instant.

    Args:
        tables: The recording.
        symbols: The symbols, in the order of the result.
        instants: Unix ms.
        within: The greatest age of a sample at an instant, ms. If the last sample is older, the
            result has None.

    Raises:
        RecordingError: The recording cannot be read, or is damaged.
    """
    names = tuple(symbols)
    query = f"{tables.queries.samples} {LAST}"
    with tables.moment(len(names)) as run:
        for symbol in names:
            found: list[Sample | None] = []
            for instant in instants:
                rows = run.execute(query, (symbol, instant - within, instant + 1)).fetchall()
                if rows:
                    check_samples(rows, tables)
                found.append(sample(rows[0]) if rows else None)
            yield symbol, found
