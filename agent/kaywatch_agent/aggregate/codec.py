"""A step as bytes: what the store keeps of it.

The format is a msgpack list of `[name, dtype, length]` for each column of `Packed`,
with its own length in front (4 bytes, little-endian), and then the columns one after
another. A column that a version doesn't know is skipped, so that a file can be read
by the version before.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate.history import Packed, pack, unpack
from kaywatch_agent.aggregate.step import EMPTY, Step

__all__ = ["decode", "encode"]

_LENGTH: Final = struct.Struct("<I")
_LINES: Final = "floats"  # the one column with two dimensions

_Header = list[tuple[str, str, int]]


def encode(step: Step) -> bytes:
    """Return the step as bytes."""
    packed = pack(step)
    columns = [(name, np.ravel(column)) for name, column in packed._asdict().items()]
    header = msgspec.msgpack.encode(
        [(name, column.dtype.str, column.size) for name, column in columns]
    )
    parts = [column.tobytes() for _, column in columns]
    return b"".join((_LENGTH.pack(len(header)), header, *parts))


def decode(data: bytes) -> Step:
    """Return the step that was encoded.

    Raises:
        ValueError: if the bytes are none of ours.
    """
    try:
        (size,) = _LENGTH.unpack_from(data)
        at = _LENGTH.size + size
        header = msgspec.msgpack.decode(data[_LENGTH.size : at], type=_Header)
        found: dict[str, NDArray[Any]] = {}
        for name, kind, length in header:
            column = np.frombuffer(data, np.dtype(kind), length, at)
            at += column.nbytes
            found[name] = column
        if not len(found["rows"]):
            return EMPTY
        found[_LINES] = found[_LINES].reshape(-1, len(found["rows"]))
        packed = Packed(**{name: found[name] for name in Packed._fields})
    except (struct.error, msgspec.MsgspecError, KeyError, TypeError) as error:
        raise ValueError(f"no step: {error}") from None
    return unpack(packed)
