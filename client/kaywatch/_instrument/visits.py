"""The wrappers around `_run`, `_run_async` and `on_error` of nodes: one visit each.

Strategy: `_run` opens a span, unless the innermost span is this very node's: then a
subclass's `_run` has called its parent's. Whatever runs inside recognises the span
by its owner, so that calls outside of a recorded execution pass through untouched.
"""

from __future__ import annotations

from typing import Any, Final

from kaywatch._instrument.naming import MAX_ACTION, NAME, action_name, given_name, kinds
from kaywatch._instrument.wrapping import WrapperPair
from kaywatch._process import process
from kaywatch._spans import spans as _spans
from kaywatch._spans.spans import Span, current_run, current_span
from kaywatch._wrappers import Function, warn_once
from kaywatch.wire import Outcome

__all__ = ["ON_ERROR", "RUN", "answered"]

SUPPRESSED: Final = Outcome.SUPPRESSED.value

_span: Final = current_span.get
_run: Final = current_run.get
_nodes: Final = kinds.nodes


def _run_plain(original: Function) -> Function:
    def run(self: Any, shared: Any) -> Any:
        outer = _span()
        if outer is not None and outer.owner is self:
            return original(self, shared)
        span = _enter(self, outer, shared)
        if span is None:
            return original(self, shared)
        try:
            action = original(self, shared)
        except BaseException as error:
            span.close(error)
            raise
        if action is not None:
            usual = type(action) is str and 0 < len(action) <= MAX_ACTION
            span.action = action if usual else action_name(action)
        span.close()
        return action

    return run


def _run_waiting(original: Function) -> Function:
    async def run(self: Any, shared: Any) -> Any:
        outer = _span()
        if outer is not None and outer.owner is self:
            return await original(self, shared)
        span = _enter(self, outer, shared)
        if span is None:
            return await original(self, shared)
        try:
            action = await original(self, shared)
        except BaseException as error:
            span.close(error)
            raise
        if action is not None:
            usual = type(action) is str and 0 < len(action) <= MAX_ACTION
            span.action = action if usual else action_name(action)
        span.close()
        return action

    return run


RUN: Final = WrapperPair(_run_plain, _run_waiting, 2)


def _on_error(original: Function) -> Function:
    def on_error(self: Any, shared: Any, error: Any) -> Any:
        suppressed = original(self, shared, error)
        try:
            if suppressed:
                answered(self, SUPPRESSED, error)
        except Exception:  # noqa: BLE001 - of a `__bool__`; the framework meets it too
            warn_once(f"on_error of {type(self).__name__}")
        return suppressed

    return on_error


# KayGraph's, which may swallow an error. It is never awaited.
ON_ERROR: Final = WrapperPair(_on_error, _on_error, 3)


def answered(node: Any, outcome: int, error: object) -> None:
    """Note that a node answered an error in place of an exception."""
    span = _span()
    if span is not None and span.owner is node:
        span.answered(outcome, error)


def _enter(node: Any, outer: Span | None, shared: object) -> Span | None:
    """Open the span of a node, None if it isn't to be recorded."""
    try:
        cls = type(node)
        kind = _nodes.get(id(cls)) or kinds.node(cls)
        if kind is None or not process.settings.enabled:
            return None
        run = _run()
        graph = run.graph if run is not None else ""
        own = node.__dict__
        name = None
        if "node_id" in own or NAME in own or kind.identified:
            name = given_name(node, kind)
        if name is None:
            series = kind.series.get(graph) or kind.series_in(graph)
        else:
            series = process.recorder.series(graph, name)
        span = Span(series, run, outer, node)
        if _spans.listener is not None:
            span.tell(shared)
    except Exception:  # noqa: BLE001 - the application goes on without us
        warn_once(f"node {type(node).__name__}")
        return None
    else:
        return span
