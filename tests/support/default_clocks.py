"""Replacements of default clocks, a part of the package: `binance_oi.testing.default_clocks`."""

from binance_oi.testing.default_clocks import replace_default_clocks

__all__ = ["replace_default_clocks"]
