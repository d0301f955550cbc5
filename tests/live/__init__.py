"""Asks the real exchange, with at most 20 weight: `nox -s live`, never in CI."""
