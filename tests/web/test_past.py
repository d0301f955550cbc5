"""Visitors read history and changes from a recording or the exchange, at a bounded cost."""

import asyncio
import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from binance_oi import OpenInterest, Snapshot, UnknownSymbolError
from binance_oi.market.changes import ChangeTracker
from binance_oi.recorder.store import Store
from binance_oi.testing import simulated_client
from binance_oi.testing.virtual_clock import wall_time
from binance_oi.web import Limits
from binance_oi.web.changing import Changes, ChangesQuestion
from binance_oi.web.hub import Hub
from binance_oi.web.messages import Request
from binance_oi.web.past import Past, PastQuestion
from binance_oi.web.problems import ProblemError
from binance_oi.web.router import Router
from binance_oi.web.service import Service
from support.market_source import FedSource
from support.virtual_clocks import use_virtual_clocks

pytestmark = pytest.mark.virtual_time

STEP = 300_000  # ms
HOURS = 3
YEAR_1 = -62_135_596_800_000  # Unix ms


@pytest.fixture(autouse=True)
def one_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    use_virtual_clocks(monkeypatch)


def now_ms() -> int:
    return round(wall_time() * 1000)


def recorded(path: Path, end: int, names: Sequence[str] = ("BTCUSDT", "ETHUSDT")) -> Path:
    """Record three hours of sweeps, one every 5 minutes, with the values 100, 101, and so on."""
    with closing(Store(path)) as store:
        for number in range(HOURS * 12 + 1):
            ms = end - (HOURS * 12 - number) * STEP
            slot = datetime.fromtimestamp(ms / 1000, UTC)
            values = {name: OpenInterest(name, Decimal(100 + number), ms - 1000) for name in names}
            store.save(
                Snapshot(
                    values_by_symbol=values,
                    errors={},
                    started=slot,
                    finished=slot + timedelta(seconds=1),
                    weight=2,
                    slot=slot,
                    received_ms=dict.fromkeys(names, ms),
                ),
                [],
                STEP,
            )
    return path


def rows(body: bytes) -> list[tuple[int, str]]:
    return [(row["time"], row["open_interest"]) for row in json.loads(body)["rows"]]


async def test_history_that_a_recording_covers_costs_no_request(
    tmp_path: Path,
) -> None:
    end = now_ms() // STEP * STEP
    path = recorded(tmp_path / "oi.db", end)
    async with simulated_client() as client:
        past = Past(client, path, Limits())
        within = await past.read(PastQuestion("BTCUSDT", "15m", end - 7_200_000, end, "text"))
        assert client.history_usage.used == 0
        before = await past.read(PastQuestion("BTCUSDT", "1h", end - 86_400_000, end, "text"))
        other = await past.read(PastQuestion("XRPUSDT", "1h", end - 7_200_000, end, "text"))
        assert client.history_usage.used == 2
    found = rows(within.data)
    assert json.loads(within.data)["from"] == "recording"
    assert [time for time, _ in found] == list(range(end - 7_200_000, end + 1, 900_000))
    assert found[-1] == (end, str(100 + HOURS * 12))
    assert {json.loads(each.data)["from"] for each in (before, other)} == {"exchange"}


async def test_without_a_client_history_comes_from_the_recording_alone(tmp_path: Path) -> None:
    end = now_ms() // STEP * STEP
    past = Past(None, recorded(tmp_path / "oi.db", end), Limits())
    body = await past.read(PastQuestion("BTCUSDT", "1h", end - 86_400_000, end, "number"))
    assert b'"open_interest":136' in body.data
    assert len(rows(body.data)) == HOURS + 1
    with pytest.raises(ProblemError) as caught:
        await past.read(PastQuestion("NOSUCHUSDT", "1h", end - 7_200_000, end, "text"))
    assert caught.value.kind.status == 404


