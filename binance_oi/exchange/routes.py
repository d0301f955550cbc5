"""Routes of the exchange, and what a request to each costs.

The rule of this file: a fact stands beside its source. Marks: [D] documented by the exchange,
[O] observed live, with the month.
"""

from typing import NamedTuple

DEFAULT_LIMIT = 2400  # weight per minute and IP [D] 2026-11; exchangeInfo tells the real one


class Endpoint(NamedTuple):
    """A route and what one request to it costs."""

    path: str
    weight: int


OPEN_INTEREST = Endpoint("/fapi/v1/openInterest", 1)  # [D] 2026-11, measured 1 [O 2026-10]
EXCHANGE_INFO = Endpoint("/fapi/v1/exchangeInfo", 1)  # [D] 2026-11; ignores ?symbol= [O 2026-10]
SERVER_TIME = Endpoint("/fapi/v1/time", 1)  # [D] 2026-11
PING = Endpoint("/fapi/v1/ping", 1)  # [D] 2026-11
PREMIUM_INDEX = Endpoint("/fapi/v1/premiumIndex", 10)  # [D] 2026-11; of every symbol
PREMIUM_INDEX_OF_ONE = Endpoint("/fapi/v1/premiumIndex", 1)  # [D] 2026-11; with ?symbol=
