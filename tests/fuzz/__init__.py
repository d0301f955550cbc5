"""Long runs against chance, outside the default suite: `nox -s fuzz` and `nox -s soak`."""
