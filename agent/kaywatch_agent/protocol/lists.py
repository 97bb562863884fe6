"""A section that is a list becomes structs of the model; unsound items are counted.

One unsound item does not cost the others. Texts beyond their bound are cut, and
integers clamped; other values out of bounds reject their item.

The length is read off the head, before there is an object for each item: four
million nils fit into a frame, and would take 200 MB as objects.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import inspect

from kaywatch.wire import ErrorCode, Outcome
from kaywatch_agent.model.bounds import MAX_LIST, OUTCOMES
from kaywatch_agent.protocol.columns import BAD_INPUT, Checked

__all__ = ["ItemDecoder", "items"]

T = TypeVar("T", bound=msgspec.Struct)
Fit = Callable[[Any], Any]

# Heads of msgpack's array 16 and array 32; a fixarray has its length in its byte.
_WIDE: Final = {0xDC: struct.Struct(">H"), 0xDD: struct.Struct(">I")}

_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])


class ItemDecoder(Generic[T]):
    """Decodes the items of a list, each of them by itself, into one type.

    Strategy: msgspec decodes an item into a struct with the same fields and without
    their bounds; one function per field then applies the bounds.
    """

    def __init__(self, type: type[T], *, array_like: bool = False) -> None:
        """Prepare to decode a type.

        Args:
            type: what an item becomes.
            array_like: whether an item is an array of the fields, rather than a map.
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
        self, encoded: msgspec.Raw, where: str, checked: Checked
    ) -> tuple[T, ...] | None:
        """Return the sound items; the others are counted.

        Args:
            encoded: the section; None is returned for an empty one, and for one that
                is no list or too long.
            where: the section's name, for the sender.
            checked: where rejected items are counted.
        """
        if not encoded:
            return None
        found = items(encoded, where, MAX_LIST, ErrorCode.BAD_SECTION, checked)
        if found is None:
            return None
        sound = []
        for number, item in enumerate(found):
            try:
                sound.append(self._item(item))
            except BAD_INPUT as error:
                checked.count(ErrorCode.BAD_SECTION, f"{where}[{number}]: {error}")
        return tuple(sound)

    def _item(self, encoded: msgspec.Raw) -> T:
        found = self._decoder.decode(encoded)
        return self._type(
            **{
                name: fit(value)
                for name, fit in self._fits
                if (value := getattr(found, name)) is not msgspec.UNSET
            }
        )


def items(
    encoded: msgspec.Raw, where: str, limit: int, code: ErrorCode, checked: Checked
) -> list[msgspec.Raw] | None:
    """Return the items of a list; None, and all of it counted, if it can't be used.

    Args:
        encoded: a whole msgpack value, as a decoder has cut it out.
        where: the section's name, for the sender.
        limit: how many items may be in it.
        code: what a list that can't be used is counted as.
        checked: where that is counted.
    """
    length = _length(memoryview(encoded))
    if length is None:
        checked.count(code, f"{where}: expected an array")
        return None
    if length > limit:
        checked.count(code, f"{where}: {length} items, and at most {limit}", length)
        return None
    return _decoder.decode(encoded)


def _length(encoded: memoryview) -> int | None:
    head = encoded[0]
    if 0x90 <= head <= 0x9F:
        return head - 0x90
    wide = _WIDE.get(head)
    return None if wide is None else int(wide.unpack_from(encoded, 1)[0])


# -- a type's plan: what msgspec decodes, and the function that applies the bounds -----


def _plan(info: inspect.Type) -> tuple[Any, Fit]:
    match info:
        case inspect.Metadata():
            return _plan(info.type)
        case inspect.StrType():
            return str, lambda text: text[: info.max_length]
        case inspect.IntType():
            return int, _clamp(info)
        case inspect.FloatType():
            return float, _check(info)
        case inspect.EnumType():  # an unknown name is that of the first, `NONE`
            names = {member.value: member for member in info.cls}
            return str, lambda name: names.get(name, next(iter(info.cls)))
        case inspect.LiteralType() if set(info.values) == set(OUTCOMES):
            return int, lambda number: OUTCOMES[Outcome(number)]
        case inspect.VarTupleType():
            return _plan_list(info)
        case inspect.TupleType():
            plans = [_plan(item) for item in info.item_types]
            fits = [fit for _, fit in plans]
            return tuple[*(wire for wire, _ in plans)], lambda found: tuple(  # type: ignore[misc]
                [fit(item) for fit, item in zip(fits, found, strict=True)]
            )
    raise TypeError(f"{info}: add how the wire bounds it")


def _plan_list(info: inspect.VarTupleType) -> tuple[Any, Fit]:
    wire, fit_item = _plan(info.item_type)

    def fit(found: list[Any]) -> tuple[Any, ...]:
        if info.max_length is not None and len(found) > info.max_length:
            raise ValueError(f"{len(found)} items, and at most {info.max_length}")
        return tuple(map(fit_item, found))

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
