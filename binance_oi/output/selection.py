"""Selects the samples that leave a recording.

The rule of this file: a sample with an impossible date is left out alone. It stays in the
recording, and one warning names it. No output shows it, or stretches over the years up to it. Dates
of 1970 or 9999 come from a clock that was never set, or from seconds taken for milliseconds.
"""

from binance_oi.exchange.headers import EARLIEST_DATE_S, END_OF_DATES_S
from binance_oi.market.rows import OddRows
from binance_oi.recorder import Samples

DATES = round(EARLIEST_DATE_S * 1000), round(END_OF_DATES_S * 1000)
"""Unix ms: the exchange can have dated a sample from the first on, and before the second."""


def dated(samples: Samples, where: object) -> Samples:
    """The samples with a possible date; a warning names the others.

    Args:
        samples: The selection.
        where: The recording, for the warning.

    Raises:
        RecordingError: The file cannot be read.
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
