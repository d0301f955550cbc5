"""A number in range is accepted; any other value raises an error that names the argument."""

import math
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest

from binance_oi.arguments import check_count, check_number

HUGE = 10**400


@pytest.mark.parametrize("value", [2, 2.0, Fraction(4, 2)])
def test_every_real_number_becomes_a_float(value: object) -> None:
    number = check_number("max_wait", value)
    assert (number, type(number)) == (2.0, float)


@pytest.mark.parametrize(
    "value", [None, "1", b"1", Decimal(1), timedelta(seconds=1), True, 1j, [1]], ids=repr
)
def test_anything_but_a_number_is_a_type_error_that_names_the_argument(value: object) -> None:
    for check in (check_number, check_count):
        with pytest.raises(TypeError, match=rf"^max_wait must be .* not {type(value).__name__}$"):
            check("max_wait", value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.5, HUGE, -HUGE])
def test_a_value_out_of_range_is_a_value_error_that_names_the_argument(value: float) -> None:
    with pytest.raises(ValueError, match=r"^max_wait must be finite and at least 0: "):
        check_number("max_wait", value, least=0.0)
    with pytest.raises(ValueError, match=r"^timeout must be finite and above 0: "):
        check_number("timeout", value, above=0.0)


def test_the_bound_least_includes_its_value_and_above_excludes_it() -> None:
    assert check_number("x", 0, least=0.0) == 0.0
    assert check_number("x", -1) == -1.0
    with pytest.raises(ValueError, match="above 0"):
        check_number("x", 0, above=0.0)


@pytest.mark.parametrize("value", [0, -1, HUGE, math.inf, math.nan])
def test_a_count_is_at_least_one_and_finite(value: object) -> None:
    with pytest.raises(ValueError, match=r"^limit must be finite and above 0"):
        check_count("limit", value, most=10)
    assert check_count("limit", 10, most=10) == 10
    assert check_count("limit", HUGE) == HUGE


def test_a_count_must_be_an_integer() -> None:
    with pytest.raises(TypeError, match="limit must be an int, not float"):
        check_count("limit", 2.0)
