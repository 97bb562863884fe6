"""Puts handlers on the root logger, beside what the application has there.

Strategy: handlers have a role, and a handler of the same role replaces the one before.
The root logger's level has to come down for ours, so what the application's handlers
would not have got before is kept from them by a filter. The console handler is silent
for what another handler shows there.
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

__all__ = ["Console", "install", "level_of", "open_files", "remove"]

CONSOLE: Final = "console"
FILES: Final = {"kaygraph": logging.DEBUG, "kaygraph_errors": logging.ERROR}

_root: Final = logging.getLogger()


class Console(logging.StreamHandler[Any]):
    """Logs to stderr what no other handler shows there."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record unless it is, or will be, written without us."""
        if not any(_shows(handler, record) for handler in _root.handlers):
            super().emit(record)


class AsBefore(logging.Filter):
    """Keeps from a handler what it would not have got with the root's old level.

    It lets go as soon as the application sets the root's level itself.

    Args:
        before: the root logger's level that the application had chosen.
        now: the level that we set in its place.
    """

    def __init__(self, before: int, now: int) -> None:
        super().__init__()
        self.before = before
        self.now = now

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record would have come without us."""
        return (
            record.levelno >= self.before
            or _root.level != self.now
            or _has_level(record.name)
        )


# By role; and the root's level before ours was set, and ours.
_handlers: Final[dict[str, logging.Handler]] = {}
_levels: tuple[int, int] | None = None


def level_of(level: int | str | None) -> int:
    """Return the level to set on the root logger.

    Raises:
        ConfigurationError: if there is no such level.
    """
    if level is None:
        production = os.environ.get("ENVIRONMENT", "").strip().lower() == "production"
        chosen = logging.INFO if production else logging.DEBUG
        return min(chosen, _before())
    known = logging.getLevelNamesMapping()
    if isinstance(level, str) and level.upper() in known:
        return known[level.upper()]
    if isinstance(level, int) and not isinstance(level, bool):
        return level
    raise ConfigurationError(f"level={level!r}: expected a number or one of {[*known]}")


def open_files(
    directory: str | os.PathLike[str] | None, suffix: str, max_bytes: int, backups: int
) -> dict[str, logging.Handler | None]:
    """Return the handlers of both files by role, None for each without a directory.

    Raises:
        ConfigurationError: naming what can't be used, and what to do about it.
    """
    given: dict[str, object] = {"max_bytes": max_bytes, "backups": backups}
    for name, value in given.items():
        if not isinstance(value, int) or value < 0:
            raise ConfigurationError(f"{name}={value!r}: expected a number from 0 on")
    roles = {f"{name}.{suffix}": level for name, level in FILES.items()}
    if directory is None:
        return dict.fromkeys(roles)
    made: dict[str, logging.Handler | None] = {}
    for role, level in roles.items():
        try:
            path = os.path.join(directory, role)
            handler = SharedRotatingFileHandler(path, max_bytes, backups)
        except OSError as error:
            for opened in made.values():
                if opened is not None:
                    opened.close()
            raise ConfigurationError(_complaint(directory, role, error)) from error
        handler.setLevel(level)
        made[role] = handler
    return made


def install(
    files: Mapping[str, logging.Handler | None],
    formatter: logging.Formatter,
    level: int,
    *,
    console: bool,
    frameworks: bool,
) -> None:
    """Put our handlers on the root logger, instead of those of the same roles.

    Args:
        files: the handlers of files by role; None for a role that is to go.
        formatter: of all of them.
        level: of the root logger.
        console: whether to log to stderr, too.
        frameworks: whether to show what a framework itself logs.
    """
    global _levels  # noqa: PLW0603 - the root logger is the process's, too
    before = _before()
    _remove_filters()
    _levels = before, level
    _root.setLevel(level)
    if level < before:
        for theirs in _others():
            theirs.addFilter(AsBefore(before, level))
    for role, handler in {**files, CONSOLE: Console() if console else None}.items():
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
    """Take our handlers away, and give the root logger its level back."""
    global _levels  # noqa: PLW0603
    if _levels is not None and _root.level == _levels[1]:
        _root.setLevel(_levels[0])
    _levels = None
    _remove_filters()
    for role in list(_handlers):
        _drop(role)


def _complaint(directory: str | os.PathLike[str], name: str, error: OSError) -> str:
    folder = os.path.abspath(directory)
    given = f"directory={os.fspath(directory)!r}"
    wrong = {errno.ENOENT: "does not exist", errno.ENOTDIR: "is no directory"}
    if error.errno in wrong:
        return (
            f"{given}: {folder} {wrong[error.errno]};"
            f" create it (mkdir -p {folder}) or give another one"
        )
    user = os.geteuid()
    return (
        f"{given}: {os.path.join(folder, name)} can't be written ({error.strerror});"
        f" let the user {user} (chown -R {user} {folder}) or give another directory"
    )


def _before() -> int:
    """Return the root's level that the application has chosen."""
    if _levels is not None and _root.level == _levels[1]:
        return _levels[0]
    return _root.level


def _drop(role: str) -> None:
    handler = _handlers.pop(role, None)
    if handler is not None:
        _root.removeHandler(handler)
        handler.close()


def _others() -> list[logging.Handler]:
    """Return the handlers of the application, wherever they are."""
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
    for handler in _others():
        for old in [f for f in handler.filters if isinstance(f, AsBefore)]:
            handler.removeFilter(old)


def _has_level(name: str) -> bool:
    """Return whether a logger's level is not the root's."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None and logger is not _root:
        if logger.level:
            return True
        logger = logger.parent
    return False


def _shows(handler: logging.Handler, record: logging.LogRecord) -> bool:
    """Return whether a handler of the application writes a record to the console."""
    if isinstance(handler, Console) or record.levelno < handler.level:
        return False
    stream = getattr(handler, "stream", None)
    if stream is None:  # rich's has a console
        stream = getattr(getattr(handler, "console", None), "file", None)
    terminals = (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)
    if stream is None or stream not in terminals:
        return False
    return all(f.filter(record) for f in handler.filters if isinstance(f, AsBefore))
