"""What `budget` does: the budgets of this machine.

The rule of this file: nothing is sent to an exchange.
"""

from binance_oi.budget import machine_pools
from binance_oi.budget.place import budget_directory
from binance_oi.budget.pool_file import FILE_NAME
from binance_oi.cli.endings import OK
from binance_oi.cli.options import Output
from binance_oi.cli.render import pools_sheet
from binance_oi.cli.streams import complain


def budgets(output: Output) -> int:
    """Show them all, and where their file is."""
    path = budget_directory() / FILE_NAME
    pools = machine_pools()
    output.show(pools_sheet(pools))
    if pools:
        complain(f"from {path}")
    else:
        complain(f"no budget has been used on this machine yet; the file will be {path}")
    return OK
