"""A transport whose permits record how they ended.

Rule of this file: a permit stands for one request that may be sent. These permits belong to no
budget.
"""

from collections.abc import Mapping
from typing import cast

import aiohttp

from binance_oi.sending.governor import Permit
from binance_oi.sending.transport import Answer, Transport
from binance_oi.sending.wire import ready_url

__all__ = ["PATH", "Record", "Sender"]

PATH = "/fapi/v1/openInterest"


class Record:
    """A permit that records how it ended."""

    def __init__(self) -> None:
        self.fate = "may have been counted"

    def may_send(self) -> bool:
        return True

    def settle(self, status: int, headers: Mapping[str, str]) -> None:
        self.fate = f"settled {status}"

    def refund(self) -> None:
        if self.fate == "may have been counted":
            self.fate = "refunded"


class Sender:
    """A transport that records how each of its permits ended."""

    def __init__(self, session: aiohttp.ClientSession | None = None, **options: object) -> None:
        self.transport = Transport(session=session, **options)  # type: ignore[arg-type]
        self.permits: list[Record] = []

    async def get(self, base_url: str, *, max_bytes: int = 65_536, timeout: float = 10.0) -> Answer:
        permit = Record()
        self.permits.append(permit)
        url = ready_url(base_url, PATH, {"symbol": "BTCUSDT"})
        return await self.transport.get(url, cast(Permit, permit), max_bytes, timeout)

    @property
    def fates(self) -> list[str]:
        return [permit.fate for permit in self.permits]

    async def __aenter__(self) -> "Sender":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.transport.aclose()
