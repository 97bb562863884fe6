"""Production logging in one call, with a line for each step of nodes and runs.

    from kaywatch.logs import setup_production_logging

    setup_production_logging(directory="/var/log/shop")
    kaywatch.instrument()

It replaces the logging code of KayGraph's monitoring page. The application's own
handlers stay, and their records are not removed, reformatted or repeated.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Final

from kaywatch._spans import spans as _spans
from kaywatch.errors import ConfigurationError
from kaywatch.logs import _install
from kaywatch.logs._context import ContextFilter, add_context
from kaywatch.logs._events import EventLogger
from kaywatch.logs._records import FrameworkFilter
from kaywatch.logs._rotation import SharedRotatingFileHandler

if TYPE_CHECKING:
    from types import ModuleType

__all__ = [
    "FORMAT",
    "ContextFilter",
    "FrameworkFilter",
    "SharedRotatingFileHandler",
    "add_context",
    "remove_logging",
    "setup_production_logging",
    "setup_structured_logging",
]

FORMAT: Final = (
    "%(asctime)s - %(name)s - %(levelname)s - [%(filename)s:%(lineno)d] - %(message)s"
)
MAX_BYTES: Final = 10_000_000  # of one file; with the backups 60 MB, twice
BACKUPS: Final = 5


def setup_production_logging(
    *,
    directory: str | os.PathLike[str] = ".",
    level: int | str | None = None,
    max_bytes: int = MAX_BYTES,
    backups: int = BACKUPS,
    format: str = FORMAT,
    console: bool = True,
    payloads: bool = False,
    tracebacks: bool = True,
    frameworks: bool = False,
) -> None:
    """Log to the console, from level INFO, and to rotating files.

    `kaygraph.log` gets all records, `kaygraph_errors.log` those of level ERROR and
    above. Processes may share the files. A second call replaces the settings of the
    first. The application's own handlers get the same records as before.

    Args:
        directory: where the files are; it must exist.
        level: the root logger's level, such as `"INFO"`. Default: INFO with
            `ENVIRONMENT=production`, else DEBUG; a lower level is kept.
        max_bytes: the size in bytes at which a file is rotated; 0 for no rotation.
        backups: the number of rotated files to keep, `kaygraph.log.1` and so on.
        format: the format of a line, for `logging.Formatter`. `%(run_id)s`,
            `%(node_id)s` and `%(graph)s` are available, and empty outside of any node.
        console: whether to log to stderr, unless another handler does.
        payloads: whether to log a node's params and the keys of shared, shortened.
        tracebacks: whether a failure is followed by its traceback.
        frameworks: whether our handlers show the records that KayGraph itself logs,
            which repeat ours and show params and payloads.

    Example:
        kaywatch.logs.setup_production_logging(directory=folder, level="INFO")

    Threads and forks:
        Call it once, before threads and children are started; these inherit the set-up.

    Raises:
        ConfigurationError: an argument is invalid; nothing has changed.
    """
    try:
        formatter = logging.Formatter(format)
    except ValueError as error:
        raise ConfigurationError(f"format={format!r}: {error}") from error
    root_level = _install.level_of(level)
    files = _install.open_files(directory, "log", max_bytes, backups)
    _install.install(
        files, formatter, root_level, console=console, frameworks=frameworks
    )
    _spans.listen(EventLogger(payloads=payloads, tracebacks=tracebacks))


def setup_structured_logging(
    *,
    directory: str | os.PathLike[str] | None = None,
    level: int | str | None = None,
    max_bytes: int = MAX_BYTES,
    backups: int = BACKUPS,
    console: bool = True,
    payloads: bool = False,
    tracebacks: bool = True,
    frameworks: bool = False,
) -> None:
    """Log JSON, one object per line, to the console and, with a directory, to files.

    structlog is configured with the processors of KayGraph's page, unless the
    application has configured it itself. Records of the standard library's loggers
    become objects, too. If `setup_production_logging` is called as well, this
    function's format is used on the console, and the plain files are still written. It
    needs `pip install 'kaywatch[logs]'`.

    Args:
        directory: where `kaygraph.jsonl` and `kaygraph_errors.jsonl` are; it must
            exist. None for no files.
        level: the root logger's level, as for `setup_production_logging`.
        max_bytes: the size in bytes at which a file is rotated; 0 for no rotation.
        backups: the number of rotated files to keep.
        console: whether to log to stderr, unless another handler does.
        payloads: whether to log a node's params and the keys of shared, shortened.
        tracebacks: whether a failure's object has its traceback, as `exception`.
        frameworks: whether our handlers show the records that KayGraph itself logs.

    Example:
        kaywatch.logs.setup_structured_logging(directory=folder)

    Threads and forks:
        See `setup_production_logging`.

    Raises:
        ConfigurationError: an argument is invalid, or structlog is missing; nothing has
            changed.
    """
    structured = _with_structlog()
    root_level = _install.level_of(level)
    files = _install.open_files(directory, "jsonl", max_bytes, backups)
    _install.install(
        files,
        structured.formatter(),
        root_level,
        console=console,
        frameworks=frameworks,
    )
    structured.configure()
    _spans.listen(EventLogger(payloads=payloads, tracebacks=tracebacks))


def remove_logging() -> None:
    """Undo the set-up: handlers, the root logger's level, and logging of events.

    Example:
        kaywatch.logs.remove_logging()
    """
    _spans.listen(None)
    _install.remove()
    structured = sys.modules.get("kaywatch.logs._structured")
    if structured is not None:
        structured.reset()


def _with_structlog() -> ModuleType:
    try:
        return importlib.import_module("kaywatch.logs._structured")
    except ModuleNotFoundError as error:
        if error.name != "structlog":
            raise
        raise ConfigurationError(
            "setup_structured_logging needs structlog: pip install 'kaywatch[logs]'"
        ) from error
