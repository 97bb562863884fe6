"""Protocol buffer messages that are declared in Python.

Strategy: `protobuf`, Google's own package, encodes and decodes; its classes are made at
run time from a table of fields. Generated code would need a compiler of protocol
buffers, and raises an error with a runtime that is older than the compiler.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["Field", "message_types", "varint"]

_Proto: Final = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final[Mapping[str, int]] = {
    "bool": _Proto.TYPE_BOOL,
    "bytes": _Proto.TYPE_BYTES,
    "double": _Proto.TYPE_DOUBLE,
    "int32": _Proto.TYPE_INT32,
    "int64": _Proto.TYPE_INT64,
    "sint32": _Proto.TYPE_SINT32,
    "sint64": _Proto.TYPE_SINT64,
    "string": _Proto.TYPE_STRING,
    "uint32": _Proto.TYPE_UINT32,
    "uint64": _Proto.TYPE_UINT64,
}


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        name: its name; only its number is encoded.
        type: a scalar type, or the name of a message.
        number: its number.
        repeated: whether it is a list.
    """

    name: str
    type: str
    number: int
    repeated: bool = False


def message_types(package: str, messages: Mapping[str, Iterable[Field]]) -> Any:
    """Return a namespace with a class for each message, in the syntax of proto3.

    Args:
        package: the package of the messages.
        messages: the fields by the name of the message.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto3"
    )
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field in fields:
            message.field.append(_declare(package, field))
    # Its own pool: an application in the same process may know the same messages.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return SimpleNamespace(
        **{
            name: message_factory.GetMessageClass(
                pool.FindMessageTypeByName(f"{package}.{name}")
            )
            for name in messages
        }
    )


def varint(number: int) -> bytes:
    """Return a non-negative number in base 128, as it precedes a delimited message."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _declare(package: str, field: Field) -> Any:
    scalar = _SCALARS.get(field.type)
    return _Proto(
        name=field.name,
        number=field.number,
        label=_Proto.LABEL_REPEATED if field.repeated else _Proto.LABEL_OPTIONAL,
        type=_Proto.TYPE_MESSAGE if scalar is None else scalar,
        type_name=f".{package}.{field.type}" if scalar is None else None,
    )
