"""What the real exchange answers today, with at most 20 weight: `nox -s live`, never in CI."""
