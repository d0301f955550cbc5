"""Makes the package's `binance_oi.testing.virtual_clock` importable from `support` too."""

from binance_oi.testing.virtual_clock import (
    EPOCH_S,
    START_S,
    Deadlock,
    VirtualDatetime,
    VirtualLoop,
    run,
    wall_time,
)

__all__ = ["EPOCH_S", "START_S", "Deadlock", "VirtualDatetime", "VirtualLoop", "run", "wall_time"]
