"""A limit is a value that knows its header and its window."""

from binance_oi.exchange.limits import WEIGHT, Limit


def test_the_weight_of_a_minute_is_aligned_and_has_a_header() -> None:
    assert (WEIGHT.header, WEIGHT.is_aligned) == ("X-MBX-USED-WEIGHT-1M", True)
    assert Limit(60, 1200, False).header == WEIGHT.header  # whatever the amount


def test_any_other_limit_rolls_and_has_no_header() -> None:
    for limit in (Limit(10, 300, False), Limit(60, 1200, True), Limit(300, 1000, True)):
        assert (limit.header, limit.is_aligned) == ("", False)
