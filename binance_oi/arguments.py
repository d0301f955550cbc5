"""Checks the numbers, paths and types that a caller passes.

The rule of this file: public calls check their arguments before they queue, charge or send
anything. A wrong type raises `TypeError`, and a wrong value raises `ValueError`. Both errors name
the argument.

A number may be any real number, such as one of numpy's or a `Fraction`. These types raise
`TypeError`: `Decimal`, because Python does not add it to a `float`; `bool`, because it is usually a
mistake; `str` and `timedelta`, because they are not numbers.
"""

import math
import os
from numbers import Integral, Real
from pathlib import Path
from typing import TypeAlias, cast

StrPath: TypeAlias = str | os.PathLike[str]
"""The type of a path in every public call."""


def check_number(
    name: str, value: object, *, above: float = -math.inf, least: float = -math.inf
) -> float:
    """Return `value` as a finite `float`.

    Args:
        name: Name of the argument.
        value: The caller's value.
        above: The value must be larger than this.
        least: The value must not be smaller than this.

    Raises:
        TypeError: The value is not a real number.
        ValueError: The value is not finite, or out of range.
    """
    number = as_float(name, value)
    if not (math.isfinite(number) and number > above and number >= least):
        bound = f" and above {above:g}" if above > -math.inf else ""
        bound += f" and at least {least:g}" if least > -math.inf else ""
        raise ValueError(f"{name} must be finite{bound}: {number!r}")
    return number


def check_count(name: str, value: object, *, most: int | None = None) -> int:
    """Return `value` as an `int` above 0.

    Args:
        name: Name of the argument.
        value: The caller's value.
        most: The largest value allowed; None allows any.

    Raises:
        TypeError: The value is not an integer.
        ValueError: The value is infinite or NaN, below 1, or above `most`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be finite and above 0: {value!r}")
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    count = int(value)
    if count < 1 or (most is not None and count > most):
        bound = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name} must be finite and above 0{bound}: {as_float(name, count):g}")
    return count


def as_float(name: str, value: object) -> float:
    """Return `value` as a `float`. An integer that is too large for a `float` becomes infinite.

    Raises:
        TypeError: The value is not a real number.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number (int or float), not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:  # an int of more than 308 digits
        return -math.inf if value < 0 else math.inf


def check_path(name: str, value: object) -> Path:
    """Return `value` as a path, without opening anything.

    Args:
        name: The name of the argument.
        value: The caller's value: a `str`, or an `os.PathLike` of a `str`.

    Raises:
        TypeError: The value is not a path, or its path is `bytes`.
        ValueError: The value is empty. `Path` would take it for the current directory.
    """
    kind, path = type(value).__name__, value
    if isinstance(value, os.PathLike):
        path = os.fspath(cast("os.PathLike[str]", value))  # this may return `bytes`
        kind += f" of {type(path).__name__}"
    if not isinstance(path, str):
        raise TypeError(f"{name} must be a str or an os.PathLike of one, not {kind}")
    if not path:
        raise ValueError(f"{name} must be a path: {path!r}")
    return Path(path)


def check_type(name: str, value: object, kind: type, *others: None) -> None:
    """Check that `value` is an instance of `kind`, or one of `others`.

    Raises:
        TypeError: The value is neither.
    """
    if not isinstance(value, kind) and value not in others:
        wanted = " or ".join([kind.__name__, *map(str, others)])
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")
