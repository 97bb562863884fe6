"""Makes a record of the log of what a node or a run did.

Strategy: a record carries its fields both as attributes, for any handler's format, and
in one dict, for JSON.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, Final

from kaywatch._process import process
from kaywatch._spans.details import message_of
from kaywatch._spans.runs import Run
from kaywatch._spans.spans import Span
from kaywatch.logs._places import Place, sources, traceback_of
from kaywatch.wire import Outcome

__all__ = [
    "Fields",
    "FrameworkFilter",
    "cause_of",
    "ended_fields",
    "error_fields",
    "node_fields",
    "run_fields",
    "write",
]

Fields = dict[str, Any]

_OUTCOMES: Final = {outcome.value: outcome.name.lower() for outcome in Outcome}

_program: Final = functools.cache(process.service)


class FrameworkFilter(logging.Filter):
    """Keeps out what the framework itself logs of nodes and graphs.

        handler.addFilter(FrameworkFilter())

    KayGraph logs by the name of each node's class, so its lines are told by the file
    that logs them. What a node of yours logs stays.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is not the framework's."""
        theirs = record.pathname in sources.framework_files
        return not theirs or hasattr(record, "kaywatch")


def write(
    logger: logging.Logger,
    level: int,
    place: Place,
    text: str,
    args: list[Any],
    fields: Fields,
    error: BaseException | None = None,
) -> None:
    """Log one event.

    Args:
        logger: whose handlers get it; it is enabled for the level.
        level: as of the standard library.
        place: the code that the record points at.
        text: the message's format.
        args: what the format takes.
        fields: the event's, the service aside.
        error: to show the traceback of.
    """
    shown = (type(error), error, traceback_of(error)) if error is not None else None
    record = logger.makeRecord(
        logger.name,
        level,
        place.path,
        place.line,
        text,
        tuple(args),
        shown,
        place.function,
    )
    fields["service"] = process.settings.service or _program()
    # Not as `extra`, which raises if the application's record factory adds one of them.
    for key, value in fields.items():
        record.__dict__.setdefault(key, value)
    record.__dict__["kaywatch"] = fields
    logger.handle(record)


def node_fields(event: str, span: Span) -> Fields:
    """Return what every event of a node has."""
    run = span.run
    return {
        "event": event,
        "node_id": span.series.node,
        "graph": span.series.graph,
        "run_id": process.recorder.run_id(run.number) if run is not None else "",
    }


def ended_fields(event: str, span: Span, seconds: float) -> Fields:
    """Return what the event of an execution's end has; `duration` is in seconds."""
    fields = node_fields(event, span)
    fields |= {
        "attempt": span.attempts,
        "duration": round(seconds, 6),
        "outcome": _OUTCOMES[int(span.outcome)],
        "action": span.action,
    }
    if span.answer is not None:
        fields["phase"] = span.answer[0][1]
    return fields


def run_fields(event: str, run: Run) -> Fields:
    """Return what every event of a run has."""
    run_id = process.recorder.run_id(run.number)
    return {"event": event, "graph": run.graph, "run_id": run_id, "node_id": ""}


def error_fields(error: BaseException) -> Fields:
    """Return what every event with an error has."""
    return {"error": message_of(error), "error_type": type(error).__name__}


def cause_of(error_type: str, message: str) -> str:
    """Return an error in one line: a line of the log is not to be forged by it."""
    text = message.replace("\r", "\\r").replace("\n", "\\n")
    return f"{error_type}: {text}" if text else error_type
