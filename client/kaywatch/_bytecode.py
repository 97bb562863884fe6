"""Reads and writes the instructions of a code object, with its tables.

Jumps, exception table and line numbers refer to instructions, and so move with them.
CPython's `InternalDocs/exception_handling.md` and `code_objects.md` describe their
formats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from opcode import hasjrel, opmap, opname
from operator import attrgetter
from types import CodeType
from typing import Final, NamedTuple

__all__ = ["NOWHERE", "Guard", "Instruction", "Position", "read", "write"]

_CACHE: Final = 0
_EXTENDED_ARG: Final = opmap["EXTENDED_ARG"]
_MAX_UNITS: Final = 8  # code units of one entry of the location table
_NO_LOCATION: Final = 15
_NO_COLUMNS: Final = 13
_LONG: Final = 14

Position = tuple[int | None, int | None, int | None, int | None]

NOWHERE: Final[Position] = (None, None, None, None)


@dataclass(eq=False)
class Instruction:
    """One instruction, with its place in the code.

    Attributes:
        opcode, arg: as in the code.
        caches: number of code units that follow it.
        position: lines and columns, as `co_positions` yields them.
        target: the instruction that it jumps to; None if it does not jump.
        guard: where an exception that it raises is handled; None if it is not.
        offset: in code units from the start.
    """

    opcode: int
    arg: int = 0
    caches: int = 0
    position: Position = NOWHERE
    target: Instruction | None = None
    guard: Guard | None = None
    offset: int = 0

    @property
    def size(self) -> int:
        """The number of code units, including prefixes and caches."""
        # Nearly all arguments are a byte, and this is called several times for each.
        if self.arg < 256:
            return 1 + self.caches
        return (self.arg.bit_length() + 7) // 8 + self.caches


class Guard(NamedTuple):
    """An entry of the exception table.

    Attributes:
        handler: the instruction at which execution continues.
        depth: how many items remain on the stack.
        lasti: 1 to push also the offset of the instruction that raised the exception.
    """

    handler: Instruction
    depth: int
    lasti: int


# -- reading ---------------------------------------------------------------------


def read(code: CodeType) -> list[Instruction]:
    """Return the instructions of a code object."""
    steps = list(_read_steps(code))
    by_offset = {step.offset: step for step in steps}
    ends = [*list(by_offset)[1:], len(code.co_code) // 2]
    for step, end in zip(steps, ends, strict=True):
        if step.opcode in hasjrel:
            is_backward = "BACKWARD" in opname[step.opcode]
            step.target = by_offset[end - step.arg if is_backward else end + step.arg]
    for start, end, handler, flags in _read_guards(code.co_exceptiontable):
        guard = Guard(by_offset[handler], flags >> 1, flags & 1)
        for offset in range(start, end):
            if offset in by_offset:
                by_offset[offset].guard = guard
    return steps


def _read_steps(code: CodeType) -> Iterator[Instruction]:
    """Yield the instructions, without targets and guards."""
    positions = list(code.co_positions())
    # Each `co_code` is a copy of all.
    units = code.co_code
    args = units[1::2]
    step, start, arg = Instruction(0), 0, 0
    for offset, opcode in enumerate(units[::2]):
        arg = arg << 8 | args[offset]
        if opcode == _CACHE:
            step.caches += 1
        elif opcode == _EXTENDED_ARG:
            continue
        else:
            step = Instruction(opcode, arg, 0, positions[offset], offset=start)
            yield step
        start, arg = offset + 1, 0


def _read_guards(table: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield start, end, handler and flags of the entries of an exception table."""
    values, value = [], 0
    for byte in table:
        value = value << 6 | byte & 0x3F
        if not byte & 0x40:
            values.append(value)
            value = 0
    for start, length, handler, flags in zip(*[iter(values)] * 4, strict=True):
        yield start, start + length, handler, flags


# -- writing ---------------------------------------------------------------------


def write(
    code: CodeType, steps: list[Instruction], consts: tuple[object, ...], stack: int
) -> CodeType:
    """Return a copy of a code object with other instructions.

    Args:
        code: the original.
        steps: all instructions.
        consts: all constants.
        stack: the size of the stack.
    """
    _place(steps)
    return code.replace(
        co_code=_write_units(steps),
        co_consts=consts,
        co_stacksize=stack,
        co_linetable=_write_positions(steps, code.co_firstlineno),
        co_exceptiontable=_write_guards(steps),
    )


def _place(steps: list[Instruction]) -> None:
    """Set all offsets and jumps. Long jumps need prefixes, which move the offsets."""
    is_moved = True
    while is_moved:
        is_moved, offset = False, 0
        for step in steps:
            is_moved = is_moved or step.offset != offset
            step.offset = offset
            offset += step.size
        for step in steps:
            if step.target is not None:
                arg = abs(step.target.offset - step.offset - step.size)
                is_moved = is_moved or arg != step.arg
                step.arg = arg


def _write_units(steps: list[Instruction]) -> bytes:
    """Return the code units, with prefixes and caches."""
    units = bytearray()
    for step in steps:
        arg = step.arg
        if arg > 255:
            *prefixes, arg = arg.to_bytes(step.size - step.caches, "big")
            for prefix in prefixes:
                units += bytes((_EXTENDED_ARG, prefix))
        units.append(step.opcode)
        units.append(arg)
        if step.caches:
            units += bytes(2 * step.caches)
    return bytes(units)


def _write_guards(steps: list[Instruction]) -> bytes:
    """Return the exception table."""
    table = bytearray()
    for guard, group in groupby(steps, attrgetter("guard")):
        if guard is None:
            continue
        first, *others = group
        last = others[-1] if others else first
        length = last.offset + last.size - first.offset
        start = len(table)
        for value in (first.offset, length, guard.handler.offset):
            table += _big_endian(value)
        table += _big_endian(guard.depth << 1 | guard.lasti)
        table[start] |= 0x80
    return bytes(table)


def _big_endian(value: int) -> bytes:
    groups = bytearray([value & 0x3F])
    while value := value >> 6:
        groups.append(value & 0x3F | 0x40)
    return bytes(reversed(groups))


def _write_positions(steps: list[Instruction], line: int) -> bytes:
    """Return the location table of code whose first line is `line`."""
    table, end = bytearray(), 0
    for position, group in groupby(steps, attrgetter("position")):
        *_, last = group
        start, end = end, last.offset + last.size
        units = end - start
        while units:
            count = min(units, _MAX_UNITS)
            units -= count
            kind, fields = _location(position, line)
            table.append(0x80 | kind << 3 | count - 1)
            table += fields
            line = line if position[0] is None else position[0]
    return bytes(table)


def _location(position: Position, line: int) -> tuple[int, bytes]:
    """Return the kind of an entry of the location table, and its fields."""
    first, last, column, end = position
    if first is None:
        return _NO_LOCATION, b""
    delta = first - line
    fields = _little_endian(abs(delta) << 1 | (delta < 0))
    if last is None or column is None or end is None:
        return _NO_COLUMNS, fields
    for value in (last - first, column + 1, end + 1):
        fields += _little_endian(value)
    return _LONG, fields


def _little_endian(value: int) -> bytes:
    if value < 0x40:
        return bytes((value,))
    groups = bytearray()
    while value > 0x3F:
        groups.append(value & 0x3F | 0x40)
        value >>= 6
    groups.append(value)
    return bytes(groups)
