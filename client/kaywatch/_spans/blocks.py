"""Code outside of the frameworks, recorded as one execution of a node."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from kaywatch._process import process
from kaywatch._spans.runs import current_run
from kaywatch._spans.spans import EXEC, Span, current_span
from kaywatch.errors import ConfigurationError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["execution"]

F = TypeVar("F", bound=Callable[..., Any])


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

    For code outside of the frameworks, as a context manager or as a decorator of plain
    functions and coroutine functions::

        with kaywatch.execution("checkout", "pay") as pay:
            pay.action = charge(card)

        @kaywatch.execution("checkout", "notify")
        async def notify(order): ...

    An exception sets the outcome `error`, a cancellation `cancelled`; either passes
    through unchanged.

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
        self._span: Span | None = None

    @property
    def action(self) -> str:
        """The action that the execution returns, as a node's `post` would."""
        return self._span.action if self._span is not None else "default"

    @action.setter
    def action(self, value: Any) -> None:
        if self._span is not None:
            self._span.action = value if isinstance(value, str) else "default"

    @property
    def attempts(self) -> int:
        """How often the work was tried; 1 without retries."""
        return self._span.attempts if self._span is not None else 1

    @attempts.setter
    def attempts(self, value: int) -> None:
        if self._span is not None:
            self._span.ensure_details().attempts = value

    def __enter__(self) -> Self:
        if process.settings.enabled:
            series = process.recorder.series(self.graph, self.node)
            self._span = Block(series, current_run.get(), current_span.get())
            self._span.notify_started()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        span, self._span = self._span, None
        if span is not None:
            span.close(error=error)
            span.pass_on_cost()

    def __call__(self, function: F) -> F:
        import inspect  # here, because it costs more than all of kaywatch's imports

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def recorded_async(*args: Any, **kwargs: Any) -> Any:
                with execution(self.graph, self.node):
                    return await function(*args, **kwargs)

            return cast("F", recorded_async)

        @functools.wraps(function)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            with execution(self.graph, self.node):
                return function(*args, **kwargs)

        return cast("F", recorded)
