"""The wrappers around `_run`, `_run_async` and `on_error` of nodes: one visit each.

Strategy: `_run` opens a span, unless the innermost span belongs to the same node: then
a subclass's `_run` has called its parent's. Everything within recognizes the span by
its owner, so calls outside of a recorded execution pass through.
"""

from __future__ import annotations

from typing import Any, Final

from kaywatch._instrument.naming import NAME, explicit_name, node_classes
from kaywatch._process import process
from kaywatch._spans import spans as _spans
from kaywatch._spans.runs import current_run
from kaywatch._spans.spans import Span, current_span, open_span
from kaywatch._wrappers import Hooks, second_argument, warn_once
from kaywatch.wire import Outcome

__all__ = ["FALLBACK", "ON_ERROR", "RUN"]

_SUPPRESSED: Final = Outcome.SUPPRESSED.value
_FALLBACK: Final = Outcome.FALLBACK.value

_span: Final = current_span.get
_run: Final = current_run.get
_nodes: Final = node_classes.nodes


def _begin() -> bool:
    """Report a node outside a run to the agent; return whether it is recorded."""
    if not process.settings.enabled:
        return False
    process.recorder.ensure_sender()
    return True


def _open(node: Any, shared: object) -> Span | None:
    """Open the span of a node, None if it isn't to be recorded or is open already."""
    outer = _span()
    if outer is not None and outer.owner is node:
        return None
    try:
        cls = type(node)
        try:
            node_class = _nodes[id(cls)]
        except KeyError:
            known = node_classes.node(cls)
            if known is None:
                return None
            node_class = known
        run = _run()
        # Not asked during a run. One that has ended may still be in a task's context.
        if (run is None or run.owner is None) and not _begin():
            return None
        graph = run.graph if run is not None else ""
        own, name = node.__dict__, None
        if "node_id" in own or NAME in own or node_class.has_id:
            name = explicit_name(node, node_class)
        if name is None:
            series = node_class.series.get(graph) or node_class.series_in(graph)
        else:
            series = process.recorder.series(graph, name)
        span = open_span(series, run, outer, node)
        if _spans.listener is not None:
            span.notify_started(shared)
    except Exception:  # noqa: BLE001 - the application continues without us
        warn_once(f"node {type(node).__name__}")
        return None
    else:
        return span


RUN: Final = Hooks(_open, Span.close)


def _find_span(node: Any, error: object) -> tuple[Span, object] | None:
    """Return the node's span and the error that it is about to answer."""
    span = _span()
    return (span, error) if span is not None and span.owner is node else None


def _record_fallback(
    answer: tuple[Span, object], _: object, error: BaseException | None
) -> None:
    if error is None:
        span, cause = answer
        span.record_answer(_FALLBACK, cause)


FALLBACK: Final = Hooks(_find_span, _record_fallback, second_argument)


def _record_suppression(
    answer: tuple[Span, object], result: object, error: BaseException | None
) -> None:
    span, cause = answer
    try:
        if error is None and result:
            span.record_answer(_SUPPRESSED, cause)
    except Exception:  # noqa: BLE001 - of a `__bool__`; the framework meets it too
        warn_once(f"on_error of {type(span.owner).__name__}")


# `on_error` of KayGraph nodes: a true result suppresses the error.
ON_ERROR: Final = Hooks(_find_span, _record_suppression, second_argument)
