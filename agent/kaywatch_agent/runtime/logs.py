"""The agent's own structured log, to the journal or stderr, one entry per event.

Values may come from applications. Whatever a value contains, it cannot end a line,
begin another field, or control a terminal.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TextIO

import structlog

from kaywatch_agent.runtime.journal import Journal, field_name, printable
from kaywatch_agent.runtime.systemd import is_journal

__all__ = ["JournalHandler", "LogConfig", "set_up"]

# The levels of syslog(3).
PRIORITIES: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


@dataclass(frozen=True)
class LogConfig:
    """How the agent logs (`[log]`).

    Attributes:
        level: the lowest level to log.
        format: `console` for people, `json` for machines, `journal` for systemd's
            journal with priorities and fields. `auto` selects the journal if stderr is
            connected to it, `console` on a terminal, and `json` otherwise.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json", "journal"] = "auto"


def _traceback(output: TextIO, error: structlog.typing.ExcInfo) -> None:
    """Write an indented traceback: an exception's message may imitate a log line."""
    output.writelines(
        "\n    " + printable(line)
        for line in "".join(traceback.format_exception(*error)).splitlines()
    )


def set_up(config: LogConfig) -> None:
    """Configure structlog, and pass the standard library's log records to it."""
    kind = config.format if config.format != "auto" else _default_format()
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelName(config.level.upper())
        ),
        logger_factory=structlog.stdlib.LoggerFactory(),
        # A reload may change the level.
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for old in root.handlers:
        if isinstance(old, JournalHandler):
            old.close()
    root.handlers = [JournalHandler() if kind == "journal" else _lines(kind, shared)]
    root.setLevel(config.level.upper())


def _default_format() -> str:
    if is_journal():
        return "journal"
    return "console" if sys.stderr.isatty() else "json"


def _lines(kind: str, shared: list[Any]) -> logging.Handler:
    """Return the handler that writes lines to stderr."""
    last: list[Any] = (
        [
            _escape,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=_traceback
            ),
        ]
        if kind == "console"
        else [
            # Without local variables, which may contain secrets.
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(),
        ]
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
    return handler


def _escape(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    return {k: printable(v) if isinstance(v, str) else v for k, v in event.items()}


class JournalHandler(logging.Handler):
    """Writes each record to the journal."""

    def __init__(self, journal: Journal | None = None) -> None:
        super().__init__()
        self._journal = journal or Journal()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; to stderr if journald does not accept it."""
        try:
            fields = _fields(record)
            try:
                self._journal.write(fields)
            except TimeoutError:
                pass  # journald hangs, and stderr leads to journald too
            except OSError:
                line = printable(fields["MESSAGE"])
                print(f"<{fields['PRIORITY']}>{line}", file=sys.stderr)
        except Exception:  # noqa: BLE001
            self.handleError(record)

    def close(self) -> None:
        """Close the journal's socket."""
        self._journal.close()
        super().close()


def _fields(record: logging.LogRecord) -> dict[str, str]:
    """Return the fields of a journal entry; see systemd.journal-fields(7)."""
    if isinstance(record.msg, dict):  # structlog's, by wrap_for_formatter
        values: dict[str, Any] = dict(record.msg)
        event = str(values.pop("event", ""))
    else:
        values, event = {"exc_info": record.exc_info}, record.getMessage()
    error = values.pop("exc_info", None)
    for key in ("level", "timestamp"):  # the journal has fields for these
        values.pop(key, None)
    fields = {
        "MESSAGE": _message(event, values),
        "PRIORITY": str(PRIORITIES.get(record.levelno, 5)),
        "SYSLOG_IDENTIFIER": "kaywatch",
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
        "LOGGER": record.name,
        "KAYWATCH_EVENT": event,
    }
    fields.update((field_name(key), _text(value)) for key, value in values.items())
    trace = _trace(error)
    if trace:
        fields["MESSAGE"] += "\n" + "\n".join(map(printable, trace.splitlines()))
    return fields


def _message(event: str, values: Mapping[str, Any]) -> str:
    """Return the line that `journalctl` shows: the event, and key=value pairs."""
    words = [printable(event)]
    for key, value in values.items():
        text = _text(value)
        plain = text and not any(c in ' ="' or not c.isprintable() for c in text)
        shown = text if plain else json.dumps(text, ensure_ascii=False)
        words.append(f"{key}={printable(shown)}")
    return " ".join(words)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, default=str)
    return str(value)


def _trace(error: Any) -> str:
    if error is True:
        error = sys.exc_info()
    if isinstance(error, BaseException):
        return "".join(traceback.format_exception(error))
    if isinstance(error, tuple) and error[0] is not None:
        return "".join(traceback.format_exception(*error))
    return ""
