"""Split a byte stream into length-prefixed frames; skip oversized ones."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from kaywatch.wire import MAX_FRAME
from kaywatch_agent.protocol.limits import MAX_SKIP

__all__ = ["FrameReader", "OutOfStep", "Oversized"]

_LENGTH: Final = struct.Struct(">I")


class Oversized(NamedTuple):
    """A frame larger than the limit, which is skipped."""

    size: int


class OutOfStep(NamedTuple):
    """Bytes that are not a frame; everything after them is unreadable."""

    size: int


class FrameReader:
    """Buffers an incomplete frame between calls of `receive`."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._skip = 0
        self._out_of_step = False

    @property
    def buffered(self) -> int:
        """The number of bytes of an incomplete frame."""
        return len(self._buffer)

    @property
    def missing(self) -> int:
        """The number of bytes that complete the current frame; 0 if unknown."""
        if len(self._buffer) < _LENGTH.size:
            return self._skip
        (size,) = _LENGTH.unpack_from(self._buffer)
        return max(0, int(size) + _LENGTH.size - len(self._buffer))

    def receive(self, data: bytes | memoryview) -> list[bytes | Oversized | OutOfStep]:
        """Return the frames that `data` completes, in order.

        After an `OutOfStep` the caller closes the connection; all later bytes are
        ignored.
        """
        if self._out_of_step:
            return []
        view = memoryview(data)
        skipped = min(self._skip, len(view))
        self._skip -= skipped
        frames: list[bytes | Oversized | OutOfStep] = []
        if self._buffer:
            self._buffer += view[skipped:]
            with memoryview(self._buffer) as buffered:
                used = self._cut(buffered, frames)
            del self._buffer[:used]
        else:  # complete frames need not be buffered
            used = skipped + self._cut(view[skipped:], frames)
            self._buffer += view[used:]
        return frames

    def _cut(
        self, view: memoryview, frames: list[bytes | Oversized | OutOfStep]
    ) -> int:
        """Append the complete frames; return how many bytes were consumed."""
        at, end = 0, len(view)
        while end - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(view, at)
            body = at + _LENGTH.size
            if size > MAX_SKIP:
                self._out_of_step = True
                frames.append(OutOfStep(size))
                return end
            if size > self._limit:
                present = min(end - body, size)
                self._skip = size - present
                frames.append(Oversized(size))
                at = body + present
            elif end < body + size:
                break
            else:
                frames.append(bytes(view[body : body + size]))
                at = body + size
        return at
