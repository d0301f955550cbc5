"""Selects the samples for an export or a report.

The rule of this file: no output contains a sample with an impossible date, such as one in 1970 or
9999. Otherwise a chart would stretch over all the years up to that date. Such samples stay in the
recording, and one warning counts them and names the first. They come from a clock that was never
set, or from a time in seconds that a program took for milliseconds.
"""

from binance_oi.exchange.headers import EARLIEST_DATE_S, END_OF_DATES_S
from binance_oi.market.rows import OddRows
from binance_oi.recorder import Samples

DATES = round(EARLIEST_DATE_S * 1000), round(END_OF_DATES_S * 1000)
"""The range of possible dates, Unix ms: the first is included, the second is not."""


def dated(samples: Samples, where: object) -> Samples:
    """Return the samples with a possible date, and log a warning about the other samples.

    Args:
        samples: The samples to select from.
        where: The recording, for the warning.

    Raises:
        RecordingError: The recording cannot be read.
    """
    first, end = DATES
    span = samples.span()
    if span is not None and not (first <= span[0] and span[1] < end):
        odd = OddRows()
        for part in (samples.between(samples.since, first), samples.between(end, samples.until)):
            for row in part.rows():
                odd.add(row, "its date")
        odd.warn(where)
    return samples.between(first, end)
