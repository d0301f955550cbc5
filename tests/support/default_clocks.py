"""Makes the package's `binance_oi.testing.default_clocks` importable from `support` too."""

from binance_oi.testing.default_clocks import replace_default_clocks

__all__ = ["replace_default_clocks"]
