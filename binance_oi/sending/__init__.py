"""Sends one request, and reads its answer.

retry.py              decides whether and when to send a failed request again
pacer.py              limits the requests per second
connection_limit.py   limits how many requests are under way at the same time
governor.py           queues calls, and admits them one by one
governors.py          makes one governor for each limit of the exchange
deadline.py           ends late calls, with one timer for all of them
local_address.py      checks whether an address of this machine is the default one
kept_connections.py   decides which kept connections may be used again
wire.py               makes the bytes of a request
plain_answers.py      reads the usual answer without an HTTP parser
parked_connections.py keeps connections that served a request a moment ago
guard.py              counts the bytes of an answer before aiohttp gets them
connections.py        opens and uses our own connections
caller_session.py     sends requests through a caller's session
transport.py          sends one GET under its permit and deadline, and converts errors
sender.py             sends every request, and sends it again after some errors
shared_calls.py       lets identical calls share one request
files.py              downloads files from a public server, without a budget
late_flush.py         flushes a pool after some time without a request
"""

from binance_oi.sending.retry import RetryPolicy

__all__ = ["RetryPolicy"]
