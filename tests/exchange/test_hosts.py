"""A base URL and a proxy select the budget's pool; the URL names the source.

Invalid URLs and proxies are refused. The first tests check the path and weight of each route.
"""

from functools import partial
from typing import Any

import pytest
from yarl import URL

from binance_oi import OpenInterestClient, ProcessBudget
from binance_oi.exchange import routes
from binance_oi.exchange.hosts import (
    PRODUCTION,
    TESTNET,
    check_base_url,
    local_place,
    pool_key,
    source_name,
)
from binance_oi.exchange.routes import Route


def client_with_proxy(proxy: Any) -> OpenInterestClient:
    return OpenInterestClient(budget=ProcessBudget(), proxy=proxy)


ROUTES = [value for value in vars(routes).values() if isinstance(value, Route)]


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_has_an_absolute_path_and_a_weight(route: Route[object]) -> None:
    assert route.path.startswith(("/fapi/v1/", "/futures/data/"))
    assert route.weight >= 1


def test_all_mark_prices_have_weight_10_and_a_single_one_has_weight_1() -> None:
    assert routes.PREMIUM_INDEX.path == routes.PREMIUM_INDEX_OF_ONE.path
    assert (routes.PREMIUM_INDEX.weight, routes.PREMIUM_INDEX_OF_ONE.weight) == (10, 1)


@pytest.mark.parametrize(
    "url, checked",
    [
        (PRODUCTION, PRODUCTION),
        (TESTNET, TESTNET),
        ("https://fapi.binance.com/", "https://fapi.binance.com"),
        ("https://fapi.binance.com:443//", "https://fapi.binance.com:443"),
        ("https://gateway.example/binance/", "https://gateway.example/binance"),
        ("HTTPS://FAPI.BINANCE.COM", "HTTPS://FAPI.BINANCE.COM"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.1.2.3", "http://127.1.2.3"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("http://[::ffff:127.0.0.1]:8080", "http://[::ffff:127.0.0.1]:8080"),
        ("HTTP://LocalHost:8080", "HTTP://LocalHost:8080"),
    ],
)
def test_a_valid_base_url_loses_only_the_slashes_at_its_end(url: str, checked: str) -> None:
    assert check_base_url(url) == checked


@pytest.mark.parametrize(
    "url",
    [
        "",
        "fapi.binance.com",
        "//fapi.binance.com",
        "https://",
        "https:///fapi",
        "https:fapi.binance.com",
        "ftp://fapi.binance.com",
        "wss://fapi.binance.com",
        "file:///etc/passwd",
        "https://user:secret@fapi.binance.com",
        "https://user@fapi.binance.com",
        "https://@fapi.binance.com",
        "https://:@fapi.binance.com",
        "https://fapi.binance.com?symbol=secret",
        "https://fapi.binance.com?",
        "https://fapi.binance.com/#secret",
        "https://fapi.binance.com#",
        "https://fapi.binance.com:secret",
        "https://fapi.binance.com:",
        "https://fapi.binance.com:0",
        "https://fapi.binance.com:65536",
        "https://fapi.binance.com:-1",
        "https://fapi.binance.com:４４３",
        "https://fapi.binance.com\n",
        " https://fapi.binance.com",
        "https://fapi.bin\tance.com",
        "https://fapi.binance.com\\@example.com",
        "https://example.com/\x00",
        "https://fapi.bіnance.com",  # the i is Cyrillic
        "https://fapi.binance%2ecom",
        "https://[::1",
        "http://fapi.binance.com",
        "http://10.0.0.1",
        "http://0.0.0.0:8080",
        "http://[2001:db8::1]",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://2130706433",
        None,
        b"https://fapi.binance.com",
        443,
    ],
)
def test_an_invalid_base_url_is_refused_and_not_shown_in_the_error(url: object) -> None:
    with pytest.raises(ValueError, match=r"^base_url must be ") as caught:
        check_base_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://fapi.binance.com",
        "https://fapi.binance.com:443",
        "https://fapi.binance.com:8443/prefix",
        "https://FAPI.Binance.Com",
        "https://fapi.binance.com.",
        "https://dapi.binance.com",
        "https://fapi1.binance.com",
        "https://ws-fapi.binance.com",
        "https://binance.com",
    ],
)
def test_every_host_of_the_exchange_draws_from_one_pool(url: str) -> None:
    assert pool_key(url) == "binance-futures"


