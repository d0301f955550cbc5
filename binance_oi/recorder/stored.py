"""Makes the sink for a path or a URL.

The rule of this file: it chooses the sink by the name and the options, and opens nothing. No other
file knows all kinds of sinks.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from binance_oi.arguments import StrPath, check_count
from binance_oi.recorder.address import check_file, is_database
from binance_oi.recorder.rotating import RotatingSink, Rotation
from binance_oi.recorder.sink import Sink
from binance_oi.recorder.sqlite import SqliteSink


class SinkOptions(NamedTuple):
    """The options of a recorder for its sink."""

    source: str | None
    keep_days: int | None
    rotation: Rotation | None
    now: Callable[[], float]


def make_sink(path: StrPath | Sink, options: SinkOptions) -> tuple[Path | None, Sink]:
    """Return the path of the recording (None unless it is a single file) and its sink.

    Raises:
        TypeError: `path` is neither a path nor a sink, or `keep_days` is not an integer.
        ValueError: `path` is empty, or a URL that names no PostgreSQL database. Or an option is out
            of range, or does not fit this kind of sink.
    """
    if options.keep_days is not None:
        check_count("keep_days", options.keep_days)
    if options.rotation not in (None, "day", "month"):
        raise ValueError(f"rotate must be day or month: {options.rotation!r}")
    is_file = isinstance(path, str | os.PathLike) and not is_database(path)
    if options.rotation is not None and not is_file:
        raise ValueError("rotate is only for files")
    if is_database(path):
        from binance_oi.recorder.postgres import PostgresSink

        return None, PostgresSink(
            path, options.source, keep_days=options.keep_days, now=options.now
        )
    if isinstance(path, str | os.PathLike):
        file = check_file("path", path)
        if options.rotation is not None:
            rotation, now = options.rotation, options.now
            return None, RotatingSink(
                file, options.source, rotation, keep_days=options.keep_days, now=now
            )
        return file, SqliteSink(file, options.source, keep_days=options.keep_days, now=options.now)
    if not hasattr(path, "claim"):
        raise TypeError(f"path must be a path or a Sink: {path!r}")
    if options.keep_days is not None:
        raise ValueError("keep_days is for files and databases; a Sink has rules of its own")
    return None, path
