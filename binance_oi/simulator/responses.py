"""Turns answers into HTTP responses, whose headers may be missing or wrong.

The rule of this file: it does not decide the content of an answer.
"""

import gzip
from dataclasses import dataclass
from email.utils import formatdate
from math import ceil
from random import Random
from typing import Literal, NamedTuple

from aiohttp import web
from multidict import CIMultiDict

from binance_oi.simulator.counter import OK, Verdict

GZIP_FROM_BYTES = 8192  # a small answer came plain in 2026-09, a large one with gzip in 2021
WEIGHT_HEADER = "X-MBX-USED-WEIGHT-1M"

# Names and case as in an HTTP/1.1 answer of 2021, and the headers that CloudFront adds (2026-07).
_HEADERS = {
    "Content-Type": "application/json",
    "Connection": "keep-alive",
    "Date": "",
    "Server": "Tengine",
    "Vary": "Accept-Encoding",
    WEIGHT_HEADER: "",
    "x-response-time": "0ms",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Credentials": "true",
    "Access-Control-Allow-Headers": "*,clienttype,Content-Type,lang,x-ui-request-trace,bnc-uuid",
    "Content-Security-Policy": "default-src 'self'",
    "cache-control": "no-cache, no-store, must-revalidate",
    "expires": "0",
    "pragma": "no-cache",
    "strict-transport-security": "max-age=31536000; includeSubdomains",
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "x-xss-protection": "1; mode=block",
    "X-Cache": "Miss from cloudfront",
    "Via": "1.1 0123456789abcdef0123456789abcdef.cloudfront.net (CloudFront)",
    "X-Amz-Cf-Pop": "HKG61-P1",
    "X-Amz-Cf-Id": "bG9jYWwgZXhjaGFuZ2UsIG5vdCBhIHJlYWwgb25lLCBub3QgYSByZWFsIG9uZQ==",
}


_STATIC_HEADERS = CIMultiDict(_HEADERS)


@dataclass(frozen=True, slots=True)
class Headers:
    """The faults of the headers.

    Source: missing headers and falling counts were observed. It is unknown whether
    refusals have the weight or a `Retry-After`, so both can be chosen.
    """

    missing_share: float = 0.0
    """Share of answers without the used weight."""
    behind: int = 0
    """The most by which the header may be below the count."""
    on_refusal: bool = True
    """Whether 429 and 418 have the used weight."""
    retry_after: Literal["absent", "0", "seconds"] = "absent"
    """What 429 and 418 say in `Retry-After`."""


class Answer(NamedTuple):
    status: int
    body: bytes


class Responses:
    """Makes responses.

    Args:
        headers: how reliable the headers are.
        random: the source of everything random.
    """

    def __init__(self, headers: Headers, random: Random) -> None:
        self._headers = headers
        self._random = random
        self._date = (0, "")

    def make(
        self,
        request: web.BaseRequest,
        answer: Answer,
        verdict: Verdict,
        now: float,
        *,
        has_weight: bool,
    ) -> web.Response:
        """Make the response to a request; `has_weight` says whether it may have the weight."""
        status, body = answer
        response = web.Response(body=body, status=status, headers=_STATIC_HEADERS)
        headers = response.headers
        headers["Date"] = self._date_at(int(now))
        if has_weight:
            self._write_weight(headers, verdict)
        else:
            del headers[WEIGHT_HEADER]
        if verdict.status != OK:
            self._write_retry_after(headers, verdict, now)
        if not request.keep_alive:
            headers["Connection"] = "close"
        if len(body) >= GZIP_FROM_BYTES and _takes_gzip(request):
            response.body = gzip.compress(body, compresslevel=1)
            response.enable_chunked_encoding()
            headers["Content-Encoding"] = "gzip"
        return response

    def _write_weight(self, headers: CIMultiDict[str], verdict: Verdict) -> None:
        behind = self._headers.behind
        if self._shows_weight(verdict):
            short = self._random.randint(0, behind) if behind else 0
            headers[WEIGHT_HEADER] = str(max(verdict.used - short, 1))
        else:
            del headers[WEIGHT_HEADER]

    def _shows_weight(self, verdict: Verdict) -> bool:
        if verdict.status != OK and not self._headers.on_refusal:
            return False
        share = self._headers.missing_share
        return not share or self._random.random() >= share

    def _write_retry_after(self, headers: CIMultiDict[str], verdict: Verdict, now: float) -> None:
        rule = self._headers.retry_after
        if rule != "absent":
            headers["Retry-After"] = "0" if rule == "0" else str(ceil(verdict.until - now))

    def _date_at(self, second: int) -> str:
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]


def _takes_gzip(request: web.BaseRequest) -> bool:
    accepted = request.headers.get("Accept-Encoding", "").replace(" ", "")
    return "gzip" in accepted and "gzip;q=0," not in accepted + ","
