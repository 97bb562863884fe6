"""How functions of a framework are wrapped, whatever parameters they have.

A wrapper calls the original with the arguments it got and returns what it returned.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from types import CoroutineType, FunctionType
from typing import Any, Final, NamedTuple

from kaywatch._wrappers import Function, seal

__all__ = ["WrapperPair", "mirror", "takes"]

_VARIADIC: Final = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


def takes(function: FunctionType, count: int) -> bool:
    """Return whether `function` takes so many positional parameters and no more."""
    code = function.__code__
    return (
        code.co_argcount == count
        and not code.co_posonlyargcount
        and not code.co_kwonlyargcount
        and not code.co_flags & _VARIADIC
    )


def mirror(wrapper: Any, original: FunctionType) -> Function:
    """Seal a wrapper that has as many parameters as `original`, and name them alike.

    Passing `*args` and `**kwargs` through costs 150 ns, and named parameters 20 ns;
    but a caller may use the original's names, and so the wrapper takes them on.
    """
    ours, count = wrapper.__code__, original.__code__.co_argcount
    theirs = original.__code__.co_varnames[:count]
    wrapper.__code__ = ours.replace(co_varnames=theirs + ours.co_varnames[count:])
    wrapper.__defaults__ = original.__defaults__
    return seal(wrapper, original)


class WrapperPair(NamedTuple):
    """How to wrap a plain function and a coroutine function of one kind.

    Attributes:
        plain, waiting: take the function, and return one of `arity` parameters,
            `self` among them, that calls it with these.
        arity: of such functions, as the frameworks define them.
    """

    plain: Callable[[Function], Function]
    waiting: Callable[[Function], Function]
    arity: int

    def wrap(self, function: FunctionType, *, awaited: bool) -> Function:
        """Return the wrapper of `function`.

        Args:
            function: plain or a coroutine function.
            awaited: whether its caller awaits what it returns; a plain one then
                returns a coroutine of its own or of another function.
        """
        waits = inspect.iscoroutinefunction(function)
        if awaited and not waits:
            return self._deferred(function)
        make = self.waiting if waits else self.plain
        if takes(function, self.arity):
            return mirror(make(function), function)
        return self._any_waiting(function) if waits else self._any_plain(function)

    def _any_plain(self, original: Function) -> Function:
        """Wrap a function of other parameters than usual."""

        def unpack(self: Any, given: Any, *_: Any) -> Any:
            return original(self, *given[0], **given[1])

        wrapped, more = self.plain(unpack), self.arity > 2

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            rest = (_second(args, kwargs),) if more else ()
            return wrapped(self, (args, kwargs), *rest)

        return seal(call, original)

    def _any_waiting(self, original: Function) -> Function:
        """Wrap a coroutine function of other parameters than usual."""

        async def unpack(self: Any, given: Any, *_: Any) -> Any:
            return await original(self, *given[0], **given[1])

        wrapped, more = self.waiting(unpack), self.arity > 2

        async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            rest = (_second(args, kwargs),) if more else ()
            return await wrapped(self, (args, kwargs), *rest)

        return seal(call, original)

    def _deferred(self, original: Function) -> Function:
        """Call a plain function as before, and watch the coroutine that it returns.

        Any other awaitable goes through as it is: somebody may want to cancel it.
        """

        async def relay(_: Any, coroutine: Coroutine[Any, Any, Any], *__: Any) -> Any:
            return await coroutine

        watched, more = self.waiting(relay), self.arity > 2

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            if type(result) is not CoroutineType:
                return result
            rest = (_second(args, kwargs),) if more else ()
            return watched(self, result, *rest)

        return seal(call, original)


def _second(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) > 1:
        return args[1]
    return next(reversed(kwargs.values()), None)
