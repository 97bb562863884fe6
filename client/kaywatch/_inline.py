"""Adds calls to a function's own code, so that the stack has no additional frame.

A wrapper's frame makes tracebacks longer, which changes the fingerprints of error
trackers. A warning whose `stacklevel` means the caller would point to the wrapper, and
nested graphs would reach the recursion limit at half of their depth.

Strategy: the code becomes what the compiler would generate for

    state = enter(self, argument)
    try:
        ...  # the original, with `leave(state, result, None)` before each return
    except BaseException as error:
        leave(state, None, error)
        raise

where `leave` is not called if the state is None. The state is at the bottom of the
frame's stack rather than in a variable, which `locals()` would show. Jumps, exception
table and line numbers are moved with the instructions. CPython's
`InternalDocs/exception_handling.md` and `code_objects.md` describe their formats.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from opcode import hasjrel, opmap, opname
from types import CodeType, FunctionType
from typing import Any, Final, NamedTuple

__all__ = ["can_inline", "inline", "pair"]

# Other versions have other instructions.
_IS_KNOWN: Final = sys.implementation.name == "cpython" and (
    (3, 11) <= sys.version_info < (3, 14)
)
_GENERATORS: Final = (
    inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE
)
_CACHE: Final = 0
_STACK: Final = 8  # the most that the added instructions put on the stack

# Caches are empty code units that follow an instruction.
_CALL_CACHES: Final = 4 if sys.version_info < (3, 12) else 3
_JUMP_CACHES: Final = 0 if sys.version_info < (3, 13) else 1
_JUMP_IF_NONE: Final = opmap.get("POP_JUMP_IF_NONE") or opmap.get(
    "POP_JUMP_FORWARD_IF_NONE", 0
)
_AT_DEPTH_1: Final = 4  # a flag of RESUME in Python 3.13
_MAX_UNITS: Final = 8  # code units of one entry of the location table
_NO_LOCATION: Final = 15
_NO_COLUMNS: Final = 13
_LONG: Final = 14

Position = tuple[int | None, int | None, int | None, int | None]

_NOWHERE: Final[Position] = (None, None, None, None)


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
    position: Position = _NOWHERE
    target: Instruction | None = None
    guard: Guard | None = None
    offset: int = 0

    @property
    def size(self) -> int:
        """The number of its code units, including prefixes and caches."""
        return max(1, (self.arg.bit_length() + 7) // 8) + self.caches

    def encode(self) -> bytes:
        """Return its code units."""
        first, *others = reversed(self.arg.to_bytes(self.size - self.caches, "big"))
        prefixes = [(opmap["EXTENDED_ARG"], byte) for byte in reversed(others)]
        units = [*prefixes, (self.opcode, first), *[(0, 0)] * self.caches]
        return bytes(byte for unit in units for byte in unit)


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


def pair(first: object, second: object) -> tuple[object, object]:
    """Return both arguments. As `enter`, it is not called: `inline` builds the pair."""
    return first, second


def can_inline(function: FunctionType, argument: int) -> bool:
    """Return whether `inline` can extend a function.

    Args:
        function: a plain function or a coroutine function.
        argument: the index of the parameter that `enter` receives.
    """
    code = function.__code__
    return _IS_KNOWN and code.co_argcount > argument and not code.co_flags & _GENERATORS


def inline(
    function: FunctionType,
    argument: int,
    enter: Callable[..., Any],
    leave: Callable[..., Any],
) -> FunctionType:
    """Return a copy of a function that calls `enter` and `leave`.

    Args:
        function: one that `can_inline` accepts.
        argument: the index of the parameter that `enter` receives.
        enter: called as `enter(self, argument)` at the start; returns the state.
        leave: called as `leave(state, result, error)` at the end.
    """
    code = function.__code__
    additions = _Additions(code, argument, enter, leave)
    body = _read(code)
    handler = additions.handler()
    resume = next(i for i, step in enumerate(body) if step.opcode == opmap["RESUME"])
    steps = [*body[: resume + 1], *additions.prologue()]
    for step in body[resume + 1 :]:
        guard = step.guard or Guard(handler[0], 0, 1)
        step.guard = guard._replace(depth=guard.depth + 1)
        steps += additions.replace(step)
    steps += handler
    copy = FunctionType(
        additions.finish(steps),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


class _Additions:
    """The instructions that are added to one code object."""

    def __init__(
        self,
        code: CodeType,
        argument: int,
        enter: Callable[..., Any],
        leave: Callable[..., Any],
    ) -> None:
        self._code = code
        self._argument = argument
        self._enter = enter
        self._consts = [*code.co_consts, enter, leave, None]
        self._first_const = len(code.co_consts)

    def prologue(self) -> list[Instruction]:
        """Return the instructions that push the state, without lines for tracers."""
        arguments = [self._parameter(0), self._parameter(self._argument)]
        if self._enter is pair:
            steps = [*arguments, Instruction(opmap["BUILD_TUPLE"], 2)]
        else:
            steps = _call(self._const(0), arguments)
        return steps

    def replace(self, step: Instruction) -> list[Instruction]:
        """Return the instructions that replace an instruction of the original."""
        name = opname[step.opcode]
        if name == "YIELD_VALUE" and sys.version_info[:2] == (3, 12):
            step.arg += 1  # the number of enclosing handlers
        elif name == "RESUME":
            step.arg &= ~_AT_DEPTH_1
        elif name == "RETURN_CONST":
            step.opcode = opmap["LOAD_CONST"]
            return [step, *self._leave(step.position, is_error=False)]
        elif name == "RETURN_VALUE":
            # A jump to the return must call `leave` first, so its target remains.
            step.opcode = opmap["NOP"]
            return [step, *self._leave(step.position, is_error=False)]
        return [step]

    def handler(self) -> list[Instruction]:
        """Return the instructions that handle an exception."""
        return self._leave(_NOWHERE, is_error=True)

    def finish(self, steps: list[Instruction]) -> CodeType:
        """Return the code object that consists of these instructions."""
        _place(steps)
        return self._code.replace(
            co_code=b"".join(step.encode() for step in steps),
            co_consts=tuple(self._consts),
            co_stacksize=self._code.co_stacksize + _STACK,
            co_linetable=_write_positions(steps, self._code.co_firstlineno),
            co_exceptiontable=_write_guards(steps),
        )

    def _leave(self, position: Position, *, is_error: bool) -> list[Instruction]:
        """Return the call of `leave`; the result or error is on top of the stack."""
        copy, none = opmap["COPY"], self._const(2)
        if is_error:
            # Below the error is the offset of the instruction that raised it,
            # for `f_lineno`.
            last = [Instruction(opmap["RERAISE"], 1)]
            arguments = [Instruction(copy, 5), none, Instruction(copy, 5)]
        else:
            drop = Instruction(opmap["SWAP"], 2), Instruction(opmap["POP_TOP"])
            last = [*drop, Instruction(opmap["RETURN_VALUE"])]
            arguments = [Instruction(copy, 4), Instruction(copy, 4), none]
        skip = Instruction(_JUMP_IF_NONE, caches=_JUMP_CACHES, target=last[0])
        call = _call(self._const(1), arguments)
        state = Instruction(copy, 3 if is_error else 2)
        steps = [state, skip, *call, Instruction(opmap["POP_TOP"])]
        for step in [*steps, *last]:
            step.position = position
        return [*steps, *last]

    def _const(self, number: int) -> Instruction:
        return Instruction(opmap["LOAD_CONST"], self._first_const + number)

    def _parameter(self, number: int) -> Instruction:
        is_cell = self._code.co_varnames[number] in self._code.co_cellvars
        return Instruction(opmap["LOAD_DEREF" if is_cell else "LOAD_FAST"], number)


def _call(function: Instruction, arguments: list[Instruction]) -> list[Instruction]:
    null, count = Instruction(opmap["PUSH_NULL"]), len(arguments)
    start = [null, function] if sys.version_info < (3, 13) else [function, null]
    call = [Instruction(opmap["CALL"], count, _CALL_CACHES)]
    if sys.version_info < (3, 12):
        call.insert(0, Instruction(opmap["PRECALL"], count, 1))
    return [*start, *arguments, *call]


# -- reading ---------------------------------------------------------------------


def _read(code: CodeType) -> list[Instruction]:
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
    step, start, arg = Instruction(0), 0, 0
    for offset, opcode in enumerate(code.co_code[::2]):
        arg = arg << 8 | code.co_code[2 * offset + 1]
        if opcode == _CACHE:
            step.caches += 1
        elif opcode == opmap["EXTENDED_ARG"]:
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


def _write_guards(steps: list[Instruction]) -> bytes:
    """Return the exception table."""
    table = bytearray()
    for guard, group in groupby(steps, lambda step: step.guard):
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
    table = bytearray()
    for position, group in groupby(steps, lambda step: step.position):
        units = sum(step.size for step in group)
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
    groups = bytearray()
    while value > 0x3F:
        groups.append(value & 0x3F | 0x40)
        value >>= 6
    groups.append(value)
    return bytes(groups)
