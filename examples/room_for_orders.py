"""Share one budget between clients, and keep a part of the limit free for orders."""

import asyncio

from binance_oi import BudgetExhaustedError, OpenInterestClient, ProcessBudget
from binance_oi.simulator import LocalExchange


async def main() -> None:
    # An int is weight, and a float is a share of the limit. `MachineBudget`, the default, takes the
    # same argument, and shares its count with every process of this user.
    budget = ProcessBudget(reserve=600)
    async with (
        LocalExchange() as exchange,
        OpenInterestClient(base_url=exchange.url, budget=budget, max_wait=1) as one,
        OpenInterestClient(base_url=exchange.url, budget=budget, max_wait=1) as other,
    ):
        await one.symbols()  # the first answer shows what others have used
        calls = [c.get_open_interest("BTCUSDT") for c in (one, other) for _ in range(1200)]
        results = await asyncio.gather(*calls, return_exceptions=True)

        refused = [r for r in results if isinstance(r, BudgetExhaustedError)]
        print(f"{len(results) - len(refused)} values, {len(refused)} not admitted")
        print(f"used {one.usage.used} of {one.usage.limit}; {one.usage.reserve} stay for orders")
        print(f"answers by status: {dict(exchange.answers)}")


asyncio.run(main())
