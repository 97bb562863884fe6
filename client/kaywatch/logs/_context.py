"""Adds the current node and run to the application's own log records."""

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

    Keys without a value are left out: a node outside of any graph has no run.
    """
    span, run = current_span.get(), current_run.get()
    fields = {}
    if run is not None:
        fields["run_id"] = process.recorder.run_ids.text(run.number)
        fields["graph"] = run.graph
    # Between the nodes of a nested graph, the innermost span is the outer graph's.
    if span is not None and span.run is run:
        if span.series.graph:
            fields["graph"] = span.series.graph
        fields["node_id"] = span.series.node
    return fields


class ContextFilter(logging.Filter):
    """Sets `run_id`, `graph` and `node_id` on each record, for any handler's format.

    The values are those of `/api/v1/failures` and the metrics, and empty outside of any
    node. Attributes that a record already has are kept. No record is rejected.

    Example:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(run_id)s %(node_id)s %(message)s"))
        handler.addFilter(kaywatch.logs.ContextFilter())
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add to the record; return True."""
        attributes = record.__dict__
        if not all(key in attributes for key in KEYS):
            fields = context()
            for key in KEYS:
                attributes.setdefault(key, fields.get(key, ""))
        return True


def add_context(
    logger: Any,  # noqa: ARG001 - a processor's signature
    method: str,  # noqa: ARG001
    event: MutableMapping[str, Any],
) -> MutableMapping[str, Any]:
    """Add `run_id`, `graph` and `node_id` to an event, as a processor of structlog.

    Example:
        structlog.configure(
            processors=[kaywatch.logs.add_context, structlog.processors.JSONRenderer()]
        )
    """
    for key, value in context().items():
        event.setdefault(key, value)
    return event
