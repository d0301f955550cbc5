"""A clock that a test moves.

Rule of this file: time passes only when a test moves the clock.
"""

NOON = 1_795_435_200.0  # the beginning of a minute, Unix s


class Time:
    """A clock in monotonic seconds that only `move` advances; it starts 10 s into a minute."""

    def __init__(self) -> None:
        self.now = 10.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return NOON + self.now

    def move(self, seconds: float) -> None:
        self.now += seconds