async def test_history_after_the_end_of_a_recording_is_requested_from_the_exchange(
    tmp_path: Path,
) -> None:
    end = now_ms() // STEP * STEP
    path = recorded(tmp_path / "oi.db", end - 24 * STEP)
    wanted = PastQuestion("BTCUSDT", "5m", end - 36 * STEP, end, "text")
    async with simulated_client() as client:
        past = Past(client, path, Limits())
        body = json.loads((await past.read(wanted)).data)
        ended = json.loads((await past.read(wanted._replace(last=end - 24 * STEP))).data)
        late = await past.read(
            PastQuestion("BTCUSDT", "5m", end - 47 * STEP, end - 23 * STEP, "text")
        )
    assert (body["from"], ended["from"]) == ("exchange", "recording")
    # Only the row of `end - 23 * STEP` is missing, and it may still appear.
    assert json.loads(late.data)["from"] == "recording"
    assert len(body["rows"]) >= 36
    assert ended["holes"] == []


async def test_a_delisted_symbol_keeps_its_recorded_history(
    tmp_path: Path,
) -> None:
    end = now_ms() // STEP * STEP
    path = recorded(tmp_path / "oi.db", end - 24 * STEP, ["GONEUSDT"])
    async with simulated_client() as client:
        past = Past(client, path, Limits())
        body = await past.read(PastQuestion("GONEUSDT", "5m", end - 36 * STEP, end, "text"))
        with pytest.raises(UnknownSymbolError):
            await past.read(PastQuestion("NOSUCHUSDT", "5m", end - 36 * STEP, end, "text"))
    assert [time for time, _ in rows(body.data)] == list(
        range(end - 36 * STEP, end - 24 * STEP + 1, STEP)
    )


@pytest.mark.parametrize("begin", [36, 12], ids=["with rows before", "with no row"])
async def test_without_a_client_the_time_after_the_recording_is_a_hole(
    tmp_path: Path, begin: int
) -> None:
    end = now_ms() // STEP * STEP
    past = Past(None, recorded(tmp_path / "oi.db", end - 24 * STEP), Limits())
    wanted = PastQuestion("BTCUSDT", "5m", end - begin * STEP, end, "text")
    body = json.loads((await past.read(wanted)).data)
    first = end - min(begin, 23) * STEP
    assert body["holes"] == [{"first": first, "last": end, "reason": "no_row"}]
    assert len(body["rows"]) == max(0, begin - 23)


async def test_without_a_recording_history_is_requested_from_the_exchange(
    tmp_path: Path,
) -> None:
    end = now_ms() // STEP * STEP
    async with simulated_client() as client:
        past = Past(client, tmp_path / "oi.db", Limits())
        body = await past.read(PastQuestion("BTCUSDT", "1h", end - 7_200_000, end, "text"))
    assert json.loads(body.data)["from"] == "exchange"


async def test_all_visitors_together_cause_a_bounded_number_of_history_requests() -> None:
    end = now_ms() // STEP * STEP
    async with simulated_client() as client:
        past = Past(client, None, Limits(history_requests=5))
        for number in range(2, 7):
            await past.read(PastQuestion("BTCUSDT", "5m", end - number * STEP, end, "text"))
        for number in range(7, 20):
            with pytest.raises(ProblemError) as caught:
                await past.read(PastQuestion("BTCUSDT", "5m", end - number * STEP, end, "text"))
            assert caught.value.kind.status == 503
            assert caught.value.after is not None
        assert client.history_usage.used == 5


async def test_cached_history_is_bounded_and_expires() -> None:
    end = now_ms() // STEP * STEP
    async with simulated_client() as client:
        past = Past(client, None, Limits(cached_bytes=3000))
        first = PastQuestion("BTCUSDT", "5m", end - 10 * STEP, end, "text")
        body = await past.read(first)
        assert await past.read(first) is body
        await asyncio.sleep(20.0)
        assert await past.read(first) is not body
        for number in range(11, 30):
            await past.read(PastQuestion("BTCUSDT", "5m", end - number * STEP, end, "text"))
        assert past._bytes <= 3000
        assert past._bytes == sum(len(kept.body.data) for kept in past._kept.values())


