"""The agent's own log: structured, to stderr, one line per event."""

from __future__ import annotations

import logging
import sys
import traceback
from dataclasses import dataclass
from typing import Any, Literal, TextIO

import structlog

__all__ = ["LogConfig", "on_one_line", "set_up"]


@dataclass(frozen=True)
class LogConfig:
    """How the agent logs (`[log]`).

    Attributes:
        level: the least severe level that is written.
        format: `console` for people, `json` for machines, `auto` for console on a
            terminal and json elsewhere.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


def on_one_line(
    _: object, __: str, entry: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Write what would end a line, or speak to a terminal, as an escape.

    A value may be another one's: the path of a request, a receiver's answer. It must
    not look like a line of ours.
    """
    for key, value in entry.items():
        if isinstance(value, str):
            entry[key] = _printable(value)
    return entry


def _traceback(written: TextIO, found: structlog.typing.ExcInfo) -> None:
    """Write a traceback, indented: an exception's message may look like a line."""
    written.writelines(
        "\n    " + _printable(line)
        for line in "".join(traceback.format_exception(*found)).splitlines()
    )


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def set_up(config: LogConfig) -> None:
    """Configure structlog, and lead the standard library's log into it."""
    console = config.format == "console" or (
        config.format == "auto" and sys.stderr.isatty()
    )
    shared: list[Any] = [
        on_one_line,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    # Without the locals of each frame, which both would show: they may hold anything.
    last: list[Any] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=_traceback
            )
        ]
        if console
        else [
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(),
        ]
    )
    structlog.configure(
        processors=[
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelName(config.level.upper())
        ),
        logger_factory=structlog.stdlib.LoggerFactory(),
        # A reload may change the level; lines are few.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *last,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(config.level.upper())
