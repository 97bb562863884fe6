"""Adds the node and run under way to an application's own log records."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any, Final

from kaywatch._process import process
from kaywatch._spans.runs import current_run
from kaywatch._spans.spans import current_span

__all__ = ["KEYS", "ContextFilter", "add_context", "context"]

KEYS: Final = ("run_id", "graph", "node_id")


def context() -> dict[str, str]:
    """Return the run's id, the graph and the node of this thread or task.

    What there is none of is left out: a node outside of any graph has no run.
    """
    span, run = current_span.get(), current_run.get()
    found = {}
    if run is not None:
        found["run_id"] = process.recorder.run_id(run.number)
        found["graph"] = run.graph
    # In the loop of a graph, between its nodes, the innermost span is the outer's.
    if span is not None and span.run is run:
        if span.series.graph:
            found["graph"] = span.series.graph
        found["node_id"] = span.series.node
    return found


class ContextFilter(logging.Filter):
    """Sets `run_id`, `graph` and `node_id` on each record, for any handler's format.

        handler.addFilter(ContextFilter())

    They are those of `/api/v1/failures` and the metrics, and empty outside of any
    node. What a record has already stays. Never filters anything out.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add to the record; return True."""
        own = record.__dict__
        if not all(key in own for key in KEYS):
            found = context()
            for key in KEYS:
                own.setdefault(key, found.get(key, ""))
        return True


def add_context(
    logger: Any,  # noqa: ARG001 - a processor's signature
    method: str,  # noqa: ARG001
    event: MutableMapping[str, Any],
) -> MutableMapping[str, Any]:
    """Add `run_id`, `graph` and `node_id` to an event: a processor for structlog."""
    for key, value in context().items():
        event.setdefault(key, value)
    return event
