"""Adds the node and run under way to an application's own log records."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any, Final

from kaywatch._process import process
from kaywatch._spans.frames import current_frame, current_run

__all__ = ["KEYS", "ContextFilter", "add_context", "context"]

KEYS: Final = ("run_id", "graph", "node_id")


def context() -> dict[str, str]:
    """Return the run's id, the graph and the node of this thread or task.

    What there is none of is left out: a node outside of any graph has no run.
    """
    frame, run = current_frame.get(), current_run.get()
    found = {}
    if run is not None:
        found["run_id"] = process.recorder.run_id(run.number)
        found["graph"] = run.graph
    # In the loop of a graph, between its nodes, the innermost frame is the outer's.
    if frame is not None and frame.run is run:
        if frame.series.graph:
            found["graph"] = frame.series.graph
        found["node_id"] = frame.series.node
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
