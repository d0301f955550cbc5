"""This table lists the faults of an exchange, and the outcome that a call must have under each.

Rule of this file: each row has its own cause; loops make rows that differ by a status, a text or a
byte. `wire` counts the requests that reach the exchange, and each of them is charged.
"""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

from binance_oi import (
    BannedError,
    BinanceOIError,
    DecodeError,
    ForbiddenError,
    RateLimitedError,
    ResponseError,
    ServerError,
    SymbolNotTradingError,
    TransportError,
    TransportTimeoutError,
    UnknownSymbolError,
)
from binance_oi.errors import WrongSymbolError
from support.certificates import good

from . import doors
from .exchange import BAD, Act, Repeat, Step, Wait
from .rules import AT_ONCE, START, TEXT, TIMEOUT, Fault, Outcome

CLOSE, RESET, HALF_CLOSE, STALL = Act.CLOSE, Act.RESET, Act.HALF_CLOSE, Act.STALL
VALUE = Decimal("1.5")
BODY = b'{"symbol":"BADUSDT","openInterest":"1.5","time":1795435200000}'
HEADERS = b"Content-Type: application/json\r\nX-MBX-USED-WEIGHT-1M: {USED}\r\nDate: {DATE}\r\n"
OTHERS = BODY.replace(b"BAD", b"FOO")
PATIENCE = 2.0  # s of silence after which the client abandons a pooled connection
SLOW = TIMEOUT + 0.3  # s that a call may take if it reaches its timeout
CRLF = b"\r\n"
BAN = (119.0, 125.0)  # bounds of the shortest ban, s; they allow for an error of the clock
SEEN = (400, 401, 403, 404, 408, 418, 429, 451, 500, 502, 503, 504)  # statuses of the exchange


def head(*lines: bytes, status: int = 200, length: int | None = None) -> bytes:
    size = b"" if length is None else b"Content-Length: %d\r\n" % length
    more = b"".join(line + b"\r\n" for line in lines)
    return b"HTTP/1.1 %d Text\r\n" % status + HEADERS + size + more + b"\r\n"


def answer(body: bytes, *lines: bytes, status: int = 200) -> bytes:
    return head(*lines, status=status, length=len(body)) + body


GOOD = answer(BODY)
CHUNKED = head(b"Transfer-Encoding: chunked")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def doors_shut() -> Iterator[Fault]:
    """Except in the last 3 rows, whose TLS works, no request reaches the exchange or is charged."""
    refused = (doors.Refused(), TransportError)
    yield Fault("nobody listens", (), refused[1], 0, door=refused[0])
    yield Fault(
        "connecting takes for ever", (), TransportTimeoutError, 0, 0, SLOW, door=doors.Full()
    )
    for name, door in {
        "the name is not known": doors.Name(),
        "the name cannot be looked up now": doors.Name(arguments=(-3, "Temporary failure")),
        "looking up the name fails oddly": doors.Name(OSError, (5, "Input/output error")),
        "looking up the name raises UnicodeError": doors.Name(UnicodeError, ("label too long",)),
    }.items():
        yield Fault(name, (), TransportError, 0, door=door)
    for make in (
        doors.unknown_authority,
        doors.another_host,
        doors.another_address,
        doors.expired,
        doors.not_yet_valid,
        doors.no_common_cipher,
        doors.wants_a_certificate,
    ):
        name = f"TLS: {make.__name__}"
        yield Fault(name, (GOOD,), TransportError, 0, seconds=0.5, door=doors.Tls(make))
    for name, steps, outcome in (
        ("plain HTTP", (b"HTTP/1.1 400 Bad Request\r\n\r\n", CLOSE), TransportError),
        ("garbage", (b"\x00" * 600, CLOSE), TransportError),
        ("closed", (CLOSE,), TransportError),
        ("reset", (RESET,), TransportError),
        ("an alert", (b"\x15\x03\x03\x00\x02\x02\x28", CLOSE), TransportError),
        ("half of a record", (b"\x16\x03\x03\x00\x7a\x02\x00", CLOSE), TransportError),
        ("a stall", (STALL,), TransportTimeoutError),
        ("a stall after half of a record", (b"\x16\x03\x03\x00\x7a", STALL), TransportTimeoutError),
    ):
        seconds = SLOW if outcome is TransportTimeoutError else 0.5
        name = f"TLS handshake: {name}"
        yield Fault(name, steps, outcome, 0, seconds=seconds, at_accept=True, door=doors.Tls())
    yield Fault("TLS that works", (GOOD,), VALUE, seconds=0.5, door=doors.Tls(good))
    for name, act in {
        "TLS: a body that breaks off": CLOSE,
        "TLS: a body, then reset": RESET,
    }.items():
        cut = (GOOD[:-9], act)  # the client tries three connections, and each ends like this
        yield Fault(name, cut, TransportError, 3, seconds=0.5, door=doors.Tls(good))


def connection_ends() -> Iterator[Fault]:
    """Connections end in each phase of an answer, in each way. An end after a body is harmless."""
    phases = {
        "before an answer": b"",
        "inside the status line": GOOD[:12],
        "after the status line": GOOD[:19],
        "inside a header": GOOD[:40],
        "after the headers": head(length=len(BODY)),
        "inside the body": GOOD[:-5],
        "one byte before its end": GOOD[:-1],
        "inside a chunk": CHUNKED + b"3e\r\n" + BODY[:20],
        "before the last chunk": CHUNKED + chunk(BODY),
    }
    for phase, text in phases.items():
        for act in (CLOSE, RESET, HALF_CLOSE):
            if act is HALF_CLOSE:
                steps: tuple[Step, ...] = (text, act, STALL)
            else:
                steps = (text, act)
            name = f"{act.value} {phase}"
            yield Fault(f"{name}, new connection", steps, TransportError, 3, fresh=True)
            yield Fault(f"{name}, once", steps, VALUE, 2, after_that=(GOOD,))
    for act in (CLOSE, RESET):
        yield Fault(f"{act.value} after accepting", (act,), TransportError, 0, 3, at_accept=True)
    yield Fault(
        "silence after accepting", (STALL,), TransportTimeoutError, 0, 1, SLOW, at_accept=True
    )
    early = (GOOD, Wait(0.01), CLOSE)
    yield Fault("an answer before the request", early, VALUE, 0, 1, at_accept=True)
    for act in (CLOSE, RESET):
        yield Fault(f"a good answer, then {act.value}", (GOOD, Wait(0.01), act), VALUE)
    yield Fault("a good answer, then half-close", (GOOD, HALF_CLOSE), VALUE)
    yield Fault("a body without a length, then close", (head() + BODY, CLOSE), VALUE)
    yield Fault("a body without a length, then half-close", (head() + BODY, HALF_CLOSE), VALUE)
    http10 = GOOD.replace(b"HTTP/1.1", b"HTTP/1.0")
    yield Fault("HTTP/1.0", (http10,), VALUE)
    yield Fault("HTTP/1.0, closed", (http10, CLOSE), VALUE)


