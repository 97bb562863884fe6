"""Encodes buckets as bytes, for the store.

The format is a msgpack list of `[name, dtype, length]` for each column of
`CompressedBucket`, preceded by its own length (4 bytes, little-endian), and then the
columns one after another. A version skips the columns that it does not know, so that
the previous version can read a file.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate.bucket import EMPTY, Bucket
from kaywatch_agent.aggregate.history import CompressedBucket, compress, decompress

__all__ = ["decode", "encode"]

_LENGTH: Final = struct.Struct("<I")
_LINES: Final = "floats"  # the one column with two dimensions

_Header = list[tuple[str, str, int]]


def encode(bucket: Bucket) -> bytes:
    """Return the bucket as bytes."""
    compressed = compress(bucket)._asdict()
    columns = [(name, np.ravel(column)) for name, column in compressed.items()]
    header = msgspec.msgpack.encode(
        [(name, column.dtype.str, column.size) for name, column in columns]
    )
    parts = [column.tobytes() for _, column in columns]
    return b"".join((_LENGTH.pack(len(header)), header, *parts))


def decode(data: bytes) -> Bucket:
    """Return the bucket that was encoded.

    Raises:
        ValueError: the bytes are not an encoded bucket.
    """
    try:
        (size,) = _LENGTH.unpack_from(data)
        at = _LENGTH.size + size
        header = msgspec.msgpack.decode(data[_LENGTH.size : at], type=_Header)
        columns: dict[str, NDArray[Any]] = {}
        for name, kind, length in header:
            column = np.frombuffer(data, np.dtype(kind), length, at)
            at += column.nbytes
            columns[name] = column
        if not len(columns["rows"]):
            return EMPTY
        columns[_LINES] = columns[_LINES].reshape(-1, len(columns["rows"]))
        compressed = CompressedBucket(
            **{name: columns[name] for name in CompressedBucket._fields}
        )
    except (struct.error, msgspec.MsgspecError, KeyError, TypeError) as error:
        raise ValueError(f"no bucket: {error}") from None
    return decompress(compressed)
