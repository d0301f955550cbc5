"""Sends one request, and reads the response.

retry.py              when a request is sent again
pacer.py              how fast requests leave
connection_limit.py   how many requests may be under way
governor.py           the queue and the gate
governors.py          one governor for each limit
deadline.py           the end of a request, with one timer for all
local_address.py      which address of this machine a request comes from
kept_connections.py   how long a kept connection may be silent
wire.py               the bytes of a request
plain_answers.py      the usual answer, read without a parser
parked_connections.py connections that have just served
guard.py              what stands between a connection and aiohttp
connections.py        connections of our own session
caller_session.py     requests through a caller's session
transport.py          one GET, with its permit, its deadline and its errors
sender.py             the send loop: every request goes through it
shared_calls.py       identical calls at the same time share one request
"""

from binance_oi.sending.retry import RetryPolicy

__all__ = ["RetryPolicy"]
