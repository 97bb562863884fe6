"""Configures structlog as on KayGraph's page, and formats standard records as JSON.

Only `setup_structured_logging` imports this module, since it needs structlog.
"""

from __future__ import annotations

import contextlib
import json
import logging
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor

from kaywatch.logs._context import KEYS, add_context

__all__ = ["configure", "formatter", "reset"]


class _JsonLine(str):
    """One event that is already formatted as JSON."""

    __slots__ = ()


def _line(event: Any, **options: Any) -> str:
    return _JsonLine(json.dumps(event, **options))


_renderer: Final = structlog.processors.JSONRenderer(serializer=_line)


def configure() -> None:
    """Configure structlog, unless the application has configured it."""
    if structlog.is_configured() and not _is_ours():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            add_context,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            _renderer,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def reset() -> None:
    """Restore structlog's defaults, unless the application has configured it."""
    if _is_ours():
        structlog.reset_defaults()


def _is_ours() -> bool:
    return _renderer in structlog.get_config()["processors"]


def formatter() -> logging.Formatter:
    """Return a formatter that makes one JSON object of any record."""
    timestamp = structlog.processors.TimeStamper(fmt="iso")
    foreign: list[Processor] = [
        structlog.stdlib.ExtraAdder(),
        _event,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        timestamp,
    ]
    return _Json(
        foreign_pre_chain=foreign,
        processors=[
            _context,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )


class _Json(structlog.stdlib.ProcessorFormatter):
    def format(self, record: logging.LogRecord) -> str:
        if type(record.msg) is _JsonLine:
            return record.msg
        return super().format(record)


def _event(_: Any, __: str, event: EventDict) -> EventDict:
    """Merge the fields of our own events, and of messages that are JSON objects."""
    ours = event.pop("kaywatch", None)
    text = event["event"]
    if isinstance(ours, dict):
        event.update(ours)
    elif text.startswith("{") and text.endswith("}"):
        # structlog logs such messages if the application has configured it to render
        # JSON.
        with contextlib.suppress(ValueError):
            event.update(json.loads(text))
    return event


def _context(_: Any, __: str, event: EventDict) -> EventDict:
    """Copy the attributes that `ContextFilter` has set on the record."""
    for key in KEYS:
        value = event.pop(key, None) or getattr(event["_record"], key, None)
        if value:
            event[key] = value
    return event