async def test_changes_use_the_recorded_history_once_it_is_loaded(tmp_path: Path) -> None:
    end = now_ms() // STEP * STEP
    changes = Changes(recorded(tmp_path / "oi.db", end))
    hub = Hub(FedSource(), on_values=changes.observe)
    question = ChangesQuestion(("BTCUSDT",), "1h", "percent", 1, "text")
    first = json.loads((await changes.read(hub, question)).data)
    assert first == {"window": "1h", "filling": True, "changes": []}
    while changes.is_filling:  # noqa: ASYNC110 - nobody sets an event
        await asyncio.sleep(1.0)
    (change,) = json.loads((await changes.read(hub, question)).data)["changes"]
    assert (change["symbol"], change["window"], change["absolute"]) == ("BTCUSDT", "1h", "13")
    await changes.aclose()
    await changes.aclose()


async def test_changes_work_if_the_recording_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = Changes(tmp_path / "oi.db")
    question = ChangesQuestion(None, "1h", "symbol", None, "text")
    await changes.read(Hub(FedSource()), question)
    while changes.is_filling:  # noqa: ASYNC110 - nobody sets an event
        await asyncio.sleep(1.0)
    assert "computed without the past" in caplog.text


async def test_changes_work_with_a_recording_that_has_a_slot_in_year_1(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = recorded(tmp_path / "oi.db", now_ms() // STEP * STEP)
    with closing(sqlite3.connect(path)) as db:
        for table in ("sweeps", "settled", "recent"):
            db.execute(f"DELETE FROM {table}")
        db.execute("INSERT INTO sweeps VALUES (?, 60000, 0, 0, 1, 1, 1, 1)", (YEAR_1,))
        db.commit()
    changes, question = Changes(path), ChangesQuestion(None, "1h", "symbol", None, "text")
    await changes.read(Hub(FedSource()), question)
    while changes.is_filling:  # noqa: ASYNC110 - nobody sets an event
        await asyncio.sleep(1.0)
    assert changes._filling is not None
    assert changes._filling.exception() is None
    assert caplog.text == ""


@pytest.mark.parametrize("error", [OverflowError, ValueError])
async def test_changes_work_if_the_recording_has_impossible_times(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    def impossible(path: Path) -> ChangeTracker:
        raise error(f"{path.name} has a date out of range")

    monkeypatch.setattr("binance_oi.web.changing._filled", impossible)
    changes = Changes(tmp_path / "oi.db")
    await changes.read(Hub(FedSource()), ChangesQuestion(None, "1h", "symbol", None, "text"))
    while changes.is_filling:  # noqa: ASYNC110 - nobody sets an event
        await asyncio.sleep(1.0)
    assert "without the past of the recording: oi.db has a date out of range" in caplog.text


# -- a service that sends nothing ----------------------------------------------------------------


async def test_a_service_of_a_recording_never_serves_a_value_older_than_max_age(
    tmp_path: Path,
) -> None:
    end = now_ms() // STEP * STEP
    service = Service(None, {"recording": recorded(tmp_path / "oi.db", end)})
    router = Router(service)

    async def get(path: str) -> Any:
        name, _, query = path.partition("?")
        return await router.answer(Request("GET", name, query, {}, lambda: ""))

    latest = await get("/open-interest/BTCUSDT")  # the first request begins to read the file
    market = await get("/snapshot")
    await asyncio.sleep(5.0)
    age = now_ms() / 1000 - end / 1000
    old = await get(f"/open-interest/BTCUSDT?max_age={age + 600:.0f}")
    again = await get("/open-interest/BTCUSDT")
    stale = [await get(f"/{each}?max_age=0.5") for each in ("open-interest/BTCUSDT", "snapshot")]
    unknown = await get("/open-interest/NOSUCHUSDT")
    await service.aclose()
    assert (latest.status, latest.body) == (200, old.body)
    assert dict(latest.headers)["Age"] != dict(again.headers)["Age"]
    assert (market.status, old.status, again.status) == (200, 200, 200)
    for each in stale:
        assert (each.status, json.loads(each.body)["type"]) == (503, "urn:binance-oi:too-old")
        detail = json.loads(each.body)["detail"]
        seen = re.fullmatch(
            r"The latest value is ([\d.]+) s old, and max_age allows 0\.5 s\.", detail
        )
        assert seen, detail
        assert float(seen[1]) == pytest.approx(age, abs=0.2)
    assert unknown.status == 404
