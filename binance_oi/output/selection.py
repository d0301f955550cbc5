"""Which samples leave a recording.

The rule of this file: a sample whose date cannot be true costs itself. It stays in the recording;
what is made of the others neither shows it nor grows with the years between, and one warning names
it. A date of 1970 or of 9999 is a clock that was never set, or seconds taken for milliseconds.
"""

from pathlib import Path

from binance_oi.exchange.headers import FAR, OPENED
from binance_oi.market.rows import OddRows
from binance_oi.recorder import Samples

DATES = round(OPENED * 1000), round(FAR * 1000)
"""Unix ms: from the first on, and before the second, the exchange can have dated a sample."""


def dated(samples: Samples, where: Path) -> Samples:
    """Those with a date that can be true; a warning names the others.

    Args:
        samples: The selection.
        where: The recording.

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
        odd.tell(where)
    return samples.between(first, end)
