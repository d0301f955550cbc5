"""Certificates of our own authorities, made once for each run of the tests."""

import datetime
import ssl
from functools import cache

import trustme

__all__ = ["authority", "good", "issued"]


@cache
def authority(name: str) -> trustme.CA:
    """The authority of that name."""
    return trustme.CA(organization_name=name)


def issued(
    ca: str,
    host: str,
    not_before: datetime.datetime | None = None,
    not_after: datetime.datetime | None = None,
) -> ssl.SSLContext:
    """The context of a server whose certificate is by authority `ca`, for `host`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = authority(ca).issue_cert(host, not_before=not_before, not_after=not_after)
    certificate.configure_cert(context)
    return context


def good() -> ssl.SSLContext:
    """The context of a server that a client which trusts `ours` accepts."""
    return issued("ours", "127.0.0.1")
