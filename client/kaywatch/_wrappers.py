"""Wraps functions of frameworks and SDKs, whatever parameters they have.

A wrapper takes the same arguments, returns the same result, and looks like the
original. `Hooks` define what happens before and after it; plain functions and coroutine
functions share them. Our own errors are logged once and not raised.

Strategy: wherever that is possible, a wrapper is the original with calls of the hooks
in its own frame (`kaywatch._inline`), so that tracebacks, the `stacklevel` of warnings
and the depth of the stack stay as they are. Others are a function around the original.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import weakref
from collections.abc import Callable, Hashable
from types import CoroutineType, FunctionType
from typing import Any, Final, Generic, NamedTuple, TypeVar

from kaywatch._inline import Calls, can_inline, inline

__all__ = [
    "Function",
    "Hooks",
    "first_argument",
    "is_wrapper",
    "seal",
    "second_argument",
    "warn_once",
]

S = TypeVar("S")
Function = Callable[..., Any]

MAX_WARNINGS: Final = 100

log = logging.getLogger("kaywatch")

# Wrappers are recognized by this set and not by an attribute, because the application
# may wrap a wrapper, and `functools.wraps` copies attributes.
_wrappers: Final[weakref.WeakSet[FunctionType]] = weakref.WeakSet()
_warned: Final[set[str]] = set()


def warn_once(subject: str, problem: str = "cannot be recorded") -> None:
    """Log the current exception of kaywatch itself, once for each subject."""
    if subject not in _warned and len(_warned) < MAX_WARNINGS:
        _warned.add(subject)
        log.warning("%s %s", subject, problem, exc_info=sys.exception())


def seal(wrapper: Any, original: Function) -> Function:
    """Make `wrapper` look like `original`, and recognizable as ours."""
    functools.update_wrapper(wrapper, original)
    _wrappers.add(wrapper)
    sealed: Function = wrapper
    return sealed


def is_wrapper(value: object) -> bool:
    """Return whether `value` is a function that `seal` returned."""
    return isinstance(value, FunctionType) and value in _wrappers


def first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the first argument, None without one."""
    return args[0] if args else next(iter(kwargs.values()), None)


def second_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the second argument, None without one."""
    return args[1] if len(args) > 1 else next(reversed(kwargs.values()), None)


# The index of the parameter that each `pick` returns.
_PARAMETERS: Final[dict[object, int]] = {first_argument: 1, second_argument: 2}


def _ignore(state: object, result: object, error: BaseException | None) -> None:
    """Do nothing after the call."""


class Hooks(NamedTuple, Generic[S]):
    """The functions that a wrapper calls before and after the wrapped call.

    Attributes:
        enter: receives the object and one argument of the call. Returns a state for
            `leave`, or None if the call is not to be observed.
        leave: receives that state, the result, and the exception that left the call,
            if any. Neither hook may raise an Exception.
        pick: returns the argument for `enter` from the arguments of the call.
        gate: while this container is empty, a wrapper may skip `enter`, and `leave`
            unless there is an error. The state is then the object.
        only_none: a wrapper may call `leave` only if the call returns None.
    """

    enter: Callable[[Any, Any], S | None]
    leave: Callable[[S, Any, BaseException | None], None] = _ignore
    pick: Callable[[tuple[Any, ...], dict[str, Any]], Any] = first_argument
    gate: Hashable = None
    only_none: bool = False

    def wrap(self, function: FunctionType, *, awaited: bool = False) -> Function:
        """Return the wrapper of a plain function or a coroutine function.

        Args:
            function: the original.
            awaited: whether the caller awaits the result. A plain function then
                returns a coroutine, its own or another function's.
        """
        waits = inspect.iscoroutinefunction(function)
        if awaited and not waits:
            return seal(self._wrap_deferred(function), function)
        parameter = _PARAMETERS.get(self.pick)
        if parameter is not None and can_inline(function, parameter):
            calls = Calls(self.enter, self.leave, self.gate, self.only_none)
            return seal(inline(function, parameter, calls), function)
        return seal(
            (self._wrap_async if waits else self._wrap_plain)(function), function
        )

    def _wrap_plain(self, original: Function) -> Function:
        enter, leave, pick = self.enter, self.leave, self.pick

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            state = enter(self, pick(args, kwargs))
            if state is None:
                return original(self, *args, **kwargs)
            try:
                result = original(self, *args, **kwargs)
            except BaseException as error:
                leave(state, None, error)
                raise
            leave(state, result, None)
            return result

        return call

    def _wrap_async(self, original: Function) -> Function:
        enter, leave, pick = self.enter, self.leave, self.pick

        async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            state = enter(self, pick(args, kwargs))
            if state is None:
                return await original(self, *args, **kwargs)
            try:
                result = await original(self, *args, **kwargs)
            except BaseException as error:
                leave(state, None, error)
                raise
            leave(state, result, None)
            return result

        return call

    def _wrap_deferred(self, original: Function) -> Function:
        """Call a plain function as before, and observe the coroutine it returns.

        Any other awaitable passes through unchanged: the caller may want to cancel it.
        """
        observed = self._wrap_async

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            if type(result) is not CoroutineType:
                return result

            async def relay(*_: Any, **__: Any) -> Any:
                return await result

            return observed(relay)(self, *args, **kwargs)

        return call
