"""Decode sections that are lists into structs of the model; count invalid items.

An invalid item does not affect the others. Long texts are truncated and integers
clamped; an item with any other value out of bounds is rejected.

The length of a list is read before its items are decoded: four million nils fit into a
frame, and would take 200 MB as objects.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import inspect

from kaywatch.wire import MAX_NAME, ErrorCode, Outcome
from kaywatch_agent.model.bounds import MAX_LIST, OUTCOMES
from kaywatch_agent.protocol.columns import BAD_INPUT, BatchErrors
from kaywatch_agent.protocol.names import clean_name, clean_text

__all__ = ["ItemDecoder", "items"]

T = TypeVar("T", bound=msgspec.Struct)
Fit = Callable[[Any], Any]

# The headers of msgpack's array 16 and array 32. A fixarray has its length in one byte.
_WIDE: Final = {0xDC: struct.Struct(">H"), 0xDD: struct.Struct(">I")}

_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])


class ItemDecoder(Generic[T]):
    """Decodes the items of a list, one by one, into a type.

    Strategy: msgspec decodes an item into a struct with the same fields but without
    bounds. One function per field then applies the bounds.
    """

    def __init__(self, type: type[T], *, array_like: bool = False) -> None:
        """Prepare to decode a type.

        Args:
            type: the type of the decoded items.
            array_like: whether an item is an array of fields rather than a map.
        """
        fields = msgspec.structs.fields(type)
        plans = {field.name: _plan(inspect.type_info(field.type)) for field in fields}
        self._type = type
        self._fits = [(name, fit) for name, (_, fit) in plans.items()]
        wires = [
            (field.name, plans[field.name][0])
            if field.required
            else (field.name, plans[field.name][0] | msgspec.UnsetType, msgspec.UNSET)
            for field in fields
        ]
        self._decoder = msgspec.msgpack.Decoder(
            msgspec.defstruct(
                type.__name__, wires, array_like=array_like, kw_only=not array_like
            )
        )

    def decode(
        self, encoded: msgspec.Raw, where: str, errors: BatchErrors
    ) -> tuple[T, ...] | None:
        """Return the valid items, and count the others.

        Args:
            encoded: the section. The result is None if it is empty, not a list, or too
                long.
            where: the name of the section in error messages.
            errors: counts rejected items.
        """
        if not encoded:
            return None
        encoded_items = items(encoded, where, MAX_LIST, ErrorCode.BAD_SECTION, errors)
        if encoded_items is None:
            return None
        valid = []
        for number, item in enumerate(encoded_items):
            try:
                valid.append(self._item(item))
            except BAD_INPUT as error:
                errors.count(ErrorCode.BAD_SECTION, f"{where}[{number}]: {error}")
        return tuple(valid)

    def _item(self, encoded: msgspec.Raw) -> T:
        fields = self._decoder.decode(encoded)
        return self._type(
            **{
                name: fit(value)
                for name, fit in self._fits
                if (value := getattr(fields, name)) is not msgspec.UNSET
            }
        )


def items(
    encoded: msgspec.Raw, where: str, limit: int, code: ErrorCode, errors: BatchErrors
) -> list[msgspec.Raw] | None:
    """Return the encoded items of a list; None if the list is invalid.

    Args:
        encoded: a complete msgpack value.
        where: the name of the section in error messages.
        limit: the maximum number of items.
        code: the error code of an invalid list.
        errors: counts the items of an invalid list.
    """
    length = _length(memoryview(encoded))
    if length is None:
        errors.count(code, f"{where}: expected an array")
        return None
    if length > limit:
        errors.count(code, f"{where}: {length} items; at most {limit}", length)
        return None
    return _decoder.decode(encoded)


def _length(encoded: memoryview) -> int | None:
    head = encoded[0]
    if 0x90 <= head <= 0x9F:
        return head - 0x90
    wide = _WIDE.get(head)
    return None if wide is None else int(wide.unpack_from(encoded, 1)[0])


# -- the plan of a type: what msgspec decodes, and a function that applies the bounds --


def _plan(info: inspect.Type) -> tuple[Any, Fit]:
    match info:
        case inspect.Metadata():
            return _plan(info.type)
        case inspect.StrType():
            if info.max_length == MAX_NAME:
                return str, clean_name
            return str, lambda text: clean_text(text, info.max_length)
        case inspect.IntType():
            return int, _clamp(info)
        case inspect.FloatType():
            return float, _check(info)
        case inspect.EnumType():  # an unknown name becomes the first member, `NONE`
            names = {member.value: member for member in info.cls}
            return str, lambda name: names.get(name, next(iter(info.cls)))
        case inspect.LiteralType() if set(info.values) == set(OUTCOMES):
            return int, lambda number: OUTCOMES[Outcome(number)]
        case inspect.VarTupleType():
            return _plan_list(info)
        case inspect.TupleType():
            plans = [_plan(item) for item in info.item_types]
            fits = [fit for _, fit in plans]
            return tuple[*(wire for wire, _ in plans)], lambda values: tuple(  # type: ignore[misc]
                [fit(item) for fit, item in zip(fits, values, strict=True)]
            )
    raise TypeError(f"{info}: add how the wire bounds it")


def _plan_list(info: inspect.VarTupleType) -> tuple[Any, Fit]:
    wire, fit_item = _plan(info.item_type)

    def fit(values: list[Any]) -> tuple[Any, ...]:
        if info.max_length is not None and len(values) > info.max_length:
            raise ValueError(f"{len(values)} items; at most {info.max_length}")
        return tuple(map(fit_item, values))

    return list[wire], fit  # type: ignore[valid-type]


def _clamp(info: inspect.IntType) -> Fit:
    if info.ge is None or info.le is None:
        raise TypeError(f"{info}: a number of the wire needs both bounds")
    low, high = info.ge, info.le
    return lambda number: min(max(low, number), high)


def _check(info: inspect.FloatType) -> Fit:
    if info.ge is None or info.le is None:
        raise TypeError(f"{info}: a number of the wire needs both bounds")
    low, high = info.ge, info.le

    def fit(number: float) -> float:
        if not low <= number <= high:
            raise ValueError(f"{number}: expected {low:g} to {high:g}")
        return number

    return fit
