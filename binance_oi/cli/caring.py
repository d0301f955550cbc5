"""The commands `copy`, `prune`, `compact` and `check`.

The rule of this file: `check` prints its findings as lines, or as a JSON object. Each other command
prints one line about its result. No command needs a client or an event loop.
"""

from contextlib import ExitStack
from pathlib import Path

from binance_oi.cli.endings import OK, SOME_FAILED, as_usage_errors
from binance_oi.cli.outputs import bar
from binance_oi.cli.render import counted
from binance_oi.cli.streams import write_note, write_out
from binance_oi.errors import printable
from binance_oi.recorder import care
from binance_oi.recorder.address import is_database, shown
from binance_oi.recorder.check import Check
from binance_oi.recorder.check import check as found_in
from binance_oi.recorder.recording import Recording
from binance_oi.times import instant, plain

MAX_FAILED = 10  # the most lines about symbols that sweeps failed to read


def copy(source: str | Path, target: str | Path) -> int:
    """Copy a recording into another one, and print how many rows the other one gained."""
    with ExitStack() as stack:
        with as_usage_errors(storage=True):
            with Recording(source) as opened:
                total = sum(sweep.new for sweep in opened.sweeps())
            copy_all = stack.enter_context(care.prepared_copy(source, target))
        # From here on, an error is no `UsageError`, because the target may have new rows.
        with bar("copying", total) as on_rows:
            added = copy_all(on_rows)
    write_note(f"{_name(target)} gained {counted(added, 'row')} from {_name(source)}")
    return OK


def prune(place: str | Path, keep_days: int) -> int:
    """Remove old days, and print their number."""
    with as_usage_errors():
        days = care.prune(place, keep_days)
    removed = f"{counted(days, 'day')} removed from {_name(place)}"
    write_note(removed if days else "no day is that old")
    return OK


def compact(place: str | Path) -> int:
    """Return free space to the system, and print both sizes, or that nothing was free."""
    with as_usage_errors():
        before, after = care.compact(place)
    now = "nothing to return" if after == before else f"now {after:,}"
    write_note(f"{_name(place)}: {before:,} bytes, {now}")
    return OK


def check(place: str | Path, *, as_json: bool) -> int:
    """Print what is damaged, missing or incomplete; the exit code shows whether there is any."""
    with as_usage_errors(), Recording(place) as recording:
        found = found_in(recording)
    write_out(f"{found.to_json()}\n" if as_json else "".join(f"{line}\n" for line in lines(found)))
    return OK if found.is_whole else SOME_FAILED


def lines(found: Check) -> list[str]:
    """Return the result of a check as lines for people."""
    counts = [f"sweeps {found.sweeps:,}", f"rows {found.rows:,}"]
    if found.pruned:
        counts.append(f"days pruned {found.pruned:,}")
    said = [", ".join(counts)]
    if found.copying is not None:
        source = printable(found.copying)
        said.append(f"incomplete: the copy from {source} has not ended; run it again to continue")
    said += [f"DAMAGED: {printable(what, 500)}" for what in found.damage]
    said += [f"missing: {counted(slots, 'slot')}: {printable(why)}" for why, slots in found.missed]
    if found.unaccounted:
        said.append(f"missing: {counted(found.unaccounted, 'slot')}, and no gap gives the reason")
        said += [
            f"  from {plain(instant(first))} to {plain(instant(last))} UTC"
            for first, last in found.stretches
        ]
    said += [
        f"missing: {symbol} in {counted(sweeps, 'sweep')}: {printable(why)}"
        for symbol, why, sweeps in found.failed[:MAX_FAILED]
    ]
    if len(found.failed) > MAX_FAILED:
        said.append(f"missing: {len(found.failed) - MAX_FAILED:,} more symbols in some sweeps")
    if len(said) > 1:
        return said
    whole = "whole: every slot has its sweep"
    empty = (
        "no slots besides those of pruned days" if found.pruned else "no slots: no sweep was due"
    )
    return [*said, whole if found.sweeps else empty]


def _name(place: str | Path) -> str:
    return shown(place) if is_database(place) else str(place)
