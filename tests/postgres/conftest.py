"""A database for each test of this folder.

Rule of this file: fixtures only.
"""

import pytest

from support.postgres_server import Server


@pytest.fixture
def url(server: Server) -> str:
    return server.database()
