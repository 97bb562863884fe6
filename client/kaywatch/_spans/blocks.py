"""Code outside of the frameworks, recorded as one execution of a node."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from kaywatch._process import process
from kaywatch._spans.runs import current_run
from kaywatch._spans.spans import EXEC, Span, current_span, open_span
from kaywatch._spans.streams import (
    NoBlock,
    OpenBlock,
    follow,
    follow_items,
    record_async_items,
    record_items,
)
from kaywatch.errors import ConfigurationError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["execution"]

F = TypeVar("F", bound=Callable[..., Any])
I = TypeVar("I")  # noqa: E741 - of items


class Block(Span):
    """The span of a block of code, which has no phases."""

    __slots__ = ()

    @property
    def phase(self) -> str:
        """The phase for the record of a failure: all of a block is `exec`."""
        return EXEC

    def phases(self, ended: float) -> None:
        """Return that the seconds of the phases are unknown."""


class execution:  # noqa: N801 - used like a function, as contextlib's are
    """Record a block, or a function, as one execution of a node.

    For code outside of the frameworks, as a context manager or as a decorator. An
    exception sets the outcome `error`, a cancellation `cancelled`; either passes
    through unchanged. A generator, a coroutine, a future or another awaitable that a
    function returns is part of the execution until it ends. One that is closed or
    dropped before its end, or still in progress when the process ends, is `cancelled`.

    Example:
        with kaywatch.execution("checkout", "pay") as pay:
            pay.action = "paid"

        @kaywatch.execution("checkout", "notify")
        async def notify(order): ...

    Threads and forks:
        One object may be entered again, also by several threads or tasks at once.

    Args:
        graph: the graph's name; empty for none.
        node: the node's name.

    Raises:
        ConfigurationError: if a name is not a str, or the node's is empty.
    """

    def __init__(self, graph: str, node: str) -> None:
        for parameter, value in (("graph", graph), ("node", node)):
            if not isinstance(value, str):
                raise ConfigurationError(
                    f"execution({parameter}=...): "
                    f"expected a str, got {type(value).__name__}"
                )
        if not node:
            raise ConfigurationError("execution(node=...): the name is empty")
        self.graph = graph
        self.node = node
        # One object may be entered again, also by several threads at once.
        self._spans: list[Span] = []

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (self.graph, self.node)

    @property
    def action(self) -> str:
        """The action that the execution returns, as a node's `post` would."""
        span = self._innermost()
        return span.action if span is not None else "default"

    @action.setter
    def action(self, value: Any) -> None:
        span = self._innermost()
        if span is not None:
            span.action = value if isinstance(value, str) else "default"

    @property
    def attempts(self) -> int:
        """How often the work was tried; 1 without retries."""
        span = self._innermost()
        return span.attempts if span is not None else 1

    @attempts.setter
    def attempts(self, value: int) -> None:
        span = self._innermost()
        if span is not None:
            span.ensure_details().attempts = value

    def stream(self, items: I) -> I:
        """Return the items of a stream, recorded as one execution until they end.

        A node ends when its functions have returned. If it returns a stream that is
        read later, the time and the errors of the stream are known only to this::

            def exec(self, question):
                return kaywatch.execution("chat", "answer").stream(ask(question))

        Args:
            items: an iterable or asynchronous iterable.

        Returns:
            A generator or asynchronous generator of them.
        """
        span = self._open()
        return items if span is None else cast("I", follow_items(span, items))

    def __enter__(self) -> Self:
        span = self._open()
        if span is not None:
            self._spans.append(span)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        span = self._innermost()
        if span is not None:
            self._spans.remove(span)
            span.close(error=error)
            span.pass_on_cost()

    def _open(self) -> Span | None:
        if not process.settings.enabled:
            return None
        series = process.recorder.series(self.graph, self.node)
        span = open_span(series, current_run.get(), current_span.get(), cls=Block)
        span.notify_started()
        process.recorder.ensure_sender()
        return span

    def _open_block(self) -> OpenBlock:
        span = self._open()
        return NoBlock() if span is None else OpenBlock(span)

    def _innermost(self) -> Span | None:
        """Return the span that this thread or task entered last."""
        span: object = current_span.get() if self._spans else None
        while isinstance(span, Span):
            if span in self._spans:
                return span
            span = span.token.old_value
        # It may be left in another context than it was entered in.
        return self._spans[-1] if self._spans else None

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function, and record it until its result has ended."""
        span = self._open()
        if span is None:
            return function(*args, **kwargs)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            span.close(error=error)
            span.pass_on_cost()
            raise
        return follow(span, result)

    def __call__(self, function: F) -> F:
        import inspect  # here, because it costs more than all of kaywatch's imports

        if inspect.isgeneratorfunction(function):
            recorded: Any = record_items(self._open_block, function)
        elif inspect.isasyncgenfunction(function):
            recorded = record_async_items(self._open_block, function)
        elif inspect.iscoroutinefunction(function):

            async def recorded(*args: Any, **kwargs: Any) -> Any:
                with execution(self.graph, self.node):
                    return await function(*args, **kwargs)

        else:

            def recorded(*args: Any, **kwargs: Any) -> Any:
                return self._call(function, *args, **kwargs)

        return cast("F", functools.wraps(function)(recorded))
