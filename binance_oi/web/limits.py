"""Defines the limits of a service for its visitors: weight, requests, memory, connections.

The rule of this file: values only. Each docstring says what its number counts; `s` is seconds.
"""

from dataclasses import dataclass, fields

from binance_oi.arguments import check_count, check_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that all visitors of a service together, or one address, may use.

    Raises:
        TypeError: A value has another type.
        ValueError: A value is not above 0, or not finite.
    """

    min_age: float = 1.0
    """s: the service raises a smaller `max_age` to this value. So it reads a symbol at most once in
    this time for all visitors, unless a read fails."""
    max_wait: float = 5.0
    """s: the longest that a visitor's request waits for the budget."""
    first_sweep: float = 40.0
    """s: the longest that a request waits for the first sweep. It should be longer than one period
    plus one sweep."""
    weight: int = 300
    """Weight a minute for the requests of visitors, in addition to the weight of the poll."""
    history_requests: int = 100
    """Requests for history in 5 minutes for all visitors; the exchange allows 1000."""
    past_requests: int = 30
    """Requests a minute for the past or for changes that one address may send."""
    addresses: int = 10_000
    """Addresses whose requests the service counts at the same time."""
    listeners: int = 10_000
    """Open streams."""
    kept_events: int = 32
    """The number of latest events that the service keeps for slow listeners. A listener that is
    further behind loses events."""
    keep_alive: float = 15.0
    """s: a listener without an event for this time gets a comment, so that no proxy ends the stream
    because it is idle."""
    stalled: float = 60.0
    """s after which the service ends the stream of a listener that reads nothing."""
    symbols: int = 1000
    """Symbols that one request may name."""
    query: int = 8190
    """Characters of the query of a URL."""
    rows: int = 2000
    """Rows of the past in one answer."""
    cached_bytes: int = 32 << 20
    """Bytes of answers about the past that the service caches."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, int):
                check_count(field.name, value)
            else:
                check_number(field.name, value, above=0.0)
