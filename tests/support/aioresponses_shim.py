"""Patches aioresponses 0.7.9 for aiohttp 3.14, in two places.

Rule of this file: `test_conftest.py` fails when a patch is no longer needed. Then delete the patch.

1. Since aiohttp 3.14, `ClientResponse` needs a `stream_writer`. aioresponses passes none, so every
   answer would raise a `TypeError`.
2. aioresponses feeds a whole body into a `StreamReader` with a limit of 64 KiB. For a body above
   128 KiB, the reader pauses its protocol. The protocol has no connection, so it raises an
   `AssertionError`. A real `exchangeInfo` has 1 MB.
"""

import asyncio
from functools import partial
from unittest.mock import Mock

import pytest
from aiohttp import ClientResponse, StreamReader
from aiohttp.client_proto import ResponseHandler

__all__ = ["patch_aioresponses"]

_BODY_LIMIT = 1 << 30  # bytes; far above any body of a test, so the reader never pauses


def _roomy_reader(loop: asyncio.AbstractEventLoop) -> StreamReader:
    return StreamReader(ResponseHandler(loop=loop), limit=_BODY_LIMIT, loop=loop)


def patch_aioresponses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the class and the function with which `aioresponses.core` builds its answers."""
    response = partial(ClientResponse, stream_writer=Mock(output_size=0))
    monkeypatch.setattr("aioresponses.core.ClientResponse", response)
    monkeypatch.setattr("aioresponses.core.stream_reader_factory", _roomy_reader)
