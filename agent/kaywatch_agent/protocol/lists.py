"""A section that is a list becomes its items, each of them still encoded.

The length is read off the head, before there is an object for each item: four
million nils fit into a frame, and would take 200 MB as objects.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from kaywatch.wire import ErrorCode
from kaywatch_agent.protocol.columns import Checked

__all__ = ["items"]

# Heads of msgpack's array 16 and array 32; a fixarray has its length in its byte.
_WIDE: Final = {0xDC: struct.Struct(">H"), 0xDD: struct.Struct(">I")}

_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])


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
