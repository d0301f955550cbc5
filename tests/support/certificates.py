"""Certificate authorities, made once for each test run, and servers' certificates from them."""

import datetime
import ssl
from functools import cache

import trustme

__all__ = ["authority", "good", "issued"]


@cache
def authority(name: str) -> trustme.CA:
    """The certificate authority of that name."""
    return trustme.CA(organization_name=name)


def issued(
    ca: str,
    host: str,
    not_before: datetime.datetime | None = None,
    not_after: datetime.datetime | None = None,
) -> ssl.SSLContext:
    """A server's context with a certificate for `host`, issued by authority `ca`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = authority(ca).issue_cert(host, not_before=not_before, not_after=not_after)
    certificate.configure_cert(context)
    return context


def good() -> ssl.SSLContext:
    """A server's context that a client accepts if it trusts `ours`."""
    return issued("ours", "127.0.0.1")