@pytest.mark.parametrize(
    "url",
    [TESTNET, "https://demo-dapi.binance.com", "https://testnet.binancefuture.com"],
)
def test_the_testnet_has_its_own_pool(url: str) -> None:
    assert pool_key(url) == "binance-futures-testnet"


@pytest.mark.parametrize(
    "url, key",
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8081/a/b", "http://127.0.0.1:8081"),
        ("http://127.0.0.1", "http://127.0.0.1:80"),
        ("https://Gateway.example", "https://gateway.example:443"),
        ("https://gateway.example:443", "https://gateway.example:443"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("https://notbinance.com", "https://notbinance.com:443"),
        ("https://fapi.binance.com.example", "https://fapi.binance.com.example:443"),
        ("https://demo-proxy.mycompany.example", "https://demo-proxy.mycompany.example:443"),
        ("https://demo-fapi.notbinance.com", "https://demo-fapi.notbinance.com:443"),
        ("https://[2001:DB8:0:0::1]", "https://[2001:db8::1]:443"),
        ("https://[::ffff:10.0.0.1]", "https://10.0.0.1:443"),
    ],
)
def test_any_other_host_and_port_has_its_own_pool(url: str, key: str) -> None:
    assert pool_key(url) == key


@pytest.mark.parametrize(
    "proxy, via",
    [
        ("http://proxy.example:3128", "proxy.example:3128"),
        ("http://proxy.example", "proxy.example:80"),
        ("https://proxy.example/", "proxy.example:443"),
        ("http://user:secret@proxy.example:3128", "proxy.example:3128"),
        ("http://other@proxy.example:3128", "proxy.example:3128"),
        ("http://[2001:DB8:0::0:1]:3128", "[2001:db8::1]:3128"),
        ("HTTP://Proxy.Example:3128", "proxy.example:3128"),
        ("http://us%40er:p@ss:secret@proxy.example", "proxy.example:80"),
        ("http://proxy_1:3128", "proxy_1:3128"),
        ("http://прокси.example:3128", "прокси.example:3128"),
    ],
)
def test_a_proxy_has_its_own_pool_named_without_its_password(proxy: str, via: str) -> None:
    assert pool_key(PRODUCTION, proxy) == f"binance-futures via {via}"
    client_with_proxy(proxy)
    assert URL(proxy).host == via.rpartition(":")[0].strip("[]")  # aiohttp finds the same host
    assert pool_key(TESTNET, proxy) == f"binance-futures-testnet via {via}"


