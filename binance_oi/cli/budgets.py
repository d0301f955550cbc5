"""What `budget` does: the budgets of this machine.

The rule of this file: nothing is sent to an exchange, and nothing is forgotten before the user saw
what it is.
"""

import socket
import sys
from collections.abc import Mapping

from binance_oi.budget import Usage, forget_pool, machine_pools
from binance_oi.budget.place import budget_directory
from binance_oi.budget.pool_file import FILE_NAME
from binance_oi.cli.endings import OK, UsageError
from binance_oi.cli.options import Output
from binance_oi.cli.render import pools_sheet
from binance_oi.cli.streams import complain, prompt
from binance_oi.errors import printable
from binance_oi.exchange.hosts import local_place
from binance_oi.times import iso

NAMED = 4  # budgets, in an error


def budgets(output: Output) -> int:
    """Show them all, and where their file is."""
    path = budget_directory() / FILE_NAME
    known = machine_pools()
    pools = {name: usage for name, usage in known.items() if not _is_over(name, usage)}
    output.show(pools_sheet(pools))
    if gone := len(known) - len(pools):
        complain(f"left out: {gone} of local ports on which nothing listens any more")
    if known:
        complain(f"from {path}")
    else:
        complain(f"no budget has been used on this machine yet; the file will be {path}")
    return OK


def forget(name: str, output: Output, *, is_agreed: bool) -> int:
    """Show one budget, ask, and forget it."""
    known = machine_pools()
    if name not in known:
        raise UsageError(f"there is no budget {printable(name)}{_names(known)}")
    output.show(pools_sheet({name: known[name]}))
    complain(f"{printable(name)}: {_held(known[name])}")
    if not is_agreed:
        if not (sys.stdin and sys.stdin.isatty()):
            raise UsageError("nobody can be asked here; --yes forgets it all the same")
        if prompt("forget this budget? [y/N] ").strip().lower() not in ("y", "yes"):
            complain("it is kept")
            return OK
    forget_pool(name)
    complain("it is forgotten; a process that runs and has used it writes it again")
    return OK


def _names(pools: Mapping[str, Usage]) -> str:
    """Which there are; local exchanges last, for a machine may have many."""
    names = sorted(pools, key=lambda name: (local_place(name) is not None, name))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"; there are {', '.join(map(printable, names[:NAMED]))}{more}" if names else ""


def _held(usage: Usage) -> str:
    """What is lost with a budget."""
    if usage.banned_until is not None:
        return (
            f"this IP address is banned until {iso(usage.banned_until)}, and requests before then "
            "make it longer"
        )
    if usage.held_until is not None:
        return f"nothing is sent before {iso(usage.held_until)}"
    return f"{usage.used} of {usage.limit} used, and nothing is held"


def _is_over(name: str, usage: Usage) -> bool:
    """Whether it is of a local exchange that is gone, and holds nothing.

    A port of this machine may also lead to the exchange itself, by a tunnel; then its hold counts.
    """
    place = local_place(name)
    return place is not None and usage.held_until is None and _is_free(place)


def _is_free(place: tuple[str, int]) -> bool:
    """Whether nobody listens there; a port that cannot be looked at is not free.

    Asked by taking it for a moment. To connect to it would disturb whoever listens.
    """
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after one that ended
            probe.bind(place)
    except OSError:
        return False
    return True
