"""The command `budget`: shows and forgets the budgets of this machine.

The rule of this file: the command sends nothing to an exchange. It shows a budget, and only then
forgets it.
"""

import socket
import sys
from collections.abc import Mapping

from binance_oi.budget import Usage, forget_pool, machine_pools
from binance_oi.budget.place import budget_directory
from binance_oi.budget.pool_file import FILE_NAME
from binance_oi.cli.endings import OK, UsageError, as_usage_errors
from binance_oi.cli.options import Output
from binance_oi.cli.render import counted, pools_sheet
from binance_oi.cli.streams import prompt, write_note
from binance_oi.cli.summary import write_summary
from binance_oi.errors import TransportError, printable
from binance_oi.exchange.hosts import local_place
from binance_oi.times import iso

MAX_NAMED = 4  # budgets that an error names


def budgets(output: Output) -> int:
    """Show the budgets, but not those of ended local exchanges, and the path of their file."""
    path = budget_directory() / FILE_NAME
    known = machine_pools()
    pools = {name: usage for name, usage in known.items() if not _is_leftover(name, usage)}
    if pools or not output.is_table:  # an empty table would be an empty line
        output.show(pools_sheet(pools))
    if gone := len(known) - len(pools):
        write_note(f"left out: {counted(gone, 'budget')} of local ports where nothing listens")
    if known:
        write_note(f"the budgets are in {path}")
    else:
        write_note(f"no budget has been used on this machine yet; the file will be {path}")
    return OK


def shared(server: str, egress: str, output: Output) -> int:
    """Show the budgets of one public address on a server, and how many processes share each."""
    import asyncio  # here: `budgets` does not need it, and the import would double its time

    from binance_oi.budget.record_server import ServerError
    from binance_oi.budget.redis import redis_pools

    try:
        with as_usage_errors():
            pools = asyncio.run(redis_pools(server, egress))
    except ServerError as error:
        raise TransportError(
            f"the server of the budget does not answer: {error}", "later"
        ) from error
    if pools or not output.is_table:
        output.show(pools_sheet({name: found.usage for name, found in pools.items()}))
    for name, found in sorted(pools.items()):
        count = counted(found.members, "process", "processes")
        write_note(f"{printable(name)}: {count} took part in the last two minutes")
    if not pools:
        write_note(f"no budget has been used behind {egress} yet")
    return OK


def forget(name: str, output: Output, *, is_agreed: bool) -> int:
    """Show one budget, ask the user unless `is_agreed`, and delete the budget's record."""
    known = machine_pools()
    if name not in known:
        raise UsageError(f"there is no budget {printable(name)}{_names(known)}")
    output.show(pools_sheet({name: known[name]}))
    write_summary(f"{printable(name)}: {_loss(known[name])}")
    if not is_agreed:
        if not (sys.stdin and sys.stdin.isatty()):
            raise UsageError("stdin is not a terminal, so no user can confirm; add --yes")
        if prompt("forget this budget? [y/N] ").strip().lower() not in ("y", "yes"):
            write_note("budget kept")
            return OK
    forget_pool(name)
    write_note("budget forgotten; a process that still uses it will write it again")
    return OK


def _names(pools: Mapping[str, Usage]) -> str:
    """Name the existing budgets, for an error; those of local exchanges come last."""
    names = sorted(pools, key=lambda name: (local_place(name) is not None, name))
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"; there are {', '.join(map(printable, names[:MAX_NAMED]))}{more}" if names else ""


def _loss(usage: Usage) -> str:
    """Return a text about the ban, the cooldown or the used weight that would be forgotten."""
    if usage.banned_until is not None:
        return (
            f"this IP address is banned until {iso(usage.banned_until)}, and requests before then "
            "extend the ban"
        )
    if usage.held_until is not None:
        return f"nothing is sent before {iso(usage.held_until)}"
    return f"{usage.used} of {usage.limit} used in this minute, and no cooldown"


def _is_leftover(name: str, usage: Usage) -> bool:
    """Whether a budget has no cooldown and belongs to a local exchange that has ended.

    With a cooldown it stays in the list: a port of this machine may be a tunnel to the exchange.
    """
    place = local_place(name)
    return place is not None and usage.held_until is None and _is_free(place)


def _is_free(place: tuple[str, int]) -> bool:
    """Whether no program listens on a local port; False if the system forbids the check.

    The check binds the port for a moment. To connect instead would disturb a listening program.
    """
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Without this option, a port stays occupied for a while after its program has ended.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError:
        return False
    return True