@pytest.mark.parametrize(
    "proxy",
    [
        "",
        "proxy.example:3128",
        "http://",
        "http://.",
        "http://user:secret/x@proxy.example",
        "http://proxy.example:secret",
        "http://[::1",
        "http://[secret]",
        "http://[::zz]:3128",
        "socks5://proxy.example:1080",
        "socks5://user:secret@proxy.example:1080",
        "socks5h://proxy.example:1080",
        "socks4a://proxy.example",
        "SOCKS5://proxy.example",
        "ftp://proxy.example",
        "ws://proxy.example",
        "file:///secret",
        "secret:secret@proxy.example:3128",
        "//proxy.example:3128",
        "http:proxy.example:3128",
        "http:///proxy.example",
        "http://user:secret@",
        "http://user:secret@:3128",
        "http://:3128",
        "http://?proxy=secret",
        "http://proxy.example?secret",
        "http://proxy.example/secret",
        "http://proxy.example#secret",
        "http://proxy.example:0",
        "http://proxy.example:65536",
        "http://proxy.example:３１２８",
        " http://proxy.example",
        "http://proxy.example\n",
        "http://pro\txy.example",
        "http://proxy.example\\@secret.example",
        b"http://user:secret@proxy.example:3128",
        b"proxy",
        bytearray(b"http://proxy.example"),
        URL("http://user:secret@proxy.example:3128"),
        URL("socks5://user:secret@proxy.example:1080"),
    ],
    ids=ascii,
)
def test_any_other_proxy_is_refused_at_once_and_not_shown_in_the_error(proxy: Any) -> None:
    for refuse in (partial(pool_key, PRODUCTION), client_with_proxy):
        with pytest.raises(ValueError, match=r"^a proxy must be .* hand in a session ") as caught:
            refuse(proxy)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url, name",
    [
        (PRODUCTION, "production"),
        ("https://FAPI.binance.com:443", "production"),
        (TESTNET, "testnet"),
        ("https://testnet.binancefuture.com", "testnet"),
        ("http://127.0.0.1:8001", "local"),
        ("http://127.0.0.1:8002/", "local"),
        ("https://[::1]:9000", "local"),
        ("http://localhost:1", "local"),
        ("https://oi.example", "https://oi.example:443"),
        ("https://OI.example:443/usdm/", "https://oi.example:443/usdm"),
        ("https://oi.example/coinm", "https://oi.example:443/coinm"),
        ("https://binance.com.oi.example", "https://binance.com.oi.example:443"),
        ("https://fapi1.binance.com", "production"),
        ("https://fapi.binance.com.", "production"),
        ("https://www.binance.com", "production"),
        ("https://demo-fapi.binance.com.:443/", "testnet"),
        ("http://[::ffff:127.0.0.1]:8001", "local"),
        ("http://[0:0:0:0:0:0:0:1]:8001", "local"),
        ("https://demo-proxy.mycompany.example", "https://demo-proxy.mycompany.example:443"),
        ("https://demo-fapi.example", "https://demo-fapi.example:443"),
        ("https://demo-fapi.notbinance.com", "https://demo-fapi.notbinance.com:443"),
        ("https://fapi.notbinance.com", "https://fapi.notbinance.com:443"),
        ("https://dapi.binance.com", "https://dapi.binance.com:443"),
        ("https://api.binance.com", "https://api.binance.com:443"),
        ("https://papi.binance.com", "https://papi.binance.com:443"),
        ("https://eapi.binance.com", "https://eapi.binance.com:443"),
        ("https://fapi.dapi.binance.com", "https://fapi.dapi.binance.com:443"),
        ("https://demo-dapi.binance.com", "https://demo-dapi.binance.com:443"),
        ("https://demo-api.binance.com", "https://demo-api.binance.com:443"),
        ("https://dstream.binancefuture.com", "https://dstream.binancefuture.com:443"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]:443"),
        ("https://[2001:DB8:0:0::1]:443/", "https://[2001:db8::1]:443"),
        ("https://[2001:0db8:0000:0000:0000:0000:0000:0001]", "https://[2001:db8::1]:443"),
        ("https://[2001:db8::7f00:1]", "https://[2001:db8::7f00:1]:443"),
        ("https://[2001:db8::127.0.0.1]", "https://[2001:db8::7f00:1]:443"),
        ("https://[::ffff:a00:1]/usdm", "https://10.0.0.1:443/usdm"),
    ],
)
def test_every_url_of_a_source_has_the_same_source_name(url: str, name: str) -> None:
    assert source_name(url) == name
    assert OpenInterestClient(base_url=url, budget=ProcessBudget()).source == name


@pytest.mark.parametrize(
    "pool, place",
    [
        ("http://127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("http://[::1]:8080", ("::1", 8080)),
        ("http://localhost:8080", ("localhost", 8080)),
        ("http://127.0.0.1", None),
        ("http://127.0.0.1:99999", None),
        ("http://127.0.0.1:8080 via 127.0.0.1:9", None),
        ("http://127.0.0.1:8080 from 127.0.0.2", None),
        ("https://192.0.2.1:8080", None),
        ("binance-futures", None),
        ("", None),
        ("http://[:8080", None),
    ],
)
def test_only_the_pool_of_a_local_exchange_gives_its_host_and_port(
    pool: str, place: tuple[str, int] | None
) -> None:
    assert local_place(pool) == place
