"""The live checks, which normally ask the real exchange, run against the local one."""

from binance_oi import ProcessBudget
from binance_oi.simulator import LocalExchange
from live.__main__ import MOST_WEIGHT, ask


async def test_the_live_checks_cost_at_most_20_weight_and_every_fact_holds() -> None:
    async with LocalExchange() as exchange:
        facts, answers = await ask(exchange.url, ProcessBudget())
        assert 0 < exchange.used <= MOST_WEIGHT
    assert [fact for fact in facts if fact.held is False] == []
    assert sum(fact.held is True for fact in facts) >= 9
    assert all(answer.body and answer.headers for answer in answers)


async def test_an_outage_is_reported_as_a_failed_fact_without_a_traceback() -> None:
    async with LocalExchange() as exchange:
        exchange.fail(100, status=500)
        facts, _ = await ask(exchange.url, ProcessBudget())
    assert [fact.name for fact in facts if fact.held is False] == ["the run was completed"]


async def test_a_missing_header_is_reported() -> None:
    async with LocalExchange() as exchange:
        exchange.hide_headers()
        facts, _ = await ask(exchange.url, ProcessBudget())
    failed = {fact.name for fact in facts if fact.held is False}
    assert "both answers name the used weight" in failed
