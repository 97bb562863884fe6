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

where `leave` is not called if the state is None. A test before a call takes 5 ns, and a
call at least 50, so `Calls` has conditions for both. The state is at the bottom of the
frame's stack rather than in a variable, which `locals()` would show.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Hashable
from opcode import opmap, opname
from types import CodeType, FunctionType
from typing import Any, Final, NamedTuple

from kaywatch._bytecode import NOWHERE, Guard, Instruction, Position, read, write

__all__ = ["Calls", "can_inline", "inline", "leave_of", "pair"]

# Other versions have other instructions.
_IS_KNOWN: Final = sys.implementation.name == "cpython" and (
    (3, 11) <= sys.version_info < (3, 14)
)
_GENERATORS: Final = (
    inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE
)
_STACK: Final = 8  # the most that the added instructions put on the stack

# Caches are empty code units that follow an instruction.
_CALL_CACHES: Final = 4 if sys.version_info < (3, 12) else 3
_JUMP_CACHES: Final = 0 if sys.version_info < (3, 13) else 1
_TO_BOOL_CACHES: Final = 3
_AT_DEPTH_1: Final = 4  # a flag of RESUME in Python 3.13

# The constants that are added, in this order, and a mark at the end.
_ENTER, _LEAVE, _GATE, _NONE = range(4)
_MARK: Final = object()


class Calls(NamedTuple):
    """The calls that `inline` adds to a function.

    Attributes:
        enter: called as `enter(self, argument)` at the start; returns the state.
        leave: called as `leave(state, result, error)` at the end.
        gate: while this container is empty, `enter` is not called, the state is `self`,
            and `leave` is called only for errors. Hashable, as all constants of code.
        only_none: call `leave` only if the function returns None, and for no error.
    """

    enter: Callable[..., Any]
    leave: Callable[..., Any]
    gate: Hashable = None
    only_none: bool = False


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


def leave_of(code: CodeType) -> object:
    """Return the `leave` of a function that `inline` made, None for other functions."""
    consts = code.co_consts
    return consts[-4] if consts and consts[-1] is _MARK else None


def inline(function: FunctionType, argument: int, calls: Calls) -> FunctionType:
    """Return a copy of a function with additional calls.

    Args:
        function: one that `can_inline` accepts.
        argument: the index of the parameter that `enter` receives.
        calls: what to call.
    """
    code = function.__code__
    additions = _Additions(code, argument, calls)
    body = read(code)
    handler = additions.handler()
    resume = next(i for i, step in enumerate(body) if step.opcode == opmap["RESUME"])
    steps = [*body[: resume + 1], *additions.prologue(body[resume + 1])]
    for step in body[resume + 1 :]:
        if step.guard is not None:
            step.guard = step.guard._replace(depth=step.guard.depth + 1)
        elif handler:
            step.guard = Guard(handler[0], 1, 1)
        steps += additions.replace(step)
    steps += handler
    copy = FunctionType(
        additions.write(steps),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


class _Additions:
    """The instructions that are added to one code object."""

    def __init__(self, code: CodeType, argument: int, calls: Calls) -> None:
        self._code = code
        self._argument = argument
        self._calls = calls
        added = calls.enter, calls.leave, calls.gate, None, _MARK
        self._consts = [*code.co_consts, *added]
        self._first_const = len(code.co_consts)

    def prologue(self, body: Instruction) -> list[Instruction]:
        """Return the instructions that push the state, without lines for tracers.

        Args:
            body: the instruction that follows them.
        """
        arguments = [self._parameter(0), self._parameter(self._argument)]
        if self._calls.enter is pair:
            return [*arguments, Instruction(opmap["BUILD_TUPLE"], 2)]
        call = _call(self._const(_ENTER), arguments)
        if self._calls.gate is None:
            return call
        drop = Instruction(opmap["POP_TOP"])
        return [self._parameter(0), *self._skip_if_empty(body), drop, *call]

    def replace(self, step: Instruction) -> list[Instruction]:
        """Return the instructions that replace an instruction of the original."""
        name, has_handler = opname[step.opcode], not self._calls.only_none
        if has_handler and name == "YIELD_VALUE" and sys.version_info[:2] == (3, 12):
            step.arg += 1  # the number of enclosing handlers
        elif has_handler and name == "RESUME":
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
        """Return the instructions that handle an exception; none if it is ignored."""
        return [] if self._calls.only_none else self._leave(NOWHERE, is_error=True)

    def write(self, steps: list[Instruction]) -> CodeType:
        """Return the code object that consists of these instructions."""
        stack = self._code.co_stacksize + _STACK
        return write(self._code, steps, tuple(self._consts), stack)

    def _leave(self, position: Position, *, is_error: bool) -> list[Instruction]:
        """Return the call of `leave`; the result or error is on top of the stack."""
        copy, none = opmap["COPY"], self._const(_NONE)
        if is_error:
            # Below the error is the offset of the instruction that raised it,
            # for `f_lineno`.
            last = [Instruction(opmap["RERAISE"], 1)]
            arguments = [Instruction(copy, 5), none, Instruction(copy, 5)]
        else:
            drop = Instruction(opmap["SWAP"], 2), Instruction(opmap["POP_TOP"])
            last = [*drop, Instruction(opmap["RETURN_VALUE"])]
            arguments = [Instruction(copy, 4), Instruction(copy, 4), none]
        state = Instruction(copy, 3 if is_error else 2)
        steps = [
            *([] if is_error else self._conditions(last[0])),
            *[state, _jump("NONE", last[0])],
            *_call(self._const(_LEAVE), arguments),
            Instruction(opmap["POP_TOP"]),
            *last,
        ]
        for step in steps:
            step.position = position
        return steps

    def _conditions(self, end: Instruction) -> list[Instruction]:
        """Return the jumps to `end` if a result does not need `leave`."""
        steps = []
        if self._calls.only_none:
            steps += [Instruction(opmap["COPY"], 1), _jump("NOT_NONE", end)]
        if self._calls.gate is not None:
            steps += self._skip_if_empty(end)
        return steps

    def _skip_if_empty(self, end: Instruction) -> list[Instruction]:
        """Return a jump to `end` if the gate is empty."""
        steps = [self._const(_GATE), _jump("FALSE", end)]
        if "TO_BOOL" in opmap:
            steps.insert(1, Instruction(opmap["TO_BOOL"], caches=_TO_BOOL_CACHES))
        return steps

    def _const(self, number: int) -> Instruction:
        return Instruction(opmap["LOAD_CONST"], self._first_const + number)

    def _parameter(self, number: int) -> Instruction:
        is_cell = self._code.co_varnames[number] in self._code.co_cellvars
        return Instruction(opmap["LOAD_DEREF" if is_cell else "LOAD_FAST"], number)


def _jump(condition: str, target: Instruction) -> Instruction:
    """Return a jump forward if the value on top of the stack is that; it drops it."""
    name = f"POP_JUMP_IF_{condition}"
    opcode = opmap.get(name) or opmap[f"POP_JUMP_FORWARD_IF_{condition}"]
    return Instruction(opcode, caches=_JUMP_CACHES, target=target)


def _call(function: Instruction, arguments: list[Instruction]) -> list[Instruction]:
    null, count = Instruction(opmap["PUSH_NULL"]), len(arguments)
    start = [null, function] if sys.version_info < (3, 13) else [function, null]
    call = [Instruction(opmap["CALL"], count, _CALL_CACHES)]
    if sys.version_info < (3, 12):
        call.insert(0, Instruction(opmap["PRECALL"], count, 1))
    return [*start, *arguments, *call]
