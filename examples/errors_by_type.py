"""The type of an error says what to do next."""

import asyncio

import binance_oi as oi
from binance_oi.simulator import LocalExchange


async def read(client: oi.OpenInterestClient, symbol: str) -> str:
    try:
        value = await client.get_open_interest(symbol)
    except oi.InvalidSymbolError:
        return "correct it: nothing was sent"
    except oi.UnknownSymbolError:
        return "drop it: it is not listed"
    except oi.SymbolNotTradingError:
        return "leave it out until it trades"
    except oi.BudgetExhaustedError as error:
        return f"ask again after {error.retry_at:%H:%M:%S}" if error.retry_at else "never"
    return str(value.open_interest)


async def main() -> None:
    async with (
        LocalExchange(limit=100) as exchange,
        oi.OpenInterestClient(base_url=exchange.url, max_wait=0.5) as client,
    ):
        await client.symbols()  # the answer announces the limit
        exchange.set_status("ETHUSDT", "SETTLING")
        for symbol in ("BTCUSDT", "BTC-USDT", "NOSUCHUSDT", "ETHUSDT"):
            print(f"{symbol:<12}{await read(client, symbol)}")
        many = await asyncio.gather(*(read(client, "BTCUSDT") for _ in range(100)))
        print(f"100 at once {many[-1]}")


asyncio.run(main())
