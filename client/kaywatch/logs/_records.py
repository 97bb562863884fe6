"""Turns an event of a node or run into a log record.

Strategy: a record has its fields both as attributes, for any handler's format, and in
one dict, for JSON.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, Final, NamedTuple

from kaywatch._process import process
from kaywatch._spans.details import message_of
from kaywatch._spans.runs import Run
from kaywatch._spans.spans import Span
from kaywatch.logs._places import Place, framework_files, traceback_of
from kaywatch.wire import Outcome

__all__ = [
    "Fields",
    "FrameworkFilter",
    "LogEvent",
    "ended_fields",
    "error_fields",
    "node_fields",
    "run_end_fields",
    "run_fields",
    "write",
]

_OUTCOMES: Final = {outcome.value: outcome.name.lower() for outcome in Outcome}

_program: Final = functools.cache(process.service)

Fields = dict[str, Any]


class LogEvent(NamedTuple):
    """An event to log.

    Attributes:
        name: the value of the field `event`.
        text: the format of the message. It may use the fields, and `cause` for the
            error in one line.
        fields: the fields of the event, without its name and the service.
        place: the line of code that the record names.
        error: the error whose traceback is logged, if any.
    """

    name: str
    text: str
    fields: Fields
    place: Place
    error: BaseException | None = None


class FrameworkFilter(logging.Filter):
    """Rejects records about nodes and graphs that are logged by the framework itself.

    KayGraph logs under the name of each node's class, so its records are recognised by
    the file that logs them. Records logged by your nodes pass.

    Example:
        handler = logging.StreamHandler()
        handler.addFilter(kaywatch.logs.FrameworkFilter())
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is not the framework's."""
        return record.pathname not in framework_files or hasattr(record, "kaywatch")


def write(logger: logging.Logger, level: int, event: LogEvent) -> None:
    """Log one event."""
    error, fields = event.error, event.fields
    shown = (type(error), error, traceback_of(error)) if error is not None else None
    args = (fields | {"cause": _cause(fields)},)
    path, line, function = event.place
    record = logger.makeRecord(
        logger.name, level, path, line, event.text, args, shown, function
    )
    service = process.settings.service or _program()
    fields |= {"event": event.name, "service": service}
    # Not as `extra`, which raises if the application's record factory adds one of them.
    for key, value in fields.items():
        record.__dict__.setdefault(key, value)
    record.__dict__["kaywatch"] = fields
    logger.handle(record)


def node_fields(span: Span) -> Fields:
    """Return the fields of every event of a node."""
    run = span.run
    return {
        "node_id": span.series.node,
        "graph": span.series.graph,
        "run_id": process.recorder.run_ids.text(run.number) if run is not None else "",
    }


def ended_fields(span: Span, seconds: float) -> Fields:
    """Return the fields of an execution's end; `duration` is in seconds."""
    fields = node_fields(span) | {
        "attempt": span.attempts,
        "duration": round(seconds, 6),
        "outcome": _OUTCOMES[int(span.outcome)],
        "action": span.action,
    }
    if span.answer is not None:
        fields["phase"] = span.answer[0][1]
    return fields


def run_fields(run: Run) -> Fields:
    """Return the fields of a run's events, with the last node and its action."""
    run_id = process.recorder.run_ids.text(run.number)
    fields = {"graph": run.graph, "run_id": run_id}
    return fields | {"node_id": run.node, "action": run.action}


def run_end_fields(run: Run, seconds: float, reason: str, outcome: str) -> Fields:
    """Return the fields of a run's end; `seconds` is its duration."""
    return run_fields(run) | {
        "duration": round(seconds, 6),
        "outcome": outcome,
        "reason": reason,
        "visits": run.visits,
    }


def error_fields(error: BaseException) -> Fields:
    """Return the fields of every event with an error."""
    return {"error": message_of(error), "error_type": type(error).__name__}


def _cause(fields: Fields) -> str:
    """Return the error in one line, so that it cannot forge a line of the log."""
    error_type, message = fields.get("error_type", ""), fields.get("error", "")
    text = message.replace("\r", "\\r").replace("\n", "\\n")
    return f"{error_type}: {text}" if text else error_type
