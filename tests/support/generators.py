"""Notes in which order generators and their owners end.

The rule of this file: a test sees the order itself. What asyncio logs about a generator that it
cannot close depends on chance.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from binance_oi import Archive, OpenInterestClient


def note_ends(
    monkeypatch: pytest.MonkeyPatch, owner: type[Archive | OpenInterestClient], name: str
) -> list[str]:
    """Note when the generator of the method `name`, and when its owner is closed, in a list."""
    ended: list[str] = []
    method: Callable[..., AsyncGenerator[Any]] = getattr(owner, name)
    close: Callable[[Any], Awaitable[None]] = owner.aclose

    async def watched(*arguments: Any, **words: Any) -> AsyncGenerator[Any]:
        try:
            async with aclosing(method(*arguments, **words)) as found:
                async for each in found:
                    yield each
        finally:
            ended.append(name)

    async def aclose(self: Any) -> None:
        ended.append("aclose")
        await close(self)

    monkeypatch.setattr(owner, name, watched)
    monkeypatch.setattr(owner, "aclose", aclose)
    return ended
