"""Encodes buckets as bytes, for the store.

The format is a msgpack list of `[name, dtype, length]` for each column of
`CompressedBucket`, preceded by its own length (4 bytes, little-endian), and then the
columns one after another. A version skips the columns that it does not know, so that
the previous version can read a file.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate.bucket import (
    ALL_DIMENSIONS,
    ROW_SHIFT,
    Bucket,
    Dimension,
    select,
)
from kaywatch_agent.aggregate.compression import (
    UNIT,
    CompressedBucket,
    decompress,
    pack,
)

__all__ = ["decode", "encode"]

_LENGTH: Final = struct.Struct("<I")

_Header = list[tuple[str, str, int]]
_Columns = dict[str, NDArray[Any]]


def encode(bucket: Bucket) -> bytes:
    """Return the bucket as bytes."""
    columns = pack(bucket)._asdict()
    header = msgspec.msgpack.encode(
        [(name, column.dtype.str, column.size) for name, column in columns.items()]
    )
    return b"".join((_LENGTH.pack(len(header)), header, *columns.values()))


def decode(
    data: bytes,
    rows: NDArray[np.int64] | None = None,
    dimensions: Collection[Dimension] = ALL_DIMENSIONS,
) -> Bucket:
    """Return the bucket that was encoded, or a part of it.

    Args:
        data: the bytes.
        rows: as of `decompress`, like the others.
        dimensions: others may be returned as well.

    Raises:
        ValueError: the bytes are not an encoded bucket.
    """
    try:
        columns = _columns(data)
        if "floats" in columns:
            bucket = _version_4(columns)
            return bucket if rows is None else select(bucket, rows)
        known = {name: columns[name] for name in CompressedBucket._fields}
        return decompress(CompressedBucket(**known), rows, dimensions)
    except (struct.error, msgspec.MsgspecError, KeyError, TypeError) as error:
        raise ValueError(f"invalid bucket: {error}") from None
    except IndexError:
        raise ValueError("invalid bucket: its columns have different lengths") from None


def _columns(data: bytes) -> _Columns:
    (size,) = _LENGTH.unpack_from(data)
    at = _LENGTH.size + size
    header = msgspec.msgpack.decode(data[_LENGTH.size : at], type=_Header)
    columns: _Columns = {}
    for name, kind, length in header:
        column = np.frombuffer(data, np.dtype(kind), length, at)
        at += column.nbytes
        columns[name] = column
    return columns


def _version_4(columns: _Columns) -> Bucket:
    """Return a bucket from a store of schema 4 or older."""
    rows = columns["rows"].astype(np.int64)
    total, _, least, most, last = columns["floats"].reshape(5, -1)
    last_time = columns["last_time"]
    if last_time.dtype != np.float64:
        last_time = last_time * UNIT + columns["since"]
    counts = columns["fact_counts"].astype(np.int64)
    counts[counts == 0] = columns["large"]
    keys = np.repeat(rows << ROW_SHIFT, columns["facts_per_row"])
    keys |= columns["kinds"][columns["facts"]]
    executions, attempts = (
        columns[name].astype(np.int64) for name in ("executions", "attempts")
    )
    return Bucket(
        rows, executions, attempts, total, least, most, last_time, last, keys, counts
    )
