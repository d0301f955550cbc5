"""Values as dictionaries and as JSON.

The rule of this file: any JSON encoder accepts these dictionaries, and no decimal passes through a
`float`. A field has the name of its attribute. FastAPI and pydantic find their hooks here; this
module imports pydantic only when pydantic calls a hook.
"""

import json
import math
from collections.abc import Collection, Mapping, Set
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from importlib import import_module
from typing import Any, Literal, cast, get_type_hints

Decimals = Literal["text", "number"]
"""How to write a decimal: as text with the exchange's digits, or as a number with these digits."""

# The JSON schema of a field, by its type; a field of another type may hold anything.
_SCHEMAS = {str: "str", int: "int", Decimal: "str", datetime: "str"}


class Encodable:
    """A value with fields: a struct, a dataclass, a named tuple."""

    __slots__ = ()

    def to_dict(self, *, decimals: Decimals = "text") -> dict[str, Any]:
        """Every field under its name, ready for any JSON encoder.

        A decimal is text, digit by digit as the exchange wrote it. A `datetime` is ISO 8601 in UTC.
        A float that is not finite is None, because JSON has none. Values inside are dictionaries.

        Args:
            decimals: ``"number"`` leaves each decimal the exact `Decimal` that it is, which few
                JSON encoders take; see `to_json`.

        Raises:
            ValueError: `decimals` is neither ``"text"`` nor ``"number"``.
        """
        check_decimals(decimals)
        return {name: plain(getattr(self, name), decimals) for name in self._field_names()}

    def to_json(self, *, decimals: Decimals = "text") -> str:
        """The dictionary of `to_dict` as one line of JSON.

        Args:
            decimals: ``"number"`` writes each decimal as a JSON number with the exchange's digits.
                Most readers convert such a number to a double, so a decimal that a double would
                round stays text.
        """
        return json_text(self, decimals=decimals)

    def _field_names(self) -> Collection[str]:
        kind = type(self)
        for names in ("__struct_fields__", "__dataclass_fields__", "_fields"):
            if hasattr(kind, names):
                found: Collection[str] = getattr(kind, names)
                return found
        raise TypeError(f"{kind.__name__} has no fields")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """For pydantic: a field of this type accepts an instance, and `to_dict` is its JSON."""
        core = import_module("pydantic_core.core_schema")
        hints = get_type_hints(cls)
        fields = {
            name: core.typed_dict_field(getattr(core, f"{_SCHEMAS.get(hint, 'any')}_schema")())
            for name, hint in hints.items()
            if not name.startswith("_")
        }
        shape = core.typed_dict_schema(fields) if fields else core.dict_schema()
        encode = core.plain_serializer_function_ser_schema(
            cls.to_dict, return_schema=shape, when_used="json"
        )
        return core.is_instance_schema(cls, serialization=encode)


class EncodableByKey(Encodable):
    """An `Encodable` that is no container: ``dict(value)`` and ``{**value}`` give its fields.

    FastAPI calls ``dict(value)`` when a handler returns a value and declares no type.
    """

    __slots__ = ()
    __iter__: None = None  # or Python would try the keys 0, 1, 2 …

    def keys(self) -> Collection[str]:
        """The names of the fields in `to_dict`."""
        return tuple(self._field_names())

    def __getitem__(self, name: str) -> Any:
        """A field of `to_dict`: a decimal is text."""
        if name not in self.keys():
            raise KeyError(name)
        return plain(getattr(self, name), "text")


def json_text(value: object, *, decimals: Decimals = "text") -> str:
    """A value, or a container of values, as one line of JSON; see `Encodable.to_json`."""
    check_decimals(decimals)
    return _written(plain(value, decimals))


def check_decimals(decimals: object) -> None:
    """Refuse an argument that means nothing.

    Raises:
        ValueError: It is neither ``"text"`` nor ``"number"``.
    """
    if decimals not in ("text", "number"):
        raise ValueError(f'decimals must be "text" or "number": {decimals!r}')


def plain(value: object, decimals: Decimals) -> Any:
    """Convert a value to a type of JSON; an object without such a type becomes its type's name."""
    match value:
        case Enum():
            return plain(value.value, decimals)
        case None | bool() | int():
            return value
        case str():
            return _text(value)
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return f"{value:f}" if decimals == "text" else value
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case Encodable():
            return value.to_dict(decimals=decimals)
        case _:
            return _plain_container(value, decimals)


def _plain_container(value: object, decimals: Decimals) -> Any:
    if isinstance(value, Mapping):
        known = cast("Mapping[object, object]", value)
        return {_text(str(key)): plain(each, decimals) for key, each in known.items()}
    if isinstance(value, list | tuple | Set):
        found = [plain(each, decimals) for each in cast("Collection[object]", value)]
        return sorted(found) if isinstance(value, Set) else found
    return f"<{type(value).__name__}>"


def _text(text: str) -> str:
    """Escape what UTF-8 cannot encode: a file name may contain bytes that are no text."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _written(value: Any) -> str:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value).items()
        return "{" + ",".join(f"{_dumped(name)}:{_written(each)}" for name, each in fields) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, cast("Collection[Any]", value))) + "]"
    if isinstance(value, Decimal) and not _would_be_rounded(value):
        return f"{value:f}"
    return _dumped(f"{value:f}" if isinstance(value, Decimal) else value)


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _would_be_rounded(number: Decimal) -> bool:
    """Whether a reader that keeps numbers as doubles would show another number, or none."""
    return not number.is_finite() or Decimal(repr(float(number))) != number
