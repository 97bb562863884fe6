"""Hooks within a function's own frame: it does as before, and they see each call."""

from __future__ import annotations

import asyncio
import dis
import inspect
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

import pytest
from tests.interpreters import VERSIONS, interpreter

from kaywatch import _inline
from kaywatch._inline import Calls, can_inline, inline, leave_of, pair

calls: list[tuple[Any, ...]] = []


def enter(owner: Any, argument: Any) -> Any:
    calls.append(("enter", owner, argument))
    return None if argument == "ignored" else "state"


def leave(state: Any, result: Any, error: BaseException | None) -> None:
    calls.append((state, result, type(error)))


class Owner:
    def plain(self, argument: Any) -> Any:
        return argument

    def nothing(self, argument: Any) -> None:
        pass

    def constant(self, argument: Any) -> Any:
        if argument:
            return 1
        return 2

    def loop(self, argument: Any) -> Any:
        for number in range(3):
            try:
                if number == 1:
                    continue
                with open("/dev/null") as file:
                    return file.read(), number
            finally:
                str(number)
        return None

    def captured(self, argument: Any) -> Any:
        values = [lambda: (type(self), argument)]
        return values[0]()

    def variables(self, argument: Any) -> Any:
        return sorted(locals())

    def keywords(self, argument: Any, *args: Any, more: int = 3, **kwargs: Any) -> Any:
        return args, more, kwargs

    def handles(self, argument: Any) -> Any:
        try:
            raise KeyError(argument)
        except KeyError as error:
            return repr(error)

    def fails(self, argument: Any) -> Any:
        try:
            return [int(x) for x in "ab"]
        except ValueError as error:
            raise LookupError(argument) from error

    async def awaits(self, argument: Any) -> Any:
        async with asyncio.Lock():
            await asyncio.sleep(0)
        return argument

    async def fails_later(self, argument: Any) -> Any:
        await asyncio.sleep(0)
        raise LookupError(argument)


def long() -> FunctionType:
    """Return a function whose jumps and constants need prefixes."""
    body = "".join(f"        total += argument * {n + 1000}\n" for n in range(600))
    lines = (
        "def long(self, argument):\n    total = 0\n"
        f"    for argument in range(3):\n        if argument == 1: continue\n{body}"
        "    return total\n"
    )
    space: dict[str, Any] = {}
    exec(compile(lines, "long.py", "exec"), space)
    function: FunctionType = space["long"]
    return function


FUNCTIONS = [f for f in vars(Owner).values() if isinstance(f, FunctionType)]


def outcome(function: Callable[..., Any], *arguments: Any) -> tuple[Any, ...]:
    """Return the result, or the error with its place."""
    try:
        result = function(*arguments)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
    except Exception as error:
        return repr(error), traceback.format_exception(error)[1:]
    finally:
        assert sys.exception() is None
    return (result,)


@pytest.mark.parametrize("argument", ["", "ignored"])
@pytest.mark.parametrize("function", [*FUNCTIONS, long()], ids=lambda f: f.__name__)
def test_a_function_does_as_before_and_each_call_is_seen(
    function: FunctionType, argument: str
) -> None:
    owner = Owner()
    expected = outcome(function, owner, argument)
    hooked = inline(function, 1, Calls(enter, leave))
    calls.clear()
    assert outcome(hooked, owner, argument)[:1] == expected[:1]
    entered, *left = calls
    assert entered == ("enter", owner, argument)
    if argument == "ignored":
        assert left == []
    elif len(expected) == 1:
        assert left == [("state", expected[0], type(None))]
    else:
        assert left == [("state", None, LookupError)]
        # The first frame is that of `outcome`, whose line has changed.
        assert outcome(hooked, owner, argument) == expected


def test_every_instruction_keeps_its_position() -> None:
    for function in [*FUNCTIONS, long()]:
        before = [i.positions for i in dis.get_instructions(function)]
        hooked = inline(function, 1, Calls(enter, leave))
        after = iter([i.positions for i in dis.get_instructions(hooked)])
        assert all(position in after for position in before), function


@pytest.mark.parametrize("function", [Owner.loop, Owner.fails, Owner.constant])
def test_a_tracer_sees_the_same(function: FunctionType) -> None:
    def traced(function: FunctionType) -> list[tuple[str, int | None]]:
        events: list[tuple[str, int | None]] = []

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            if frame.f_code.co_name == function.__name__:
                events.append((event, frame.f_lineno))
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            function(Owner(), 1)
        except LookupError:
            pass
        finally:
            sys.settrace(before)
        return events

    assert traced(inline(function, 1, Calls(enter, leave))) == traced(function)


def test_a_state_of_both_arguments_needs_no_call() -> None:
    calls.clear()
    assert inline(Owner.plain, 1, Calls(pair, leave))(1, 2) == 2
    assert calls == [((1, 2), 2, type(None))]


class Gate(set[str]):
    __hash__ = object.__hash__  # type: ignore[assignment]


