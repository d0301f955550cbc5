"""Limits concurrent requests to the number of possible connections.

The rule of this file: the governor admits a request only if a connection is available for it.
Admission charges the request for the current minute. If the request then waited for a connection,
it could be sent in the next minute.
"""

import logging

from binance_oi.arguments import check_count

logger: logging.Logger = logging.getLogger("binance_oi")

GROWTH_DIVISOR = 8  # after a shortage, the limit grows by an eighth at a time, at least by 1


class ConnectionLimit:
    """The greatest number of concurrent requests, reduced while file descriptors are scarce.

    Args:
        most: The limit that the user sets, `max_in_flight`.

    Raises:
        TypeError: `most` is not an integer.
        ValueError: `most` is not above 0.
    """

    def __init__(self, most: int) -> None:
        self.most: int = check_count("max_in_flight", most)
        self.now: int = self.most
        """The limit at present."""
        self._answers = 0  # the number of answers since the limit changed
        self._has_warned = False

    def lower(self, in_flight: int) -> bool:
        """Lower the limit to the number of open connections, after a request got no connection.

        Args:
            in_flight: The number of requests under way, including that request.

        Returns:
            Whether other requests are under way, so that this request can wait for a connection of
            theirs. If not, the limit stays as it is.
        """
        if in_flight <= 1:
            return False
        if not self._has_warned:  # warn once, although the limit may rise and fall many times
            self._has_warned = True
            logger.warning(
                "too few file descriptors for %d connections: requests wait for open connections",
                self.most,
            )
        self.now, self._answers = in_flight - 1, 0
        return True

    def answered(self) -> None:
        """Count an answer. After `most` of them, raise the limit a little."""
        if self.now == self.most:  # nearly always
            return
        self._answers += 1
        if self._answers >= self.most:
            self.now = min(self.most, self.now + max(1, self.now // GROWTH_DIVISOR))
            self._answers = 0
