"""How many requests may be under way at once: as many as there can be connections.

The rule of this file: a request that has no connection is not under way. A permit that waited for
one would be booked for a time at which it is not sent.
"""

import logging

from binance_oi.arguments import check_count

logger: logging.Logger = logging.getLogger("binance_oi")

PART = 8  # of the connections; so many more are tried after a shortage, and at least one


class ConnectionLimit:
    """The most requests under way; fewer while the system has too few file descriptors.

    Args:
        most: What the user allows.

    Raises:
        TypeError: `most` is no integer.
        ValueError: It is not above 0.
    """

    def __init__(self, most: int) -> None:
        self.most: int = check_count("max_in_flight", most)
        self.now: int = self.most
        """What is possible at present."""
        self._answers = 0  # since that was changed

    def make_do(self, in_flight: int) -> bool:
        """Get along with the connections that are open: there is no descriptor for another one.

        Args:
            in_flight: Requests under way, with the one that has no connection.

        Returns:
            Whether there are others under way, for whose connections that one can wait.
        """
        if in_flight <= 1:
            return False
        if self.now == self.most:
            logger.warning(
                "too few file descriptors for %d connections: requests wait for open ones",
                self.most,
            )
        self.now, self._answers = in_flight - 1, 0
        return True

    def answered(self) -> None:
        """An answer came: after as many of them as `most`, try a few more connections."""
        self._answers += 1
        if self._answers >= self.most:
            self.now = min(self.most, self.now + max(1, self.now // PART))
            self._answers = 0
