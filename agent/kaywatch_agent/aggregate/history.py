"""An hour of buckets: the open ones as they are, the closed ones compressed.

A closed bucket is rarely read and kept for an hour, so it is compressed. If all of them
take more than a number of bytes, the oldest are dropped from memory, and read from the
store when they are needed. Nothing else changes, because the store has them anyway.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import is_
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate.bucket import (
    ALL_DIMENSIONS,
    EMPTY,
    Bucket,
    Dimension,
    merge,
    select,
)
from kaywatch_agent.aggregate.compression import CompressedBucket, compress, decompress

__all__ = ["ClosedBucket", "History", "StoredBucket"]

# A multiple of ten seconds: six blocks make up most of an hour.
BLOCK_BUCKETS: Final = 60

# The objects of a compressed bucket, and the rest of its last page.
OVERHEAD_BYTES: Final = 6_000


class ClosedBucket(NamedTuple):
    """A bucket in memory that only a late event changes.

    Attributes:
        packed: its content.
        size: the bytes that it takes.
        changed: the number of the bucket of then, when it last changed.
        version: identifies the content. Readers that remember what they computed keep
            it, and not the content.
    """

    packed: CompressedBucket
    size: int
    changed: int
    version: object

    @classmethod
    def of(
        cls, bucket: Bucket, like: CompressedBucket | None = None, changed: int = 0
    ) -> ClosedBucket:
        """Return a closed bucket; equal rows are shared with `like`."""
        packed = compress(bucket, like)
        is_shared = like is not None and packed.rows is like.rows
        size = _size(packed) - (packed.rows.nbytes if is_shared else 0)
        return cls(packed, size, changed, object())


class ReadBucket(Protocol):
    """Reads a bucket from the store, or a part of it."""

    def __call__(
        self,
        number: int,
        rows: NDArray[np.int64] | None = None,
        dimensions: Collection[Dimension] = ALL_DIMENSIONS,
        /,
    ) -> Bucket:
        """Return the bucket; the arguments are those of `decompress`."""


class StoredBucket:
    """A bucket that only the store has."""

    def __init__(self, version: object = None) -> None:
        """Stand for a bucket; `version` is that of the same content in memory."""
        self.version = version or object()


_AnyBucket = Bucket | ClosedBucket | StoredBucket


class _Block(NamedTuple):
    """Consecutive buckets, merged."""

    versions: list[object]
    merged: CompressedBucket
    size: int

    def is_of(self, versions: Sequence[object]) -> bool:
        """Return whether it has this content: a late event changes a bucket."""
        return len(versions) == len(self.versions) and all(
            map(is_, versions, self.versions)
        )


class History(Mapping[int, Bucket]):
    """Buckets by number, decompressed when read. Immutable, except for a cache."""

    def __init__(
        self,
        buckets: Mapping[int, _AnyBucket],
        read: ReadBucket = lambda *_: EMPTY,
    ) -> None:
        """Prepare a history.

        Args:
            buckets: by number.
            read: returns a bucket from the store.
        """
        self._buckets = buckets
        self._read = read
        # Shared by a history and those that follow it, and filled by readers in any
        # thread; a block takes the memory of five buckets.
        self._blocks: dict[int, _Block] = {}
        self._missing: set[int] = set()

    def __getitem__(self, number: int) -> Bucket:
        return self.part(number)

    def part(
        self,
        number: int,
        rows: NDArray[np.int64] | None = None,
        dimensions: Collection[Dimension] = ALL_DIMENSIONS,
    ) -> Bucket:
        """Return a part of a bucket; the arguments are those of `decompress`.

        Facts that are not wanted may be in it.
        """
        bucket = self._buckets[number]
        if isinstance(bucket, ClosedBucket):
            return decompress(bucket.packed, rows, dimensions)
        if isinstance(bucket, StoredBucket):
            return self._read(number, rows, dimensions)
        return bucket if rows is None else select(bucket, rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self._buckets)

    def __len__(self) -> int:
        return len(self._buckets)

    def __contains__(self, number: object) -> bool:
        return number in self._buckets

    @property
    def bytes(self) -> int:
        """The bytes that closed buckets take, and the blocks that readers merged."""
        closed = [b.size for b in self._buckets.values() if isinstance(b, ClosedBucket)]
        return sum(closed) + sum(block.size for block in self._blocks.copy().values())

    @property
    def stored_count(self) -> int:
        """How many buckets only the store has."""
        return sum(isinstance(b, StoredBucket) for b in self._buckets.values())

    def merged(
        self,
        numbers: Iterable[int],
        rows: NDArray[np.int64] | None = None,
        dimensions: Collection[Dimension] = ALL_DIMENSIONS,
    ) -> Iterator[Bucket]:
        """Yield few buckets with the events of many.

        Args:
            numbers: those of the buckets, sorted.
            rows: the only rows wanted, sorted; None for all. A call for some rows
                leaves blocks to `merge_missing`, which takes longer than to read them.
            dimensions: those of the facts wanted; others may be yielded as well.
        """
        if rows is not None and not len(rows):
            return
        for number, members in groupby(numbers, lambda each: each // BLOCK_BUCKETS):
            group = list(members)
            if len(group) == BLOCK_BUCKETS and all(map(self.is_closed, group)):
                block = self._block(number)
                if block is None and rows is None:
                    block = self._merge_block(number)
                if block is not None:
                    yield decompress(block.merged, rows, dimensions)
                    continue
                self._missing.add(number)
            yield from (self.part(each, rows, dimensions) for each in group)

    @property
    def is_block_missing(self) -> bool:
        """Whether a reader would have been faster with a block that is not merged."""
        return bool(self._missing)

    def merge_missing(self) -> None:
        """Merge one block that a reader missed; in a thread, as it may take 0.3 s."""
        while self._missing:
            number = self._missing.pop()
            first = number * BLOCK_BUCKETS
            members = range(first, first + BLOCK_BUCKETS)
            if not all(each in self and self.is_closed(each) for each in members):
                continue  # too old by now, or changed by a late event
            if self._block(number) is None:
                self._merge_block(number)
                return

    def stored(self, number: int) -> object:
        """Return an object that is another one once the bucket has changed."""
        bucket = self._buckets[number]
        return bucket if isinstance(bucket, Bucket) else bucket.version

    def is_closed(self, number: int) -> bool:
        """Return whether a bucket changes only through late events."""
        return not isinstance(self._buckets[number], Bucket)

    def use(self, read: ReadBucket) -> History:
        """Return the history with another way to read from the store."""
        return self._with(self._buckets, read)

    def advance(self, fresh: Mapping[int, Bucket], current: int, kept: int) -> History:
        """Return the history after a tick.

        Args:
            fresh: the buckets that have changed.
            current: the number of the bucket of now.
            kept: how many buckets before it to keep.
        """
        buckets = {
            n: s for n, s in {**self._buckets, **fresh}.items() if n >= current - kept
        }
        closed = (s for s in self._buckets.values() if isinstance(s, ClosedBucket))
        like = next((each.packed for each in closed), None)
        for number, bucket in buckets.items():
            # The previous bucket is still open: events arrive about a second late.
            if number < current - 1 and isinstance(bucket, Bucket):
                buckets[number] = each = ClosedBucket.of(bucket, like, current)
                like = each.packed
        oldest = (current - kept) // BLOCK_BUCKETS
        for old in [block for block in self._blocks.copy() if block < oldest]:
            self._blocks.pop(old, None)
        return self._with(buckets, self._read)

    def shrink(self, limit: int, committed: int) -> History:
        """Return the history with at most `limit` bytes, without the oldest buckets.

        Those are left in memory that the store may not have completely.

        Args:
            limit: the bytes.
            committed: the number of the current bucket at the last commit. It moved
                all closed buckets with their changes of earlier ten seconds to where
                they are read.
        """
        excess = self.bytes - limit
        if excess <= 0:
            return self
        buckets = dict(self._buckets)
        for number in sorted(buckets):
            bucket = buckets[number]
            if excess <= 0 or number >= committed - 1:
                break
            if isinstance(bucket, ClosedBucket) and bucket.changed < committed:
                buckets[number] = StoredBucket(bucket.version)
                excess -= bucket.size
        self._drop_blocks(excess)
        return self._with(buckets, self._read)

    # -- inside ------------------------------------------------------------------------

    def _with(self, buckets: Mapping[int, _AnyBucket], read: ReadBucket) -> History:
        history = History(buckets, read)
        history._blocks, history._missing = self._blocks, self._missing
        return history

    def _drop_blocks(self, excess: int) -> None:
        """Drop the oldest blocks; they are merged again when read."""
        for number, block in sorted(self._blocks.copy().items()):
            if excess <= 0:
                break
            excess -= block.size
            self._blocks.pop(number, None)

    def _versions(self, number: int) -> list[object]:
        """Return the versions of the buckets in a block."""
        first = number * BLOCK_BUCKETS
        return [self.stored(each) for each in range(first, first + BLOCK_BUCKETS)]

    def _block(self, number: int) -> _Block | None:
        """Return a block that was merged before, if it has the content of now."""
        block = self._blocks.get(number)
        return block if block and block.is_of(self._versions(number)) else None

    def _merge_block(self, number: int) -> _Block:
        versions, first = self._versions(number), number * BLOCK_BUCKETS
        merged = merge(map(self.part, range(first, first + BLOCK_BUCKETS)))
        packed = compress(merged)
        self._blocks[number] = block = _Block(versions, packed, _size(packed))
        return block


def _size(packed: CompressedBucket) -> int:
    return OVERHEAD_BYTES + sum(column.nbytes for column in packed)