@pytest.mark.parametrize("function", [*FUNCTIONS, long()], ids=lambda f: f.__name__)
def test_behind_a_closed_gate_only_errors_are_seen(function: FunctionType) -> None:
    owner, gate = Owner(), Gate()
    expected = outcome(function, owner, "x")
    hooked = inline(function, 1, Calls(enter, leave, gate))
    calls.clear()
    assert outcome(hooked, owner, "x")[:1] == expected[:1]
    if len(expected) == 1:
        assert calls == []
    else:
        # The state is the object that `enter` would have got.
        assert calls == [(owner, None, LookupError)]
        assert outcome(hooked, owner, "x") == expected

    gate.add("open")
    calls.clear()
    assert outcome(hooked, owner, "x")[:1] == expected[:1]
    assert calls[0] == ("enter", owner, "x")
    assert calls[1][0] == "state"


def test_a_gate_that_opens_during_a_call_lets_leave_through() -> None:
    gate = Gate()

    def opens(self: Any, argument: Any) -> Any:
        gate.add(argument)
        return argument

    calls.clear()
    owner = Owner()
    assert inline(opens, 1, Calls(enter, leave, gate))(owner, "x") == "x"
    assert calls == [(owner, "x", type(None))]


@pytest.mark.parametrize("function", [*FUNCTIONS, long()], ids=lambda f: f.__name__)
def test_leave_can_be_for_none_alone(function: FunctionType) -> None:
    owner = Owner()
    expected = outcome(function, owner, "x")
    hooked = inline(function, 1, Calls(pair, leave, only_none=True))
    calls.clear()
    assert outcome(hooked, owner, "x")[:1] == expected[:1]
    assert calls == ([((owner, "x"), None, type(None))] if expected == (None,) else [])
    assert outcome(hooked, owner, "x") == expected


def test_the_code_tells_which_hook_it_calls() -> None:
    hooked = inline(Owner.plain, 1, Calls(enter, leave, Gate()))
    assert leave_of(hooked.__code__) is leave
    assert leave_of(Owner.plain.__code__) is None
    assert hash(hooked.__code__) == hash(hooked.__code__)


def test_a_coroutine_that_is_closed_leaves() -> None:
    coroutine = inline(Owner.awaits, 1, Calls(enter, leave))(Owner(), 1)
    coroutine.send(None)
    calls.clear()
    coroutine.close()
    assert calls == [("state", None, GeneratorExit)]


def test_what_cannot_be_inlined() -> None:
    def generator(self: Any, argument: Any) -> Any:
        yield

    async def async_generator(self: Any, argument: Any) -> Any:
        yield

    def variadic(*args: Any) -> None: ...

    for function in (generator, async_generator, variadic):
        assert not can_inline(function, 1)


# Every function of modules with all kinds of code, in a process of its own.
PROGRAM = """
import importlib, sys, types
sys.path.insert(0, sys.argv[1])
from kaywatch import _inline as inlining
count = [0, 0]

class Gate(set):
    __hash__ = object.__hash__

kind = sys.argv[2]
gate = Gate(["open"] if kind == "open" else []) if kind in ("open", "closed") else None

def enter(first, second):
    count[0] += 1
    return first, second

def leave(*_):
    count[1] += 1

added = inlining.Calls(enter, leave, gate, kind == "none")

def extend(owner, home):
    for name, value in list(vars(owner).items()):
        if isinstance(value, types.FunctionType) and inlining.can_inline(value, 0):
            hooked = inlining.inline(value, 0, added)
            hooked.__dict__.update(vars(value))
            setattr(owner, name, hooked)
        elif isinstance(value, type) and value.__module__ == home:
            extend(value, home)

MODULES = "_pydecimal argparse ast asyncio.base_events asyncio.queues asyncio.tasks"
for name in MODULES.split():
    extend(importlib.import_module(name), name)

import _pydecimal, argparse, ast, asyncio
assert str(_pydecimal.Decimal(2).sqrt()) == "1.414213562373095048801688724"
assert len(ast.unparse(ast.parse(open(ast.__file__).read()))) > 10_000
parser = argparse.ArgumentParser()
parser.add_argument("--number", type=int)
assert parser.parse_args(["--number", "3"]).number == 3

async def main():
    queue = asyncio.Queue()
    task = asyncio.create_task(queue.put(1))
    assert await queue.get() == 1
    await task
    try:
        await asyncio.wait_for(queue.get(), 0.001)
    except TimeoutError:
        return await asyncio.gather(*[asyncio.sleep(0, i) for i in range(3)])

assert asyncio.run(main()) == [0, 1, 2]
entered, left = count
if kind == "closed":
    assert entered == 0 < left, count
elif kind == "none":
    assert entered > left > 1_000, count
else:
    assert entered == left > 10_000, count
"""


@pytest.mark.parametrize("kind", ["always", "open", "closed", "none"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_standard_library_does_as_before(version: str, kind: str) -> None:
    folder = Path(_inline.__file__).parents[1]
    command = [interpreter(version), "-X", "dev", "-c", PROGRAM, str(folder), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
