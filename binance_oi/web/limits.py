"""How much visitors may cost: weight, requests, memory, connections.

The rule of this file: values only. Each number says what it protects.
"""

from dataclasses import dataclass, fields

from binance_oi.arguments import check_count, check_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What all visitors of a service together, or one address, may cost.

    Raises:
        TypeError: A value has another type.
        ValueError: A value is not above 0.
    """

    min_age: float = 1.0
    """s: a smaller `max_age` counts as this one. So a symbol costs at most one request in it."""
    max_wait: float = 5.0
    """s: the longest that a visitor's request waits for the budget."""
    first_sweep: float = 40.0
    """s: the longest that a request waits for the first sweep: a period, and the sweep."""
    weight: int = 300
    """Weight a minute that requests of visitors may cost beside the poll."""
    history_requests: int = 100
    """Requests in 5 minutes that visitors may cost of the exchange's limit on history."""
    past_requests: int = 30
    """Requests a minute for the past that one address may make."""
    addresses: int = 10_000
    """Addresses whose requests are counted at the same time."""
    listeners: int = 10_000
    """Open streams."""
    kept_events: int = 32
    """Events that wait for a slow listener; what it misses beyond these is lost."""
    keep_alive: float = 15.0
    """s without an event after which a listener gets a comment: no proxy ends a stream then."""
    stalled: float = 60.0
    """s after which the service ends the stream of a listener that takes nothing."""
    symbols: int = 1000
    """Symbols that one request may name."""
    query: int = 8190
    """Characters of a query."""
    rows: int = 2000
    """Rows of the past in one answer."""
    cached_bytes: int = 32 << 20
    """Bytes of answers about the past that are kept."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, int):
                check_count(field.name, value)
            else:
                check_number(field.name, value, above=0.0)
