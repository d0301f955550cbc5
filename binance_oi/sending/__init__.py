"""One request on the wire, and what came back.

retry.py              when a request is sent again
pacer.py              how fast requests leave
connection_limit.py   how many requests may be under way
governor.py           the queue and the gate
deadline.py           the end of a request, with one timer for all
kept_connections.py   how long a kept connection may be silent
connections.py        connections of our own and of a caller's session
transport.py          one GET, with its permit, its deadline and its errors
sender.py             the send loop: every request goes through it
shared_calls.py       calls for one thing at one time share one request
"""

from binance_oi.sending.retry import RetryPolicy

__all__ = ["RetryPolicy"]
