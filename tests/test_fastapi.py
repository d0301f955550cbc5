"""Public values work in FastAPI handlers, in pydantic fields, and with the encoder of msgspec.

Requests go through the whole application by ASGI, as if a server sent them.
"""

import json
import re
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from binance_oi import (
    BannedError,
    BinanceOIError,
    Gap,
    OpenInterest,
    OpenInterestClient,
    ProcessBudget,
    Snapshot,
    SymbolInfo,
    Usage,
)
from binance_oi.encoding import Encodable
from binance_oi.simulator import LocalExchange

fastapi = pytest.importorskip("fastapi", reason="pydantic has no wheels for this Python yet")
pydantic = pytest.importorskip("pydantic")

PAGE = Path(__file__).resolve().parents[1] / ".docs" / "web-service.md"


@asynccontextmanager
async def reading() -> AsyncIterator[OpenInterestClient]:
    async with (
        LocalExchange() as exchange,
        OpenInterestClient(base_url=exchange.url, budget=ProcessBudget(), timeout=600.0) as client,
    ):
        yield client


async def get(app: Any, path: str) -> tuple[int, Any]:
    """Get a path; return the status and the JSON of the answer."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": None,
    }
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body)


def answering(value: object) -> Callable[[], object]:
    """A handler that returns `value`."""

    def handler() -> object:
        return value

    return handler


async def test_the_application_of_the_page_about_web_services_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (source,) = re.findall(r"^```python\n([^`]*fastapi[^`]*)^```$", text, re.MULTILINE)
    module = ModuleType("pasted")
    exec(compile(source, str(PAGE), "exec"), vars(module))
    defaults = OpenInterestClient.__init__.__kwdefaults__
    assert defaults is not None
    async with LocalExchange() as exchange:
        exchange.set_open_interest("BTCUSDT", "7.50")
        monkeypatch.setitem(defaults, "base_url", exchange.url)
        monkeypatch.setitem(defaults, "timeout", 600.0)
        app: Any = vars(module)["app"]
        async with app.router.lifespan_context(app):
            status, found = await get(app, "/open-interest/BTCUSDT")
            assert (status, found["open_interest"]) == (200, "7.50")
            status, found = await get(app, "/open-interest/NOSUCHUSDT")
            assert (status, found["detail"]["error"]) == (404, "UnknownSymbolError")


async def test_a_handler_can_return_a_value_of_the_client() -> None:
    app = fastapi.FastAPI()
    async with reading() as client:

        async def one(symbol: str):  # type: ignore[no-untyped-def]  # as users often write it
            return await client.get_open_interest(symbol, max_age=600.0)

        app.get("/{symbol}")(one)
        status, found = await get(app, "/BTCUSDT")
        value = await client.get_open_interest("BTCUSDT", max_age=600.0)
    assert status == 200
    assert found == value.to_dict()
    assert isinstance(found["open_interest"], str)


async def test_a_handler_with_a_return_type_is_in_the_schema_of_the_service() -> None:
    app = fastapi.FastAPI()
    async with reading() as client:

        async def one() -> OpenInterest:
            return await client.get_open_interest("BTCUSDT")

        async def many() -> dict[str, list[OpenInterest]]:
            return {"values": list((await client.snapshot(["BTCUSDT", "ETHUSDT"])).values())}

        app.get("/one")(one)
        app.get("/many")(many)
        (status, value), (_, values) = await get(app, "/one"), await get(app, "/many")
        described = await get(app, "/openapi.json")
    assert (status, list(value)) == (200, ["symbol", "open_interest", "time"])
    assert [found["symbol"] for found in values["values"]] == ["BTCUSDT", "ETHUSDT"]
    answer = described[1]["paths"]["/one"]["get"]["responses"]["200"]["content"]["application/json"]
    kinds = {name: field["type"] for name, field in answer["schema"]["properties"].items()}
    assert kinds == {"symbol": "string", "open_interest": "string", "time": "integer"}


async def test_a_handler_can_return_every_value_with_or_without_a_return_type() -> None:
    async with reading() as client:
        market = await client.snapshot(["BTCUSDT", "NOSUCHUSDT"], notional=True)
        listed = (await client.exchange_info()).symbols[0]
        usage = client.usage
    gap, error = Gap(1, 2, "late"), market.errors["NOSUCHUSDT"]
    app = fastapi.FastAPI()
    values: dict[type, Encodable] = {
        Snapshot: market,
        Usage: usage,
        SymbolInfo: listed,
        Gap: gap,
        BinanceOIError: error,
    }
    for kind, value in values.items():
        app.get(f"/plain/{kind.__name__}", response_model=None)(answering(value))
        app.get(f"/typed/{kind.__name__}", response_model=kind)(answering(value))
    for kind, value in values.items():
        assert await get(app, f"/typed/{kind.__name__}") == (200, value.to_dict())
        status, found = await get(app, f"/plain/{kind.__name__}")
        assert status == 200
        # Without a return type, FastAPI writes a named tuple as a list.
        assert isinstance(value, tuple) or found.keys() == value.to_dict().keys()
    assert (await get(app, "/openapi.json"))[0] == 200


def test_a_field_of_a_pydantic_model_accepts_only_its_type() -> None:
    value = msgspec.convert({"symbol": "BTCUSDT", "open_interest": "1.50", "time": 7}, OpenInterest)

    class Reply(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        value: OpenInterest
        error: BannedError | None = None

    reply = Reply(value=value)
    assert reply.value is value
    assert reply.model_dump()["value"] is value
    assert json.loads(reply.model_dump_json())["value"] == value.to_dict()
    with pytest.raises(pydantic.ValidationError):
        Reply(value="1.50")


def test_msgspec_writes_a_struct_with_the_digits_of_the_exchange() -> None:
    value = msgspec.convert({"symbol": "BTCUSDT", "open_interest": "1.50", "time": 7}, OpenInterest)
    assert json.loads(msgspec.json.encode(value)) == value.to_dict()
    assert msgspec.to_builtins(value) == value.to_dict()
    assert msgspec.json.decode(msgspec.json.encode(value), type=OpenInterest) == value
