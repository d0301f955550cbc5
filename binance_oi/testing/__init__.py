"""Tools for tests of code that uses `binance_oi`. Each module is imported on first use.

client.py          a client on a local exchange of its own
virtual_clock.py   an event loop in which waiting takes no time
default_clocks.py  replaces the clocks that are default arguments
virtual_time.py    virtual loops and clocks for the length of a test
plugin.py          the fixtures for pytest: `local_exchange` and `virtual_time`

pytest finds the plugin of an installed package by itself. The local exchange is
`binance_oi.simulator`.
"""

from typing import TYPE_CHECKING

from binance_oi.lazy import on_first_use

if TYPE_CHECKING:
    from binance_oi.testing.client import SimulatedClient, simulated_client
    from binance_oi.testing.virtual_clock import VirtualLoop
    from binance_oi.testing.virtual_time import VirtualTime

__all__ = ["SimulatedClient", "VirtualLoop", "VirtualTime", "simulated_client"]

if not TYPE_CHECKING:  # a type checker reads the imports above
    __getattr__ = on_first_use(
        __name__,
        {
            "client": ("SimulatedClient", "simulated_client"),
            "virtual_clock": ("VirtualLoop",),
            "virtual_time": ("VirtualTime",),
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
