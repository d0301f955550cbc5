"""Converts values to dictionaries and to JSON.

The rule of this file: any JSON encoder accepts these dictionaries, unless the caller asks for
decimals as numbers. No decimal is written as a `float`. A field has the name of its attribute.
This module also has the hooks for FastAPI and pydantic. It imports pydantic only when pydantic
calls its hook.
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
"""How to write a decimal: as text, or as a number. Both have the exchange's digits."""

# The pydantic schema of a field, by the field's type. Any other type has the schema `any`.
_SCHEMAS = {str: "str", int: "int", Decimal: "str", datetime: "str"}


class Encodable:
    """Base of the values with fields: structs, dataclasses and named tuples."""

    __slots__ = ()

    def to_dict(self, *, decimals: Decimals = "text") -> dict[str, Any]:
        """A dictionary of all fields by name, ready for any JSON encoder.

        A decimal becomes text with the exchange's digits. A `datetime` becomes ISO 8601 text in
        UTC. A `float` that is not finite becomes None, because JSON has no such numbers. A field
        that is itself a value with fields becomes a dictionary.

        Args:
            decimals: ``"number"`` keeps each decimal as a `Decimal`. Few JSON encoders accept a
                `Decimal`; `to_json` does.

        Raises:
            ValueError: `decimals` is neither ``"text"`` nor ``"number"``.
        """
        check_decimals(decimals)
        return {name: plain(getattr(self, name), decimals) for name in self._field_names()}

    def to_json(self, *, decimals: Decimals = "text") -> str:
        """The dictionary of `to_dict` as one line of JSON.

        Args:
            decimals: ``"number"`` writes each decimal as a JSON number with the exchange's digits.
                Most readers of JSON convert a number to a double. So a decimal that such a reader
                would show with other digits remains text.

        Raises:
            ValueError: `decimals` is neither ``"text"`` nor ``"number"``.
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
        """The schema for pydantic: a field accepts only an instance, and its JSON is `to_dict`."""
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
    """An `Encodable` that is no container, so that ``dict(value)`` returns its fields.

    FastAPI calls ``dict(value)`` when a handler returns a value and declares no type.
    """

    __slots__ = ()
    __iter__: None = None  # otherwise `iter(value)` would call `__getitem__` with 0, 1, 2 …

    def keys(self) -> Collection[str]:
        """The keys of `to_dict`."""
        return tuple(self._field_names())

    def __getitem__(self, name: str) -> Any:
        """The field `name` as in `to_dict`: a decimal is text."""
        if name not in self.keys():
            raise KeyError(name)
        return plain(getattr(self, name), "text")


def json_text(value: object, *, decimals: Decimals = "text") -> str:
    """Write a value or a container of values as one line of JSON; see `Encodable.to_json`."""
    check_decimals(decimals)
    return _written(plain(value, decimals))


def check_decimals(decimals: object) -> None:
    """Check an argument of type `Decimals`.

    Raises:
        ValueError: `decimals` is neither ``"text"`` nor ``"number"``.
    """
    if decimals not in ("text", "number"):
        raise ValueError(f'decimals must be "text" or "number": {decimals!r}')


def plain(value: object, decimals: Decimals) -> Any:
    """Convert a value to a type of JSON. A value that fits none becomes the name of its type."""
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
    """Escape characters that UTF-8 cannot encode, such as Python's surrogates in a file name."""
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
    """Whether `number` is not finite, or changes when a reader of JSON converts it to a double."""
    return not number.is_finite() or Decimal(repr(float(number))) != number
