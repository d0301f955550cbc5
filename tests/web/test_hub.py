"""A hub polls once for any number of listeners, each of which has its own place in the events."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from binance_oi import Gap
from binance_oi.web import Hub, Limits, Listener, View
from binance_oi.web.events import KEEP_ALIVE, Cell, Event
from binance_oi.web.hub import LISTENERS_PER_STEP, FullError
from support.market_source import BEGIN, PERIOD, FedSource, reading
from support.sse import Parser, Seen

pytestmark = pytest.mark.virtual_time

FIRST = {"BTCUSDT": "10.5", "ETHUSDT": "20", "XRPUSDT": "30"}
SECOND = {**FIRST, "BTCUSDT": "11.5"}


@asynccontextmanager
async def running(limits: Limits = Limits()) -> AsyncIterator[tuple[Hub, FedSource]]:  # noqa: B008
    source = FedSource()
    hub = Hub(source, limits=limits)
    task = asyncio.create_task(hub.run())
    try:
        yield hub, source
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def publish(hub: Hub, source: FedSource, *outcomes: Any) -> None:
    """Feed outcomes, and wait until the hub has published them."""
    number = hub.number + len(outcomes)
    source.feed(*outcomes)
    while hub.number < number:  # noqa: ASYNC110 - nobody sets an event
        await asyncio.sleep(0)


async def taken(listener: Listener) -> list[Seen]:
    """The events of the next chunk of a listener."""
    data = await listener.next()
    assert data is not None
    return list(Parser().feed(data))


def names(event: Seen) -> list[str]:
    return [value["symbol"] for value in event.data["values"]]


def sweeps(count: int, first: int = 1) -> list[Any]:
    return [reading(n, {**FIRST, "BTCUSDT": f"{n}"}) for n in range(first, first + count)]


async def test_a_listener_first_gets_the_state_and_then_the_changes() -> None:
    async with running() as (hub, source):
        await publish(hub, source, reading(0, FIRST))
        listener = hub.listen()
        (state,) = await taken(listener)
        await publish(hub, source, reading(1, SECOND))
        (delta,) = await taken(listener)
    assert (state.kind, names(state)) == ("state", list(FIRST))
    assert state.data["values"][0] == {"symbol": "BTCUSDT", "open_interest": "10.5", "time": BEGIN}
    assert (state.data["slot"], state.data["next_slot"]) == (BEGIN, BEGIN + PERIOD)
    assert (state.data["asked"], state.data["read"]) == (3, 3)
    assert (delta.kind, names(delta)) == ("sweep", list(FIRST))  # the time of each value is new
    assert delta.data["values"][0]["open_interest"] == "11.5"


async def test_a_delta_omits_unchanged_values_and_older_answers() -> None:
    async with running() as (hub, source):
        listener = hub.listen()
        await publish(hub, source, reading(0, FIRST))
        await taken(listener)
        times = {"ETHUSDT": BEGIN, "XRPUSDT": BEGIN - 1}
        await publish(hub, source, reading(1, {**SECOND, "XRPUSDT": "29"}, times=times))
        (delta,) = await taken(listener)
        (state,) = await taken(hub.listen())
    assert names(delta) == ["BTCUSDT"]
    assert delta.data["read"] == 3
    assert {v["symbol"]: v["open_interest"] for v in state.data["values"]}["XRPUSDT"] == "30"


async def test_a_listener_that_connects_before_the_first_sweep_waits_for_it() -> None:
    async with running() as (hub, source):
        listener = hub.listen()
        waiting = asyncio.create_task(listener.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        await publish(hub, source, reading(0, FIRST))
        (state,) = Parser().feed(await waiting or b"")
    assert state.kind == "state"


async def test_a_listener_of_some_symbols_gets_them_in_its_order_and_learns_which_are_absent() -> (
    None
):
    async with running() as (hub, source):
        await publish(hub, source, reading(0, FIRST, errors={"ADAUSDT": "outage"}))
        listener = hub.listen(View(("XRPUSDT", "NOSUCHUSDT", "ADAUSDT", "BTCUSDT")))
        (state,) = await taken(listener)
        left = {name: value for name, value in SECOND.items() if name != "XRPUSDT"}
        await publish(hub, source, reading(1, left, errors={"ETHUSDT": "budget"}))
        (delta,) = await taken(listener)
    assert names(state) == ["XRPUSDT", "BTCUSDT"]
    assert (state.data["absent"], state.data["errors"]) == (["NOSUCHUSDT"], {"ADAUSDT": "outage"})
    assert (names(delta), delta.data["gone"]) == (["BTCUSDT"], ["XRPUSDT"])
    assert "errors" not in delta.data


async def test_a_value_with_a_receive_time_in_the_future_is_as_old_as_its_sweep() -> None:
    async with running() as (hub, source):
        for number in range(2):  # a new value, and the same one again
            sweep = reading(number, FIRST)
            ahead = [
                seen._replace(received=seen.received + 3_600_000) for seen in sweep.observations
            ]
            await publish(hub, source, sweep._replace(observations=ahead))
            assert hub.cells["BTCUSDT"].at <= hub.now
        await asyncio.sleep(30.0)
        assert hub.age_of(hub.cells["BTCUSDT"].at) >= 30


async def test_a_failing_symbol_keeps_its_value_and_a_delisted_one_does_not() -> None:
    async with running() as (hub, source):
        left = {"BTCUSDT": "11"}
        await publish(hub, source, reading(0, FIRST))
        await publish(hub, source, reading(1, left, errors={"ETHUSDT": "outage"}))
        (state,) = await taken(hub.listen())
    assert names(state) == ["BTCUSDT", "ETHUSDT"]
    assert state.data["errors"] == {"ETHUSDT": "outage"}


async def test_decimals_are_strings_or_exact_numbers_and_mark_prices_add_the_notional() -> None:
    async with running() as (hub, source):
        values, prices = {"BTCUSDT": "0.10"}, {"BTCUSDT": "66012.5"}
        await publish(hub, source, reading(0, values, prices=prices))
        text = await hub.listen().next()
        numbers = await hub.listen(View(decimals="number")).next()
    assert text is not None
    assert numbers is not None
    assert b'"open_interest":"0.10"' in text
    assert b'"mark_price":"66012.5","notional":"6601.250"' in text
    assert b'"open_interest":0.10' in numbers
    assert b'"notional":6601.250' in numbers


async def test_a_gap_event_omits_the_text_of_the_exchange() -> None:
    async with running() as (hub, source):
        await publish(hub, source, reading(0, FIRST))
        listener = hub.listen()
        await taken(listener)
        await publish(hub, source, Gap(BEGIN, BEGIN + PERIOD, "banned", "IP(192.0.2.7) banned"))
        data = await listener.next()
        (state,) = await taken(hub.listen())
    assert data is not None
    assert b"192.0.2.7" not in data
    (gap,) = Parser().feed(data)
    assert gap.kind == "gap"
    assert gap.data == {"first": BEGIN, "last": BEGIN + PERIOD, "reason": "banned"}
    assert state.data["gaps"] == [gap.data]


async def test_only_a_view_with_head_gets_the_source_and_the_schedule() -> None:
    async with running() as (hub, source):
        await publish(hub, source, reading(0, FIRST))
        listener = hub.listen(View(head=True))
        (state,) = await taken(listener)
        (plain,) = await taken(hub.listen())
    assert state.data["head"] == {"source": "local", "every": 20.0, "budget": None}
    assert "head" not in plain.data


# -- positions, losses, resuming -----------------------------------------------------------------


async def test_a_slow_listener_gets_every_kept_event_in_order() -> None:
    async with running(Limits(kept_events=4)) as (hub, source):
        await publish(hub, source, reading(0, FIRST))
        listener = hub.listen()
        await taken(listener)
        await publish(hub, source, *sweeps(4))
        seen = [event for _ in range(4) for event in await taken(listener)]
    assert [event.data["values"][0]["open_interest"] for event in seen] == ["1", "2", "3", "4"]
    assert [event.id.partition("-")[2] for event in seen] == ["2", "3", "4", "5"]


async def test_a_listener_that_falls_behind_gets_the_number_of_lost_events_and_the_state() -> None:
    async with running(Limits(kept_events=4)) as (hub, source):
        await publish(hub, source, reading(0, FIRST))
        listener = hub.listen()
        await taken(listener)
        await publish(hub, source, *sweeps(5))
        loss, state = await taken(listener)
        await publish(hub, source, reading(9, SECOND))
        (delta,) = await taken(listener)
    assert (loss.kind, loss.data) == ("lost", {"events": 5})
    assert (state.kind, state.data["values"][0]["open_interest"]) == ("state", "5")
    assert (delta.kind, delta.data["values"][0]["open_interest"]) == ("sweep", "11.5")


async def test_a_listener_resumes_after_its_last_event() -> None:
    async with running(Limits(kept_events=4)) as (hub, source):
        await publish(hub, source, reading(0, FIRST))
        first = hub.listen()
        (state,) = await taken(first)
        first.leave()
        await publish(hub, source, *sweeps(2))
        second = hub.listen(last_event_id=state.id)
        seen = [*await taken(second), *await taken(second)]
        has_all = hub.listen(last_event_id=seen[-1].id)
        waiting = asyncio.create_task(has_all.next())
        await publish(hub, source, reading(9, SECOND))
        (delta,) = Parser().feed(await waiting or b"")
    assert [event.kind for event in seen] == ["sweep", "sweep"]
    assert [event.data["values"][0]["open_interest"] for event in seen] == ["1", "2"]
    assert delta.data["values"][0]["open_interest"] == "11.5"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_application_uses_other_event_ids() -> None:
    async def first_id() -> bytes:
        hub.publish(reading(0, FIRST))
        assert hub.state is not None
        return hub.state.framed(View()).split(b"\n")[0]

    hub = Hub(FedSource())  # a server may load an application before it forks
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(theirs, asyncio.run(first_id()))
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        of_child = pipe.read()
    os.waitpid(child, 0)
    assert of_child.startswith(b"id: ")
    assert asyncio.run(first_id()) != of_child


@pytest.mark.parametrize(
    "last",
    ["0badcafe-1", "0badcafe-", "x", "-", "{}-0", "{}-99", "{}--1", "{}-\u0661", "{}-" + "9" * 99],
)
async def test_an_unknown_event_id_is_reported_as_a_loss_of_unknown_size(last: str) -> None:
    async with running() as (hub, source):
        await publish(hub, source, reading(0, FIRST))
        (state,) = await taken(hub.listen())
        epoch = state.id.partition("-")[0]
        loss, whole = await taken(hub.listen(last_event_id=last.format(epoch)))
    assert (loss.kind, loss.data, whole.kind) == ("lost", {"events": None}, "state")


async def test_listeners_with_equal_views_share_the_bytes_of_an_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    framed, calls = Event.framed, list[View]()

    def counted(event: Event, view: View, *more: Any) -> bytes:
        calls.append(view)
        return framed(event, view, *more)

    monkeypatch.setattr(Event, "framed", counted)
    async with running() as (hub, source):
        await publish(hub, source, reading(0, FIRST))
        view = ("BTCUSDT", "ETHUSDT")
        listeners = [hub.listen(View(view)) for _ in range(50)] + [hub.listen() for _ in range(50)]
        states = {await each.next() for each in listeners}
        await publish(hub, source, reading(1, SECOND))
        deltas = {await each.next() for each in listeners}
    assert (len(states), len(deltas)) == (2, 2)
    assert len(calls) == 4


async def test_a_value_is_encoded_once_whatever_the_number_of_views(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode, calls = Cell._encode, list[str]()

    def counted(cell: Cell, *more: Any) -> bytes:
        calls.append(cell.value.symbol)
        return encode(cell, *more)

    async with running() as (hub, source):
        await publish(hub, source, reading(0, FIRST))
        monkeypatch.setattr(Cell, "_encode", counted)
        for number in range(2, 30):
            view = tuple(list(FIRST)[: number % 3 + 1])
            await hub.listen(View(view)).next()
            await hub.listen(View((*view, f"S{number}USDT"))).next()
    assert sorted(calls) == sorted(FIRST)


async def test_a_listener_that_does_not_read_neither_delays_others_nor_holds_events() -> None:
    async with running(Limits(kept_events=2)) as (hub, source):
        await publish(hub, source, reading(0, FIRST))
        stopped = [hub.listen() for _ in range(10)]
        reads = hub.listen()
        await taken(reads)
        for outcome in sweeps(20):
            await publish(hub, source, outcome)
            (delta,) = await taken(reads)
            assert delta.data["slot"] == outcome.slot
        for each in stopped:
            (state,) = await taken(each)  # the listener's first event, so it has lost none
            assert state.data["values"][0]["open_interest"] == "20"


async def test_other_tasks_run_while_many_listeners_are_woken() -> None:
    async with running(Limits(listeners=4 * LISTENERS_PER_STEP)) as (hub, source):
        listeners = [hub.listen() for _ in range(4 * LISTENERS_PER_STEP)]
        waiting = [asyncio.create_task(each.next()) for each in listeners]
        await asyncio.sleep(0)
        source.feed(reading(0, FIRST))
        done = list[int]()
        while len(done) < 2 or done[-1] < len(waiting):
            await asyncio.sleep(0)
            done.append(sum(task.done() for task in waiting))
    assert any(0 < count < len(waiting) for count in done)


# -- the life of a stream ------------------------------------------------------------------------


async def test_an_idle_listener_gets_a_comment_before_a_proxy_would_end_its_stream() -> None:
    async with running(Limits(keep_alive=15.0)) as (hub, source):
        await publish(hub, source, reading(0, FIRST))
        listener, loop = hub.listen(), asyncio.get_running_loop()
        await taken(listener)
        before = loop.time()
        assert await listener.next() == KEEP_ALIVE
        assert 15.0 <= loop.time() - before <= 20.0
        await publish(hub, source, reading(1, SECOND))
        (delta,) = await taken(listener)
    assert delta.kind == "sweep"


async def test_a_listener_that_does_not_read_for_long_is_disconnected() -> None:
    async with running(Limits(stalled=60.0)) as (hub, source):
        await publish(hub, source, reading(0, FIRST))
        cut = list[bool]()
        listener = hub.listen(cut=lambda: cut.append(True))
        await taken(listener)
        await asyncio.sleep(59.0)
        assert (cut, hub.listeners) == ([], 1)
        await asyncio.sleep(10.0)
        assert (cut, hub.listeners) == ([True], 0)
        assert await listener.next() is None


@pytest.mark.parametrize("end", ["the source ends", "the hub is cancelled"])
async def test_a_listener_that_does_not_read_is_disconnected_even_after_the_hub_ended(
    end: str,
) -> None:
    tasks, cut, source = asyncio.all_tasks(), list[bool](), FedSource()
    hub = Hub(source, limits=Limits(stalled=60.0))
    task = asyncio.create_task(hub.run())
    await publish(hub, source, reading(0, FIRST))
    listener, reads = hub.listen(cut=lambda: cut.append(True)), hub.listen()
    await taken(listener)
    if end == "the source ends":
        source.end(ValueError("no schedule fits"))
    else:
        task.cancel()
    await asyncio.wait([task])
    assert [event.kind for event in await taken(reads)] == ["state"]
    assert await reads.next() is None
    reads.leave()
    assert (cut, hub.listeners) == ([], 1)
    await asyncio.sleep(70.0)
    assert (cut, hub.listeners) == ([True], 0)
    assert asyncio.all_tasks() == tasks


async def test_a_listener_whose_connection_has_ended_is_removed() -> None:
    async with running() as (hub, source):
        await publish(hub, source, reading(0, FIRST))
        gone = list[bool]()
        listener = hub.listen(is_gone=lambda: bool(gone))
        await taken(listener)
        waiting = asyncio.create_task(listener.next())
        await asyncio.sleep(5.0)
        assert hub.listeners == 1
        gone.append(True)
        assert await waiting is None
        assert hub.listeners == 0


async def test_a_closed_hub_ends_every_stream_after_its_pending_events() -> None:
    async with running() as (hub, source):
        await publish(hub, source, reading(0, FIRST))
        idle, behind = hub.listen(), hub.listen()
        await taken(idle)
        await taken(behind)
        waiting = asyncio.create_task(idle.next())
        await publish(hub, source, reading(1, SECOND))
        assert await waiting is not None
        ended = asyncio.create_task(idle.next())
        await asyncio.sleep(0)
        hub.close()
        assert await ended is None
        assert [event.kind for event in await taken(behind)] == ["sweep"]
        assert await behind.next() is None
        with pytest.raises(FullError):
            hub.listen()


async def test_the_number_of_listeners_is_bounded_and_one_that_leaves_makes_room() -> None:
    async with running(Limits(listeners=2)) as (hub, _):
        first, _ = hub.listen(), hub.listen()
        with pytest.raises(FullError):
            hub.listen()
        first.leave()
        first.leave()
        hub.listen()
        assert hub.listeners == 2


async def test_an_error_of_the_source_ends_the_hub_and_its_streams() -> None:
    source = FedSource()
    hub = Hub(source)
    task = asyncio.create_task(hub.run())
    listener = hub.listen()
    waiting = asyncio.create_task(listener.next())
    await asyncio.sleep(0)
    source.end(ValueError("no schedule fits"))
    with pytest.raises(ValueError, match="no schedule fits"):
        await task
    assert await waiting is None
    assert hub.is_closed


async def test_a_listener_can_be_awaited_again_after_a_cancellation() -> None:
    async with running() as (hub, source):
        listener = hub.listen()
        waiting = asyncio.create_task(listener.next())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await publish(hub, source, reading(0, FIRST))
        assert [event.kind for event in await taken(listener)] == ["state"]


async def test_the_hub_is_stale_after_three_periods_without_a_sweep() -> None:
    async with running() as (hub, source):
        assert hub.is_stale
        await publish(hub, source, reading(0, FIRST))
        await asyncio.sleep(3 * PERIOD / 1000 - 1)
        assert not hub.is_stale
        await asyncio.sleep(2)
        assert hub.is_stale
