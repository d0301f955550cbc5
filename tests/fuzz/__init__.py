"""Long random runs outside the default suite: `nox -s fuzz` and `nox -s soak`."""
