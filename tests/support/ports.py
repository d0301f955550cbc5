"""A port of 127.0.0.1 on which no program listens.

Rule of this file: the port is taken for as long as a test needs it. Otherwise the system could give
it to a server of another test.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses every connection."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        yield unheard.getsockname()[1]
