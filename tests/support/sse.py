"""Reads server-sent events, as a browser does.

Rule of this file: it follows the standard, whatever our server does. But it knows only line feeds
as ends of lines, and takes the data of each event as JSON.

Source: HTML Living Standard, 9.2.6.
"""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import aiohttp


class Seen(NamedTuple):
    """One event."""

    kind: str
    id: str
    data: Any


class Parser:
    """Turns bytes into events."""

    def __init__(self) -> None:
        self.comments = 0
        self.last_id = ""
        self.retry: int | None = None
        self._rest = b""
        self._kind = "message"
        self._data: list[str] = []

    def feed(self, data: bytes) -> Iterator[Seen]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for raw in lines:
            found = self._line(raw.decode("utf-8"))
            if found is not None:
                yield found

    def _line(self, line: str) -> Seen | None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            kind, data = self._kind, "\n".join(self._data)
            self._kind, self._data = "message", []
            return Seen(kind, self.last_id, json.loads(data)) if data else None
        match name:
            case "":
                self.comments += 1
            case "event":
                self._kind = value
            case "data":
                self._data.append(value)
            case "id":
                self.last_id = value
            case "retry":
                self.retry = int(value)
        return None


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Seen]:
    """The events of an answer."""
    parser = Parser()
    async for chunk in response.content.iter_any():
        for event in parser.feed(chunk):
            yield event
