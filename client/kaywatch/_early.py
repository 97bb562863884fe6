"""Keeps the calls of finalizers and signal handlers that interrupt the client's import.

These functions run within the import, so they can neither wait for it nor use its
result. Their calls are kept, and repeated after the import. This module imports nothing
that takes time.
"""

import sys
import time

TYPE_CHECKING = False  # as in `kaywatch`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

__all__ = ["repeat_calls", "stand_in"]

_calls: "list[tuple[str, tuple[Any, ...], dict[str, Any]]]" = []


def stand_in(name: str) -> object:
    """Return a stand-in for a public function; None for other names."""
    if name == "execution":
        return EarlyExecution
    if name not in ("count", "gauge", "observe", "record_llm"):
        return None
    return lambda *args, **kwargs: _calls.append((name, args, kwargs))


def repeat_calls() -> None:
    """Repeat the calls that were kept."""
    while _calls:
        try:
            name, args, kwargs = _calls.pop(0)
        except IndexError:  # another thread has popped it
            return
        record = _record if name == "execution" else _public(name)
        record(*args, **kwargs)


def _public(name: str) -> "Any":
    """Return a public function, without an import: the package imports this module."""
    return getattr(sys.modules["kaywatch"], name)


class EarlyExecution:
    """A stand-in for `kaywatch.execution` that keeps the executions.

    Args:
        graph: the graph's name.
        node: the node's name.
    """

    def __init__(self, graph: str, node: str) -> None:
        self.graph = graph
        self.node = node
        self.action = "default"
        self.attempts = 1
        self._started = 0.0

    def __enter__(self) -> "Self":
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: "type[BaseException] | None", *_: object) -> None:
        seconds = time.perf_counter() - self._started
        _calls.append(("execution", (self, seconds, kind), {}))

    def __call__(self, function: "Callable[..., Any]") -> "Callable[..., Any]":
        def recorded(*args: "Any", **kwargs: "Any") -> "Any":
            decorate = _public("execution")(self.graph, self.node)
            return decorate(function)(*args, **kwargs)

        return recorded

    def stream(self, items: "Any") -> "Any":
        """Return the items; their time is not recorded."""
        return items


def _record(
    early: EarlyExecution, seconds: float, kind: "type[BaseException] | None"
) -> None:
    from kaywatch._process import process
    from kaywatch.wire import Outcome

    names: tuple[object, object] = early.graph, early.node
    is_named = all(isinstance(name, str) for name in names)
    if not process.settings.enabled or not is_named:
        return
    record = process.recorder.series(early.graph, early.node).record
    if kind is None:
        record(seconds, Outcome.OK.value, early.attempts, early.action)
    else:
        failed = issubclass(kind, Exception)
        outcome = (Outcome.ERROR if failed else Outcome.CANCELLED).value
        record(seconds, outcome, early.attempts, "", (kind.__name__, "exec"))
