"""Adds handlers to the root logger, beside those of the application.

Strategy: a new handler replaces the one with the same role. Our handlers need a lower
level on the root logger; a filter keeps the additional records from the application's
handlers. The console handler skips records that another handler shows there.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

from kaywatch.errors import ConfigurationError
from kaywatch.logs._context import ContextFilter
from kaywatch.logs._records import FrameworkFilter
from kaywatch.logs._rotation import SharedRotatingFileHandler

__all__ = ["ConsoleHandler", "install", "level_of", "open_files", "remove"]

CONSOLE: Final = "console"
FILES: Final = {"kaygraph": logging.DEBUG, "kaygraph_errors": logging.ERROR}

_root: Final = logging.getLogger()


class ConsoleHandler(logging.StreamHandler[Any]):
    """Logs to stderr the records that no other handler shows there."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record unless another handler writes it."""
        if not any(_writes_to_terminal(handler, record) for handler in _root.handlers):
            super().emit(record)


class PreviousLevelFilter(logging.Filter):
    """Rejects the records that the root logger's previous level would have rejected.

    The filter has no effect after the application has set the root logger's level
    again.

    Args:
        previous: the root logger's level that the application had chosen.
        ours: the level that replaced it.
    """

    def __init__(self, previous: int, ours: int) -> None:
        super().__init__()
        self.previous = previous
        self.ours = ours

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the handler would get the record without kaywatch."""
        return (
            record.levelno >= self.previous
            or _root.level != self.ours
            or _has_level(record.name)
        )


# By role.
_handlers: Final[dict[str, logging.Handler]] = {}
_levels: tuple[int, int] | None = None  # the root logger's previous one, and ours


def level_of(level: int | str | None) -> int:
    """Return the level to set on the root logger.

    Raises:
        ConfigurationError: the level is unknown.
    """
    if level is None:
        production = os.environ.get("ENVIRONMENT", "").strip().lower() == "production"
        chosen = logging.INFO if production else logging.DEBUG
        return min(chosen, _application_level())
    levels = logging.getLevelNamesMapping()
    if isinstance(level, str) and level.upper() in levels:
        return levels[level.upper()]
    if isinstance(level, int) and not isinstance(level, bool):
        return level
    raise ConfigurationError(
        f"level={level!r}: expected a number or one of {[*levels]}"
    )


def open_files(
    directory: str | os.PathLike[str] | None, suffix: str, max_bytes: int, backups: int
) -> dict[str, logging.Handler | None]:
    """Return the handlers of both files by role, None for each without a directory.

    Raises:
        ConfigurationError: an argument is invalid; the text names the fix.
    """
    numbers: dict[str, object] = {"max_bytes": max_bytes, "backups": backups}
    for name, value in numbers.items():
        if not isinstance(value, int) or value < 0:
            text = f"{name}={value!r}: expected an integer of at least 0"
            raise ConfigurationError(text)
    roles = {f"{name}.{suffix}": level for name, level in FILES.items()}
    if directory is None:
        return dict.fromkeys(roles)
    handlers: dict[str, logging.Handler | None] = {}
    for role, level in roles.items():
        try:
            path = os.path.join(directory, role)
            handler = SharedRotatingFileHandler(path, max_bytes, backups)
        except OSError as error:
            for opened in handlers.values():
                if opened is not None:
                    opened.close()
            raise ConfigurationError(_unwritable(directory, role, error)) from error
        handler.setLevel(level)
        handlers[role] = handler
    return handlers


def install(
    files: Mapping[str, logging.Handler | None],
    formatter: logging.Formatter,
    level: int,
    *,
    console: bool,
    frameworks: bool,
) -> None:
    """Add our handlers to the root logger, replacing those of the same roles.

    Args:
        files: the files' handlers by role; None for a role to remove.
        formatter: the formatter of all handlers.
        level: the level of the root logger.
        console: whether to log to stderr, too.
        frameworks: whether to show the records that a framework itself logs.
    """
    global _levels  # noqa: PLW0603 - there is one root logger, too
    previous = _application_level()
    _remove_filters()
    _levels = previous, level
    _root.setLevel(level)
    if level < previous:
        for other in _application_handlers():
            other.addFilter(PreviousLevelFilter(previous, level))
    roles = {**files, CONSOLE: ConsoleHandler() if console else None}
    for role, handler in roles.items():
        _drop(role)
        if handler is None:
            continue
        handler.setFormatter(formatter)
        handler.addFilter(ContextFilter())
        if not frameworks:
            handler.addFilter(FrameworkFilter())
        _handlers[role] = handler
        _root.addHandler(handler)


def remove() -> None:
    """Remove our handlers, and restore the root logger's level."""
    global _levels  # noqa: PLW0603
    if _levels is not None and _root.level == _levels[1]:
        _root.setLevel(_levels[0])
    _levels = None
    _remove_filters()
    for role in list(_handlers):
        _drop(role)


def _unwritable(directory: str | os.PathLike[str], name: str, error: OSError) -> str:
    """Return an error message for a file that cannot be opened."""
    folder = os.path.abspath(directory)
    argument = f"directory={os.fspath(directory)!r}"
    problems = {errno.ENOENT: "does not exist", errno.ENOTDIR: "is not a directory"}
    if error.errno in problems:
        return (
            f"{argument}: {folder} {problems[error.errno]};"
            f" create it (mkdir -p {folder}) or choose another one"
        )
    user = os.geteuid()
    return (
        f"{argument}: cannot write {os.path.join(folder, name)} ({error.strerror});"
        f" make user {user} its owner (chown -R {user} {folder}) or choose another one"
    )


def _application_level() -> int:
    """Return the root logger's level that the application has chosen."""
    if _levels is not None and _root.level == _levels[1]:
        return _levels[0]
    return _root.level


def _drop(role: str) -> None:
    handler = _handlers.pop(role, None)
    if handler is not None:
        _root.removeHandler(handler)
        handler.close()


def _application_handlers() -> list[logging.Handler]:
    """Return the application's handlers of all loggers."""
    loggers = [_root, *list(logging.Logger.manager.loggerDict.values())]
    ours = set(_handlers.values())
    return [
        handler
        for logger in loggers
        if isinstance(logger, logging.Logger)
        for handler in logger.handlers
        if handler not in ours
    ]


def _remove_filters() -> None:
    for handler in _application_handlers():
        for old in [f for f in handler.filters if isinstance(f, PreviousLevelFilter)]:
            handler.removeFilter(old)


def _has_level(name: str) -> bool:
    """Return whether a logger, or one above it, has its own level."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None and logger is not _root:
        if logger.level:
            return True
        logger = logger.parent
    return False


def _writes_to_terminal(handler: logging.Handler, record: logging.LogRecord) -> bool:
    """Return whether a handler of the application writes a record to the terminal."""
    if isinstance(handler, ConsoleHandler) or record.levelno < handler.level:
        return False
    stream = getattr(handler, "stream", None)
    if stream is None:  # a handler of rich has a console
        stream = getattr(getattr(handler, "console", None), "file", None)
    terminals = (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)
    if stream is None or stream not in terminals:
        return False
    return all(
        f.filter(record) for f in handler.filters if isinstance(f, PreviousLevelFilter)
    )
