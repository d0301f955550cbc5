"""Keeps the listed symbols and their statuses, and makes `exchangeInfo`.

The rule of this file: facts about single symbols are in `universe.txt`; only the commodities and
indices are listed here. What the exchange says about every symbol alike (filters, order types,
margins) is here, once.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType

TRADING = "TRADING"
NEVER_MS = 4_133_404_800_000  # 2100-12-25: the delivery date of perpetuals (seen 2026-07)
DAY_MS = 86_400_000
DELIVERY_MS = 8 * 3_600_000  # ms after midnight UTC at which contracts are delivered
STALE_S = 13 * 3600  # s: the age of exchangeInfo.serverTime (seen 2026-07-03)

_QUOTES = ("USDT", "USDC", "USD1", "BTC", "U")
_NAME = re.compile(rf"(?P<base>\w+?)(?P<quote>{'|'.join(_QUOTES)})(?P<date>_\d{{6}})?")
_COMMODITIES = frozenset({"XAU", "XAG", "XPT", "XPD", "COPPER", "CL", "BZ", "NATGAS"})
_INDICES = frozenset({"ALL", "BTCDOM", "DEFI"})


@dataclass(frozen=True, slots=True)
class Symbol:
    """One listed contract."""

    name: str
    status: str
    contract_type: str
    base: str
    quote: str
    price: float
    """Roughly the mark price, in the quote asset."""
    price_precision: int
    quantity_precision: int
    onboard_ms: int

    @property
    def pair(self) -> str:
        return self.base + self.quote

    @property
    def is_delivery(self) -> bool:
        """Whether the contract ends on a date; then its name contains the date."""
        return "_" in self.name

    @property
    def underlying_type(self) -> str:
        if self.base in _COMMODITIES:
            return "COMMODITY"
        if self.contract_type == "TRADIFI_PERPETUAL":
            return "EQUITY"
        return "INDEX" if self.base in _INDICES else "COIN"

    @property
    def delivery_ms(self) -> int:
        """Unix ms of delivery; `NEVER_MS` for a perpetual. For a ``SETTLING`` perpetual, we assume
        a year after its listing."""
        if self.is_delivery:
            return _unix_ms(self.name.rpartition("_")[2], "%y%m%d") + DELIVERY_MS
        return self.onboard_ms + 365 * DAY_MS if self.status == "SETTLING" else NEVER_MS


class Universe:
    """Every listed symbol by name, in the order of listing, with statuses that may change."""

    def __init__(self, symbols: Iterable[Symbol] | None = None) -> None:
        listed = read_table() if symbols is None else symbols
        self._symbols = {symbol.name: symbol for symbol in listed}

    def __repr__(self) -> str:
        return f"<Universe {len(self._symbols)} listed, {len(self.trading)} trading>"

    @property
    def symbols(self) -> Mapping[str, Symbol]:
        return MappingProxyType(self._symbols)

    @property
    def trading(self) -> tuple[str, ...]:
        """Names of the trading symbols, in the order of listing."""
        return tuple(name for name, s in self._symbols.items() if s.status == TRADING)

    def set_status(self, name: str, status: str, now: float) -> Symbol:
        """Change a status; a name not listed yet is listed at `now` (Unix s).

        Raises:
            ValueError: A new name has no known quote asset.
        """
        known = self._symbols.get(name)
        symbol = replace(known, status=status) if known else _new_symbol(name, status, now)
        self._symbols[name] = symbol
        return symbol


@cache
def read_table() -> tuple[Symbol, ...]:
    """The symbols of `universe.txt`, which a process reads once."""
    return tuple(_entries())


def _entries() -> Iterator[Symbol]:
    month = status = contract_type = quote = ""
    order = 0
    for line in _table_lines():
        if not line.startswith(" "):
            month, status, contract_type, quote = line.split()
            order = 0
            continue
        for entry in line.split():
            base, price, price_precision, quantity_precision = entry.split(":")
            base, underscore, date = base.partition("_")
            yield Symbol(
                name=base + quote + underscore + date,
                status=status,
                contract_type=contract_type,
                base=base,
                quote=quote,
                price=float(price),
                price_precision=int(price_precision),
                quantity_precision=int(quantity_precision),
                # The table has only the month, so we assume eight listings a day.
                onboard_ms=_unix_ms(month, "%Y-%m") + order * DAY_MS // 8,
            )
            order += 1


def exchange_info(symbols: Iterable[Symbol], *, limit: int, now: float) -> bytes:
    """The body of `exchangeInfo`, about 1 MB, with the fields and the age of the real one.

    Args:
        symbols: the listed symbols.
        limit: weight allowed in a minute.
        now: Unix s; `serverTime` is hours older, as on the real exchange.
    """
    body = {
        "timezone": "UTC",
        "serverTime": int((now - STALE_S) * 1000),
        "futuresType": "U_MARGINED",
        "rateLimits": [
            _rate_limit("REQUEST_WEIGHT", "MINUTE", 1, limit),
            _rate_limit("ORDERS", "MINUTE", 1, 1200),
            _rate_limit("ORDERS", "SECOND", 10, 300),
        ],
        "exchangeFilters": [],
        "assets": [
            {"asset": asset, "marginAvailable": True, "autoAssetExchange": "0"}
            for asset in ("USDT", "BTC", "BNB", "ETH", "USDC", "FDUSD", "BFUSD", "USD1", "U")
        ],
        "symbols": [_described(symbol) for symbol in symbols],
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _rate_limit(kind: str, interval: str, number: int, limit: int) -> dict[str, object]:
    return {
        "rateLimitType": kind,
        "interval": interval,
        "intervalNum": number,
        "limit": limit,
    }


def _described(symbol: Symbol) -> dict[str, object]:
    return {
        "symbol": symbol.name,
        "pair": symbol.pair,
        "contractType": symbol.contract_type,
        "deliveryDate": symbol.delivery_ms,
        "onboardDate": symbol.onboard_ms,
        "status": symbol.status,
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": symbol.base,
        "quoteAsset": symbol.quote,
        "marginAsset": symbol.quote,
        "pricePrecision": symbol.price_precision,
        "quantityPrecision": symbol.quantity_precision,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": symbol.underlying_type,
        "underlyingSubType": [],
        "triggerProtect": "0.1500",
        "liquidationFee": "0.015000",
        "marketTakeBound": "0.15",
        "maxMoveOrderLimit": 10000,
        "filters": _filters(symbol),
        "orderTypes": [
            "LIMIT",
            "MARKET",
            "STOP",
            "STOP_MARKET",
            "TAKE_PROFIT",
            "TAKE_PROFIT_MARKET",
            "TRAILING_STOP_MARKET",
        ],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
        "permissionSets": ["GRID", "COPY", "DCA", "PSB"],
    }


def _filters(symbol: Symbol) -> list[dict[str, object]]:
    tick = f"{10.0**-symbol.price_precision:.{symbol.price_precision}f}"
    step = f"{10.0**-symbol.quantity_precision:.{symbol.quantity_precision}f}"
    lot = {"stepSize": step, "minQty": step}
    return [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "tickSize": tick, "maxPrice": "4529764"},
        {"filterType": "LOT_SIZE", **lot, "maxQty": "1000000"},
        {"filterType": "MARKET_LOT_SIZE", **lot, "maxQty": "100000"},
        {"filterType": "MAX_NUM_ORDERS", "limit": 200},
        {"filterType": "MIN_NOTIONAL", "notional": "5"},
        {
            "filterType": "PERCENT_PRICE",
            "multiplierDecimal": "4",
            "multiplierDown": "0.8500",
            "multiplierUp": "1.1500",
        },
        {"filterType": "POSITION_RISK_CONTROL", "positionControlSide": "NONE"},
    ]


def _table_lines() -> Iterator[str]:
    text = Path(__file__).with_name("universe.txt").read_text(encoding="utf-8")
    return (line for line in text.splitlines() if not line.startswith("#"))


def _new_symbol(name: str, status: str, now: float) -> Symbol:
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise ValueError(f"{name!r} has no known quote asset ({'|'.join(_QUOTES)})")
    return Symbol(
        name=name,
        status=status,
        contract_type="CURRENT_QUARTER" if parts["date"] else "PERPETUAL",
        base=parts["base"],
        quote=parts["quote"],
        price=1.0,
        price_precision=4,
        quantity_precision=0,
        onboard_ms=int(now * 1000),
    )


def _unix_ms(text: str, layout: str) -> int:
    return int(datetime.strptime(text, layout).replace(tzinfo=UTC).timestamp()) * 1000
