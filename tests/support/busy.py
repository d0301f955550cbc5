"""Lines on stderr that only a busy machine causes.

Rule of this file: it drops a line only if the machine was too slow for the process, which is no
defect of the process.
"""

import re

# asyncio's debug mode names steps that took longer than usual, and a poll names slots that it
# missed because the machine did not run it in time.
_BUSY = re.compile(r"Executing <|(binance-oi: )?no snapshot for .* UTC: (late|overrun)\b")


def without_busy(text: str) -> list[str]:
    """Return the other lines."""
    return [line for line in text.splitlines() if not _BUSY.match(line)]