def waits() -> Iterator[Fault]:
    """A call that waits too long ends at its timeout and stays charged. Short waits do no harm."""
    late = TIMEOUT + 0.2
    slowly: dict[str, tuple[Step, ...]] = {
        "silence": (STALL,),
        "half a status line": (b"HTTP/1.1 2", STALL),
        "half of the headers": (GOOD[:60], STALL),
        "no body": (head(length=len(BODY)), STALL),
        "half a body": (GOOD[:-9], STALL),
        "all but one byte": (GOOD[:-1], STALL),
        "half a chunk": (CHUNKED + b"3e\r\n{", STALL),
        "no last chunk": (CHUNKED + chunk(BODY), STALL),
        "half a chunk size": (CHUNKED + b"3", STALL),
        "no length and no end": (head() + BODY, STALL),
        "a header, byte by byte": (b"HTTP/1.1 200 OK\r\nX: ", Repeat(b"a", None, 0.05)),
        "a body, byte by byte": (head(length=10_000), Repeat(b" ", None, 0.05)),
        "chunks, byte by byte": (CHUNKED, Repeat(b"1\r\n \r\n", None, 0.05)),
        "headers for ever, slowly": (b"HTTP/1.1 200 OK\r\n", Repeat(b"A: b\r\n", None, 0.05)),
        "100 Continue for ever, slowly": (Repeat(b"HTTP/1.1 100 C\r\n\r\n", None, 0.05),),
        "100 Continue for ever": (Repeat(b"HTTP/1.1 100 C\r\n\r\n" * 50, None, 0.02),),
        "102 Processing for ever": (Repeat(b"HTTP/1.1 102 P\r\n\r\n", None, 0.05),),
        "103 Early Hints for ever": (Repeat(b"HTTP/1.1 103 E\r\nLink: <a>\r\n\r\n", None, 0.05),),
        "100 Continue, then silence": (b"HTTP/1.1 100 Continue\r\n\r\n", STALL),
        "a good answer, too late": (Wait(late), GOOD),
        "a good body, too late": (head(length=len(BODY)), Wait(late), BODY),
        "blank lines for ever": (Repeat(b"\r\n", None, 0.05),),
        "a gzip that stalls": (head(b"Content-Encoding: gzip", length=99) + b"\x1f\x8b\x08", STALL),
    }
    for name, steps in slowly.items():
        yield Fault(f"waits: {name}", steps, TransportTimeoutError, 1, None, SLOW)
    soon: dict[str, tuple[Step, ...]] = {
        "a pause before": (Wait(0.1), GOOD),
        "a pause in the headers": (GOOD[:50], Wait(0.1), GOOD[50:]),
        "a pause before the body": (head(length=len(BODY)), Wait(0.1), BODY),
        "a pause in the body": (GOOD[:-9], Wait(0.1), GOOD[-9:]),
        "100 Continue first": (b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD,),
        "103 Early Hints first": (b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" + GOOD,),
        "one byte at a time": tuple(GOOD[i : i + 1] for i in range(len(GOOD))),
    }
    # The exchange fills in `{USED}` and `{DATE}` only if a step has the whole placeholder. So the
    # answer that is sent one byte at a time has no valid count or `Date`.
    for name, steps in soon.items():
        yield Fault(f"is not late: {name}", steps, VALUE, seconds=0.5)


def pooled() -> Iterator[Fault]:
    """Extra bytes, or an answer for another symbol, never become the value of a call."""
    poison = (
        GOOD.replace(b"BADUSDT", b"GOODUSDT")
        .replace(b"1.5", b"6.6")
        .replace(b"Length: 62", b"Length: 63")
    )
    others = answer(BODY.replace(b"BAD", b"FOO"))
    yield Fault("two answers at once", (GOOD + GOOD,), VALUE)
    yield Fault("a second answer, a moment later", (GOOD, Wait(0.01), GOOD), VALUE, idle=0.1)
    yield Fault("a second answer, for the next question", (GOOD + poison,), VALUE)
    yield Fault("the next answer, a moment later", (GOOD, Wait(0.005), poison), VALUE, idle=0.1)
    yield Fault("a refusal as the second answer", (GOOD + answer(b"", status=418),), VALUE)
    yield Fault("garbage after the answer", (GOOD + b"\x00\x01garbage",), TransportError, 3)
    yield Fault("half an answer after the answer", (GOOD + GOOD[:30],), VALUE)
    yield Fault("endless bytes after the answer", (GOOD, Repeat(b"x" * 65536)), TransportError, 3)
    yield Fault("another symbol", (others,), WrongSymbolError)
    yield Fault("another symbol, then ours", (others + GOOD,), WrongSymbolError)
    lower = answer(BODY.replace(b"BADUSDT", b"badusdt"))
    yield Fault("our symbol in lower case", (lower,), WrongSymbolError)
    yield Fault("the next symbol's answer", (poison,), WrongSymbolError)
    for name, symbol in {"space": b" BADUSDT", "NUL": b"BADUSDT\\u0000", "empty": b""}.items():
        body = BODY.replace(b"BADUSDT", symbol)
        yield Fault(f"our symbol, and {name}", (answer(body),), WrongSymbolError)


def framing() -> Iterator[Fault]:
    """Lengths, chunks, status lines or headers are wrong, or never end. A few chunks are valid."""
    n = len(BODY)
    lines: dict[str, tuple[bytes, type[BinanceOIError] | Decimal, int]] = {
        "Content-Length: -1": (b"Content-Length: -1", TransportError, 3),
        "Content-Length: +62": (b"Content-Length: +%d" % n, TransportError, 3),
        "Content-Length: 0x3e": (b"Content-Length: 0x%x" % n, TransportError, 3),
        "Content-Length: 62, 62": (b"Content-Length: 62, 62", TransportError, 3),
        "Content-Length: 6_2": (b"Content-Length: 6_2", TransportError, 3),
        "Content-Length: abc": (b"Content-Length: abc", TransportError, 3),
        "Content-Length: empty": (b"Content-Length: ", TransportError, 3),
        "Content-Length: Arabic": ("Content-Length: ٦٢".encode(), TransportError, 3),
        "Content-Length: 10**30": (b"Content-Length: 1" + b"0" * 30, TransportError, 3),
        "Content-Length: 5,000 digits": (b"Content-Length: " + b"9" * 5000, TransportError, 3),
        "two lengths": (b"Content-Length: 62\r\nContent-Length: 3", TransportError, 3),
        "length and chunked": (
            b"Content-Length: 62\r\nTransfer-Encoding: chunked",
            TransportError,
            3,
        ),
        "no colon": (b"Header without a colon", TransportError, 3),
        "a space before the colon": (b"X-Header : value", TransportError, 3),
        "an empty name": (b": value", TransportError, 3),
        "a NUL in a value": (b"X-Header: a\x00b", TransportError, 3),
        "a header of 9,000 bytes": (b"X-Header: " + b"a" * 9000, TransportError, 3),
        "a header name of 9,000 bytes": (b"X" * 9000 + b": a", TransportError, 3),
        "a header of 1 MB": (b"X-Header: " + b"a" * 10**6, TransportError, 3),
    }
    for name, (line, outcome, wire) in lines.items():
        text = head(line)
        yield Fault(f"framing: {name}", (text + BODY, CLOSE), outcome, wire, seconds=0.5)
    many = b"".join(b"X-%d: a\r\n" % i for i in range(200_000))
    flood = b"HTTP/1.1 200 OK\r\n" + many
    yield Fault("framing: 200,000 headers", (flood, CLOSE), TransportError, 3, seconds=3.0)
    endless = (b"HTTP/1.1 200 OK\r\n", Repeat(b"X-A: b\r\n" * 5000))
    yield Fault("framing: headers for ever", endless, TransportError, 3, seconds=SLOW)
    line_for_ever = (b"HTTP/1.1 200 ", Repeat(b"x" * 65536))
    yield Fault("framing: a status line for ever", line_for_ever, TransportError, 3, seconds=SLOW)
    firsts = {
        "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/9.9": b"HTTP/9.9 200 OK\r\n\r\n",
        "HTTP/2 preface": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
        "status abc": b"HTTP/1.1 abc OK\r\n\r\n",
        "status 20": b"HTTP/1.1 20 OK\r\n\r\n",
        "status 2000": b"HTTP/1.1 2000 OK\r\n\r\n",
        "status -200": b"HTTP/1.1 -200 OK\r\n\r\n",
        "Arabic status": "HTTP/1.1 ٢٠٠ OK\r\n\r\n".encode(),
        "a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "only JSON": BODY + b"\r\n\r\n",
        "NULs": b"\x00" * 64 + b"\r\n\r\n",
        "TLS": b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n",
    }
    for name, text in firsts.items():
        yield Fault(f"first line: {name}", (text, CLOSE), TransportError, 3)
    chunks = {
        "a size that is no number": b"zz\r\n" + BODY,
        "a negative size": b"-3e\r\n" + BODY + b"\r\n0\r\n\r\n",
        "0x": b"0x3e\r\n" + BODY + b"\r\n0\r\n\r\n",
        "a size too large": b"f" * 40 + b"\r\n" + BODY,
        "no end of a chunk": b"3e\r\n" + BODY + b"XX0\r\n\r\n",
        "garbage for a size": b"\x00\xff\r\n",
    }
    for name, text in chunks.items():
        yield Fault(f"chunks: {name}", (CHUNKED + text, CLOSE), TransportError, 3)
    nothing = gzip.compress(b"")
    floods: dict[str, tuple[bytes, bytes]] = {  # bytes that never become a header or a body
        "a chunk size": (CHUNKED, b"0" * 65536),
        "a chunk extension": (CHUNKED + b"3e;", b"a" * 65536),
        "trailers": (CHUNKED + chunk(BODY) + b"0\r\n", b"X-A: b\r\n" * 8000),
        "gzip of nothing": (head(b"Content-Encoding: gzip"), nothing * 3000),
        "100 Continue": (b"", b"HTTP/1.1 100 C\r\n\r\n" * 3000),
        "blank lines": (b"", b"\r\n" * 30_000),
    }
    # The client ends such an answer itself. But aiohttp refuses so many trailers before that, and
    # the gzip that the client has read by then is a body that breaks off.
    noticed = {"trailers": (TransportError, 3), "gzip of nothing": (DecodeError, 1)}
    for name, (start, more) in floods.items():
        for status in (b"200", b"418"):
            if status == b"418" and not start:
                continue
            steps = (start.replace(b"200", status), Repeat(more))
            outcome, wire = noticed.get(name, (TransportError, 1))
            if status == b"418":
                outcome, wire = BannedError, 1
            yield Fault(f"{status.decode()}, {name} for ever", steps, outcome, wire, seconds=TEXT)
    three = chunk(BODY[:5]) + chunk(BODY[5:20]) + chunk(BODY[20:])
    yield Fault("chunks: three", (CHUNKED + three + b"0\r\n\r\n",), VALUE)
    trailer = three + b"0\r\nX-Trailer: a\r\n\r\n"
    yield Fault("chunks: a trailer", (CHUNKED + trailer,), VALUE)
    extension = b"3e;a=b\r\n" + BODY + b"\r\n0\r\n\r\n"
    yield Fault("chunks: an extension", (CHUNKED + extension,), VALUE)
    short = (head(length=n - 9) + BODY,)
    yield Fault("a length that is too short", short, TransportError, 3)
    yield Fault("a length that is too long", (head(length=n + 9) + BODY, CLOSE), TransportError, 3)
    yield Fault("a length of 10**15", (head(length=10**15), Repeat(b" " * 65536)), DecodeError)
    yield Fault("a body for ever", (head(), Repeat(b" " * 65536)), DecodeError)
    yield Fault("chunks for ever", (CHUNKED, Repeat(chunk(b" " * 65536))), DecodeError)
    yield Fault("a good start, then for ever", (head() + BODY, Repeat(b" " * 65536)), DecodeError)


def encodings() -> Iterator[Fault]:
    """Valid and invalid content encodings, and small answers that unpack to 64 MiB."""
    packed, deflated = gzip.compress(BODY), zlib.compress(BODY)
    yield Fault("gzip", (answer(packed, b"Content-Encoding: gzip"),), VALUE)
    yield Fault("deflate", (answer(deflated, b"Content-Encoding: deflate"),), VALUE)
    raw = deflated[2:-4]
    yield Fault("deflate without zlib's head", (answer(raw, b"Content-Encoding: deflate"),), VALUE)
    two = gzip.compress(BODY[:20]) + gzip.compress(BODY[20:])
    yield Fault("two gzip members", (answer(two, b"Content-Encoding: gzip"),), VALUE)
    yield Fault("identity", (answer(BODY, b"Content-Encoding: identity"),), VALUE)
    bad: dict[str, tuple[bytes, bytes]] = {
        "gzip, then garbage": (packed + b"garbage", b"gzip"),
        "gzip, then the plain body": (packed + BODY, b"gzip"),
        "gzip with a wrong checksum": (packed[:-8] + bytes(8), b"gzip"),
        "gzip that is plain": (BODY, b"gzip"),
        "deflate that is plain": (BODY, b"deflate"),
        "gzip with garbage in it": (packed[:14] + b"\xff\x00\xff" + packed[17:], b"gzip"),
    }
    for name, (body, encoding) in bad.items():
        text = answer(body, b"Content-Encoding: " + encoding)
        yield Fault(name, (text,), TransportError, 3)
    broken_off = answer(packed[:-12], b"Content-Encoding: gzip")
    yield Fault("gzip that breaks off", (broken_off,), DecodeError)
    unknown = answer(b"\x1b\x00garbage", b"Content-Encoding: aws-chunked")
    yield Fault("an encoding that nobody knows", (unknown,), DecodeError)
    yield Fault("gzip that nobody announced", (answer(packed),), DecodeError)
    twice = answer(gzip.compress(packed), b"Content-Encoding: gzip")
    yield Fault("gzip in gzip", (twice,), DecodeError)
    for name, encoding, bomb in (
        ("gzip", b"gzip", packed_zeros(zlib.MAX_WBITS | 16)),
        ("deflate", b"deflate", packed_zeros(zlib.MAX_WBITS)),
    ):
        text = answer(bomb, b"Content-Encoding: " + encoding)
        yield Fault(f"a {name} bomb", (text,), DecodeError, seconds=1.5)
        for status, outcome in ((418, BannedError), (429, RateLimitedError)):
            text = answer(bomb, b"Content-Encoding: " + encoding, status=status)
            yield Fault(f"a {name} bomb under {status}", (text,), outcome, seconds=1.5)
        text = answer(BODY + b"", b"Content-Encoding: " + encoding, status=418)
        yield Fault(f"418 with broken {name}", (text,), BannedError)


def packed_zeros(wbits: int) -> bytes:
    """Compress 64 MiB of zeros. The result has no proper end, because no client reads that far."""
    packer, zeros = zlib.compressobj(9, wbits=wbits), bytes(2**20)
    first = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    next_one = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + 63 * next_one  # a full flush resets the state, so all later pieces are equal


def redirects() -> Iterator[Fault]:
    """The client follows no redirect, and ignores other headers that name another place."""
    places = {
        "itself": b"/fapi/v1/openInterest?symbol=BADUSDT",
        "another host": b"https://other.example/",
        "plain HTTP": b"http://other.example/",
        "a file": b"file:///etc/passwd",
        "a script": b"javascript:alert(1)",
        "credentials": b"https://user:password@other.example/",
        "the machine's metadata": b"http://169.254.169.254/latest/meta-data/",
        "nowhere": b"",
        "what is no URL": b"http://[::1",
        "8 KB": b"https://other.example/" + b"a" * 8000,
    }
    for name, place in places.items():
        text = answer(b"", b"Location: " + place, status=302)
        yield Fault(f"a redirect to {name}", (text,), ResponseError)
    for status in (300, 301, 303, 304, 305, 307, 308):
        text = answer(b"", b"Location: https://other.example/", status=status)
        yield Fault(f"{status}", (text,), ResponseError)
    yield Fault("a redirect without a place", (answer(b"", status=302),), ResponseError)
    for name, line in {
        "a refresh": b"Refresh: 0; url=https://other.example/",
        "cookies": b"Set-Cookie: a=b; Domain=127.0.0.1; Path=/",
        "alternative services": b'Alt-Svc: h3="other.example:443"',
        "an odd type": b"X-Type: text/html; charset=utf-16",
    }.items():
        yield Fault(f"a good answer with {name}", (answer(BODY, line),), VALUE)


def bodies() -> Iterator[Fault]:
    """Bodies of answers with status 200, documented and undocumented."""
    time = b'"time":1795435200000'
    wrong: dict[str, bytes] = {
        "empty": b"",
        "a space": b" ",
        "HTML": b"<!doctype html><title>Checking your browser</title>",
        "a list": b"[]",
        "a list of answers": b"[" + BODY + b"]",
        "null": b"null",
        "true": b"true",
        "a number": b"1.5",
        "a string": b'"1.5"',
        "an empty object": b"{}",
        "cut JSON": BODY[:-9],
        "two objects": BODY + BODY,
        "a comma too many": BODY[:-1] + b",}",
        "a comment": b"/* */" + BODY,
        "JSONP": b"callback(" + BODY + b")",
        "a guard in front": b")]}',\n" + BODY,
        "a BOM": b"\xef\xbb\xbf" + BODY,
        "UTF-16": BODY.decode().encode("utf-16"),
        "UTF-32": BODY.decode().encode("utf-32"),
        "Latin-1": BODY.replace(b"BAD", b"B\xc4D"),
        "bytes that are not UTF-8": b"\xff\xfe\x00" + BODY,
        "a lone surrogate": BODY.replace(b"BAD", b"\\ud800"),
        "NUL after the object": BODY + b"\x00",
        "30,000 open brackets": b'{"a":' + b"[" * 30_000,
        "20,000 nested lists": b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"," + BODY[1:],
        "a body of more than 64 KiB": BODY + b" " * 70_000,
        "data in a field": b'{"data":' + BODY + b"}",
        "the field twice": BODY[:-1] + b',"openInterest":"9"}',
        "the symbol twice": b'{"symbol":"FOO",' + BODY[1:],
        "the time twice": BODY[:-1] + b',"time":5}',
        "a field twice, escaped": BODY[:-1] + b',"open\\u0049nterest":"9"}',
        "no symbol": b'{"openInterest":"1.5",' + time + b"}",
        "no time": b'{"symbol":"BADUSDT","openInterest":"1.5"}',
        "no open interest": b'{"symbol":"BADUSDT",' + time + b"}",
        "names in capitals": BODY.replace(b"openInterest", b"OPENINTEREST"),
    }
    for name, body in wrong.items():
        yield Fault(f"200: {name}", (answer(body),), DecodeError, seconds=0.5)
    for text in (
        '1.5', 'null', 'true', '[]', '{}', '""', '"-1.5"', '"+1.5"', '" 1.5"', '"1.5 "', '"1,5"',
        '"1.5\\n"', '"NaN"', '"sNaN"', '"Infinity"', '"-0"', '"1e5"', '"1E+999999999"', '"1_000"',
        '"0x10"', '".5"', '"5."', '"1.5.5"', '"١٢٣"', '"１２３"', '"Ⅷ"', '"½"', '"1\\u0000"',
        '"' + "9" * 31 + '"', '"' + "9" * 5000 + '"', '"0.' + "0" * 31 + '"',
    ):  # fmt: skip
        body = BODY.replace(b'"1.5"', text.encode())
        name = f"200: open interest {text[:30]!r} of {len(text)} characters"
        yield Fault(name, (answer(body),), DecodeError)
    for text in (
        '"1795435200000"', "1795435200000.5", "1e400", "-1", "0", "null", "true", "[]", "{}",
        "NaN", "Infinity", "01", "0x10", "253402300800000", "9" * 25, "9" * 5000, "1_000",
    ):  # fmt: skip
        body = BODY.replace(b"1795435200000", text.encode())
        name = f"200: time {text[:30]} of {len(text)} characters"
        yield Fault(name, (answer(body),), DecodeError)
    for text in ("null", "5", "[]", "{}", "true"):
        body = BODY.replace(b'"BADUSDT"', text.encode())
        yield Fault(f"200: symbol {text}", (answer(body),), DecodeError)
    for name, body in {
        "spaces": b" \r\n\t" + BODY.replace(b":", b" : ") + b"\n ",
        "another order": b'{"time":1795435200000,"openInterest":"1.5","symbol":"BADUSDT"}',
        "more fields": BODY[:-1] + b',"new":{"a":[1,null]},"b":"c:d"}',
        "escapes": BODY.replace(b"BAD", b"\\u0042\\u0041\\u0044"),
        "escaped names": BODY.replace(b"symbol", b"\\u0073ymbol"),
        "a body of less than 64 KiB": BODY + b" " * 63_000,
    }.items():
        yield Fault(f"200 is good: {name}", (answer(body),), VALUE)
    for text, value in {"0": "0", "0.000": "0.000", "9" * 30: "9" * 30, "007": "007"}.items():
        body = BODY.replace(b"1.5", text.encode())
        yield Fault(f"200 is good: {text}", (answer(body),), Decimal(value))
    errors: dict[str, tuple[str, type[BinanceOIError], int]] = {
        "-1121": ('{"code":-1121,"msg":"Invalid symbol."}', UnknownSymbolError, 1),
        "-4108": ('{"code":-4108,"msg":"Symbol is closed."}', SymbolNotTradingError, 1),
        "-1003": ('{"code":-1003,"msg":"Too many requests."}', RateLimitedError, 1),
        "-1000": ('{"code":-1000,"msg":"unknown"}', ServerError, 3),
        "-1008": ('{"code":-1008,"msg":"throttled"}', ServerError, 3),
        "-9999": ('{"code":-9999,"msg":"new"}', ResponseError, 1),
        "0": ('{"code":0,"msg":""}', ResponseError, 1),
        "no text": ('{"code":-1100}', ResponseError, 1),
        "null for a text": ('{"code":-1100,"msg":null}', ResponseError, 1),
        "a text of 60 KB": (json.dumps({"code": -1100, "msg": "x" * 60_000}), ResponseError, 1),
        "a text for a terminal": (
            '{"code":-1100,"msg":"\\u001b[2J\\u202e\\r\\n"}',
            ResponseError,
            1,
        ),
        "a code as text": ('{"code":"-1121","msg":"Invalid symbol."}', DecodeError, 1),
        "a code of 10**30": ('{"code":1' + "0" * 30 + ',"msg":"a"}', DecodeError, 1),
    }
    for name, (text, outcome, wire) in errors.items():
        yield Fault(f"200 with error {name}", (answer(text.encode()),), outcome, wire)


def statuses() -> Iterator[Fault]:
    """Statuses with whole, cut, stalled and endless bodies, and with error texts."""
    by_status: dict[int, tuple[type[BinanceOIError], int]] = dict.fromkeys(
        (400, 401, 402, 404, 405, 406, 407, 410, 413, 414, 421, 422, 425, 431, 499),
        (ResponseError, 1),
    )
    by_status |= {403: (ForbiddenError, 1), 451: (ForbiddenError, 1)}
    by_status |= {418: (BannedError, 1), 429: (RateLimitedError, 1), 408: (ServerError, 3)}
    by_status |= dict.fromkeys(
        (500, 501, 502, 503, 504, 505, 507, 511, 520, 521, 522, 524, 525, 530, 599),
        (ServerError, 3),
    )
    by_status |= {201: (DecodeError, 1), 202: (DecodeError, 1), 206: (DecodeError, 1)}
    error = b'{"code":-1100,"msg":"Illegal characters."}'
    html = b"<html><body><h1>Service Unavailable</h1></body></html>"
    for status, (outcome, wire) in by_status.items():
        for name, body in {"JSON": error, "HTML": html, "nothing": b""}.items():
            text = answer(body, status=status)
            yield Fault(f"{status} with {name}", (text,), outcome, wire)
        cut = (answer(html, status=status)[:-9], CLOSE)
        if status < 300:
            yield Fault(f"{status}, cut", cut, DecodeError)
            continue
        yield Fault(f"{status}, cut", cut, outcome, wire)
        if status in SEEN:  # each attempt waits for the rest of the body
            stalled = (answer(html, status=status)[:-9], STALL)
            seconds = SLOW + TEXT
            yield Fault(f"{status}, stalled", stalled, outcome, min(wire, 2), seconds=seconds)
        slow = (head(status=status), STALL)
        if status in (403, 418, 429, 451):
            yield Fault(f"{status}, silent", slow, outcome, wire, seconds=TEXT)
            yield Fault(f"{status}, reset", (head(status=status), RESET), outcome, wire)
            endless = (head(status=status), Repeat(b"x" * 65536))
            yield Fault(f"{status}, for ever", endless, outcome, wire, seconds=TEXT)
    broken: dict[str, bytes] = {
        "a length that is too short": head(status=418, length=9) + html,
        "a chunk size that is no number": CHUNKED.replace(b" 200 ", b" 418 ") + b"zz\r\n",
        "garbage after its body": answer(error, status=418) + b"\x00garbage",
        "an unknown encoding": answer(error, b"Content-Encoding: x", status=418),
    }
    for name, text in broken.items():
        yield Fault(f"418 in one piece with {name}", (text, CLOSE), BannedError, seconds=TEXT)
    for status in (204, 205, 304):
        outcome = ResponseError if status == 304 else DecodeError
        # After 205, aiohttp waits for the end of a body without a length, as after most statuses.
        yield Fault(f"{status} without a body", (head(status=status),), outcome, seconds=TEXT)
    for status in (600, 799, 999):
        yield Fault(f"status {status}", (answer(error, status=status),), ServerError, 3)
    texts: dict[str, tuple[int, str, type[BinanceOIError], int]] = {
        "invalid symbol": (400, '{"code":-1121,"msg":"Invalid symbol."}', UnknownSymbolError, 1),
        "delivering": (400, '{"code":-4108,"msg":"Symbol is closed"}', SymbolNotTradingError, 1),
        "a missing parameter": (400, '{"code":-1102,"msg":"Mandatory"}', ResponseError, 1),
        "too many requests": (400, '{"code":-1003,"msg":"Too many requests"}', RateLimitedError, 1),
        "backend timed out": (400, '{"code":-1007,"msg":"Timeout"}', ServerError, 3),
        "throttled": (503, '{"code":-1008,"msg":"throttled"}', ServerError, 3),
        "region": (451, '{"code":0,"msg":"restricted location"}', ForbiddenError, 1),
        "a list": (400, "[]", ResponseError, 1),
        "null": (400, "null", ResponseError, 1),
        "a deep list": (400, "[" * 30_000, ResponseError, 1),
        "a text of 1 MB": (400, "x" * 10**6, ResponseError, 1),
        "an odd code": (400, '{"code":1e400,"msg":5}', ResponseError, 1),
        "escape sequences": (400, '{"code":-1,"msg":"\\u001b]0;x\\u0007"}', ResponseError, 1),
        "a ban under 403": (
            403, '{"code":-1003,"msg":"banned until 1795434500000"}', BannedError, 1,
        ),
        "a ban under 400": (
            400, '{"code":-1003,"msg":"banned until 1795434500000"}', BannedError, 1,
        ),
    }  # fmt: skip
    for name, (status, words, outcome, wire) in texts.items():
        steps = (answer(words.encode(), status=status),)
        yield Fault(f"{status}: {name}", steps, outcome, wire, seconds=TEXT)


def refusals() -> Iterator[Fault]:
    """429 and 418 with many forms of `Retry-After`, and of texts that state a ban or a limit."""
    minute = (54.0, 61.0)  # bounds of the time to the rollover, s; they allow for a clock's error
    forms: dict[str, tuple[bytes, tuple[float, float], tuple[float, float]]] = {
        "nothing": (b"X: y", minute, BAN),
        "0": (b"Retry-After: 0", minute, BAN),
        "1": (b"Retry-After: 1", minute, BAN),
        "90": (b"Retry-After: 90", (89, 95), BAN),
        "600": (b"Retry-After: 600", (599, 605), (599, 605)),
        "3 days": (b"Retry-After: 259200", minute, (259_190, 259_240)),
        "999999999": (b"Retry-After: 999999999", minute, (259_190, 259_240)),
        "-5": (b"Retry-After: -5", minute, BAN),
        "1.5": (b"Retry-After: 1.5", minute, BAN),
        "1e9": (b"Retry-After: 1e9", minute, BAN),
        "nan": (b"Retry-After: nan", minute, BAN),
        "inf": (b"Retry-After: inf", minute, BAN),
        "soon": (b"Retry-After: soon", minute, BAN),
        "empty": (b"Retry-After:", minute, BAN),
        "Arabic": ("Retry-After: ٩٠".encode(), minute, BAN),
        "full-width": ("Retry-After: ９０".encode(), minute, BAN),
        "5,000 digits": (b"Retry-After: " + b"9" * 5000, minute, BAN),
        "twice": (b"Retry-After: 90\r\nRetry-After: 600", (89, 95), BAN),
        "the past": (b"Retry-After: Sun, 06 Nov 1994 08:49:37 GMT", minute, BAN),
        "no date": (b"Retry-After: Sun, 99 Nov 1994 08:49:37 GMT", minute, BAN),
        "the year 9999": (
            b"Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", minute, (259_190, 259_240),
        ),
    }  # fmt: skip
    for name, (line, rate, ban) in forms.items():
        steps = (answer(b"", line, status=429),)
        yield Fault(f"429, Retry-After: {name}", steps, RateLimitedError, retry_in=rate)
        steps = (answer(b"", line, status=418),)
        yield Fault(f"418, Retry-After: {name}", steps, BannedError, retry_in=ban)
    at = int(START * 1000)
    for name, end, (low, high) in (
        ("in 5 minutes", at + 300_000, (297, 305)),
        ("in 1 minute", at + 60_000, BAN),
        ("in 3 days", at + 259_000_000, (258_990, 259_040)),
        ("in a year", at + 31_536_000_000, (259_190, 259_300)),
        ("in the past", at - 300_000, BAN),
        ("in 1970", 5, BAN),
        ("never", 10**18, BAN),
    ):
        text = f'{{"code":-1003,"msg":"Way too many requests; IP(1.2.3.4) banned until {end}."}}'
        steps = (answer(text.encode(), status=418),)
        yield Fault(f"418, a ban that ends {name}", steps, BannedError, retry_in=(low, high))
    for text in ("banned until ١٧٩٥٤٣٤٥٠٠٠٠٠", "banned until " + "9" * 5000, "banned until NaN"):
        body = json.dumps({"code": -1003, "msg": text}).encode()
        name = f"418, {text[:20]}"
        yield Fault(name, (answer(body, status=418),), BannedError, retry_in=BAN)
    text = f"Way too many requests; IP(2001:db8::1) banned until {at + 300_000}. Please"
    steps = (answer(json.dumps({"code": -1003, "msg": text}).encode(), status=429),)
    yield Fault("429, a ban that ends in 5 minutes", steps, RateLimitedError, retry_in=(297, 305))
    for limit in ("1200", "0", "99999999", "-5", "١٢"):
        text = f"Too many requests; current limit of IP(1.2.3.4) is {limit} requests per minute."
        body = json.dumps({"code": -1003, "msg": text}).encode()
        yield Fault(f"429, limit {limit}", (answer(body, status=429),), RateLimitedError)


def refused_in_bad_form() -> Iterator[Fault]:
    """The client obeys a 403, 418, 429 or 451, whatever else is wrong with the answer."""
    broken: dict[str, bytes] = {
        "a header of 9,000 bytes": b"X: " + b"a" * 9000,
        "a Retry-After of 10,000 digits": b"Retry-After: " + b"9" * 10_000,
        "a NUL in a header": b"X: a\x00b",
        "no colon": b"Header without a colon",
        "two lengths": b"Content-Length: 3",
        "150 headers": CRLF.join(b"X-%d: a" % i for i in range(150)),
    }
    for status, outcome in (
        (403, ForbiddenError), (418, BannedError), (429, RateLimitedError), (451, ForbiddenError),
    ):  # fmt: skip
        first = b"HTTP/1.1 %d Text\r\n" % status
        for name, line in broken.items():
            text = answer(b"{}", line, status=status)
            yield Fault(f"{status} with {name}", (text, CLOSE), outcome)
            pieces = (b"HTTP/1.1 100 C\r\n\r\n" + text[:2], Wait(0.002), text[2:], CLOSE)
            yield Fault(f"{status} with {name}, after 100 and in pieces", pieces, outcome)
        for act in (CLOSE, RESET):
            yield Fault(f"{status}, {act.value} in its headers", (first + b"X: y", act), outcome)
        yield Fault(f"{status}, silent in its headers", (first, STALL), outcome, seconds=SLOW)
        endless = (first, Repeat(b"X-A: b\r\n" * 5000))
        yield Fault(f"{status}, headers for ever", endless, outcome, seconds=TEXT)
        late = b"<html>" + b"x " * 250 + b"Banned until %d</html>" % int(START * 1000 + 300_000)
        said = BannedError if status == 403 else outcome
        retry_in = None if status == 451 else (297.0, 305.0)
        text = answer(late, status=status)
        yield Fault(f"{status}, a ban far behind in its text", (text,), said, retry_in=retry_in)
    good, bad = answer(b"{}", status=418), CHUNKED.replace(b" 200 ", b" 418 ") + b"zz\r\n"
    for at in range(1, 17):
        yield Fault(f"418 in pieces of {at} and the rest", cut(good, at), BannedError)
    for at in (3, 16, len(bad) - 7, len(bad) - 6, len(bad) - 5, len(bad) - 4, len(bad) - 2):
        name = f"418 with a bad chunk, in pieces of {at} and the rest"
        yield Fault(name, (*cut(bad, at), CLOSE), BannedError)
    both = b"HTTP/1.1 103 E\r\nLink: <a>\r\n\r\n" + bad
    yield Fault("103 and 418 with a bad chunk, in one piece", (both, STALL), BannedError)


def cut(text: bytes, at: int) -> tuple[Step, ...]:
    return text[:at], Wait(0.002), text[at:]


def broken_later() -> Iterator[Fault]:
    """A body turns out to be broken after its headers came, and the connection stays open."""
    for name, text in {
        "a size that is no number": b"zz\r\n",
        "no end of a chunk": b"3e\r\n" + BODY + b"XX",
        "a negative size": chunk(BODY[:9]) + b"-1\r\n",
    }.items():
        steps = (CHUNKED, Wait(0.01), text, STALL)
        yield Fault(f"chunks, broken later: {name}", steps, TransportError, 3, seconds=0.5)
        steps = (CHUNKED.replace(b" 200 ", b" 418 "), Wait(0.01), text, STALL)
        yield Fault(f"chunks, broken later, under 418: {name}", steps, BannedError)
    packed = (head(b"Content-Encoding: gzip", length=60), Wait(0.01), b"x" * 60, STALL)
    yield Fault("gzip that is plain, later", packed, TransportError, 3, seconds=0.5)
    upgrade = head(b"Connection: upgrade", b"Upgrade: h2c", status=101)
    yield Fault("101, then silence", (upgrade, STALL), ResponseError)
    yield Fault("101, then endless bytes", (upgrade, Repeat(b"x" * 65536)), ResponseError)


def lies() -> Iterator[Fault]:
    """False counts and dates never make the client send too much, and never cost it a value."""
    for count in (
        "", "-1", "0", "1", "nan", "inf", "1e3", "0x10", "1_0", "+5", " ", "abc", "1.0", "1,000",
        "٣", "３", "9" * 10, "9" * 5000, "5\r\nX-MBX-USED-WEIGHT-1M: 3",
    ):  # fmt: skip
        text = GOOD.replace(b"{USED}", count.encode())
        yield Fault(
            f"used weight {count[:24]!r} of {len(count)} characters",
            (text,),
            VALUE,
            lies=count.startswith("5"),
        )
    for used in (1000, 2375, 2376, 2399, 2400, 2401, 10_000, 999_999_999):
        text = GOOD.replace(b"{USED}", str(used).encode())
        yield Fault(f"used weight {used}", (text,), VALUE, lies=True)
    gone = GOOD.replace(b"X-MBX-USED-WEIGHT-1M: {USED}\r\n", b"")
    yield Fault("no used weight", (gone,), VALUE)
    for date in (
        "", "now", "0", "Mon, 23 Nov 2026 12:44:05", "Mon, 23 Nov 2026 12:44:05 +0100",
        "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT",
        "Mon, 31 Feb 2026 00:00:00 GMT", "Mon, 23 Nov 2026 99:99:99 GMT",
        "Mon, 23 Nov 0000 00:00:00 GMT", "Monday, 23-Nov-26 12:44:05 GMT",
        "Mon Nov 23 12:44:05 2026", "Mon, ٢٣ Nov 2026 12:44:05 GMT", "x" * 5000,
        "Mon, 23 Nov 2026 11:44:05 GMT", "Mon, 23 Nov 2026 13:44:05 GMT",
    ):  # fmt: skip
        text = GOOD.replace(b"{DATE}", date.encode())
        yield Fault(f"date {date[:32]!r}", (text,), VALUE, lies=True)
    gone = GOOD.replace(b"Date: {DATE}\r\n", b"")
    yield Fault("no date", (gone,), VALUE)
    for name, line in {
        "Latin-1": b"X-Header: \xe4\xf6\xfc",
        "Chinese": "X-Header: 币安".encode(),
        "not UTF-8": b"X-Header: \xff\xfe",
        "100 of them": CRLF.join(b"X-%d: a" % i for i in range(100)),
    }.items():
        yield Fault(f"a header in {name}", (answer(BODY, line),), VALUE)
    # The client takes the first count and the first `Date`, which are valid.
    both = answer(BODY, b"X-MBX-USED-WEIGHT-1M: abc", b"Date: abc")
    yield Fault("a second count and a second date, both invalid", (both,), VALUE)


def kept() -> Iterator[Fault]:
    """If a pooled connection died while idle, the client sends the request again on a new one."""
    once = (GOOD,)
    doors_of = {"": doors.Plain(), ", TLS": doors.Tls(good, shut=False)}
    for over, door in doors_of.items():
        for act in (CLOSE, RESET):
            name = f"kept{over}: {act.value} as the answer to"
            yield Fault(f"{name} the first request", (act,), VALUE, 2, after_that=once, door=door)
            yield Fault(f"{name} every request", (act,), TransportError, 3, seconds=0.5, door=door)
        dead: dict[str, tuple[Step, ...]] = {
            "a black hole": (STALL,),
            "an answer just after the client gave the connection up": (Wait(2.05), GOOD),
            "an answer for another symbol, just as late": (Wait(2.05), answer(OTHERS)),
        }
        for name, steps in dead.items():
            yield Fault(
                f"kept{over}: {name}", steps, VALUE, 2, None, PATIENCE + AT_ONCE, once,
                timeout=5.0, idle=0.2, door=door,
            )  # fmt: skip
    late: dict[str, tuple[tuple[Step, ...], Outcome, int, float, bool]] = {
        "both connections are silent": ((STALL,), TransportTimeoutError, 2, 4.0, False),
        "both connections answer late": ((Wait(2.3), GOOD), VALUE, 2, PATIENCE + 2.3, False),
        "a byte in time": ((GOOD[:9], Wait(2.3), GOOD[9:]), VALUE, 1, 2.3, False),
        "a new connection answers late": ((Wait(2.3), GOOD), VALUE, 1, 2.3, True),
    }
    for name, (steps, outcome, wire, seconds, fresh) in late.items():
        timeout = seconds if outcome is TransportTimeoutError else 8.0
        yield Fault(
            f"kept: {name}", steps, outcome, wire, None, seconds + AT_ONCE,
            fresh=fresh, timeout=timeout,
        )  # fmt: skip
    for act in (CLOSE, RESET, STALL):
        name = f"kept: {act.value}, then a ban"
        ban = (answer(b"", status=418),)
        seconds = PATIENCE + AT_ONCE
        yield Fault(name, (act,), BannedError, 2, None, seconds, after_that=ban, timeout=5.0)
    for act in (CLOSE, RESET):
        again = (answer(b"", status=503),)
        name = f"kept: {act.value}, then overloaded"
        yield Fault(name, (act,), ServerError, 3, after_that=again)


def faults() -> list[Fault]:
    rows = (doors_shut, connection_ends, waits, pooled, framing, encodings, redirects, bodies)
    more = (statuses, refusals, refused_in_bad_form, broken_later, lies, kept)
    found = [fault for make in (*rows, *more) for fault in make()]
    twice = Counter(fault.name for fault in found)
    assert max(twice.values()) == 1, twice.most_common(3)
    assert BAD == "BADUSDT"
    return found
