"""Production logging: set up in one call, with a line for what each node and run does.

    from kaywatch.logs import setup_production_logging

    setup_production_logging(directory="/var/log/shop")
    kaywatch.instrument()

It stands in for the logging code of KayGraph's monitoring page, and is made to live
beside an application's own: nothing of that is removed, reformatted or doubled.
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
from kaywatch.logs._lines import Lines
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
    """Log to the console from INFO on, and to rotating files.

    `kaygraph.log` takes everything, `kaygraph_errors.log` what is ERROR or worse.
    Processes may share them. Calling it again, with other arguments or the same,
    replaces what it did before. The root logger's level is `level`; by default INFO
    with `ENVIRONMENT=production` and DEBUG otherwise, or lower if it is lower. The
    application's own handlers still get what they got before.

    Args:
        directory: where the files go; it has to exist.
        level: the root logger's level, such as `"INFO"`, instead.
        max_bytes: the size in bytes at which a file is rotated; 0 for never.
        backups: how many rotated files are kept, as `kaygraph.log.1` and so on.
        format: of a line, as `logging.Formatter` takes it. `%(run_id)s`,
            `%(node_id)s` and `%(graph)s` are there too, empty outside of any node.
        console: whether to log to stderr, unless another handler does.
        payloads: whether to log a node's params and the keys of shared, shortened.
        tracebacks: whether a failure's line is followed by its traceback.
        frameworks: whether our handlers show the lines that KayGraph itself logs,
            which say the same as ours and show params and payloads.

    Raises:
        ConfigurationError: naming what can't be used, before anything has changed.
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
    _spans.listen(Lines(payloads=payloads, tracebacks=tracebacks))


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
    """Log JSON, one object a line, to the console and to files if a directory is given.

    structlog is configured with the processors of KayGraph's page, unless the
    application has configured it itself. Lines of the standard library's loggers
    become objects too. Beside `setup_production_logging` it takes the console over,
    and leaves the plain files as they are. It needs `pip install 'kaywatch[logs]'`.

    Args:
        directory: where `kaygraph.jsonl` and `kaygraph_errors.jsonl` go; it has to
            exist. None for no files.
        level: as for `setup_production_logging`, like all that follow.
        max_bytes: the size in bytes at which a file is rotated; 0 for never.
        backups: how many rotated files are kept.
        console: whether to log to stderr, unless another handler does.
        payloads: whether to log a node's params and the keys of shared, shortened.
        tracebacks: whether a failure's object has its traceback, as `exception`.
        frameworks: whether our handlers show the lines that KayGraph itself logs.

    Raises:
        ConfigurationError: if structlog is missing, or naming what can't be used,
            before anything has changed.
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
    _spans.listen(Lines(payloads=payloads, tracebacks=tracebacks))


def remove_logging() -> None:
    """Undo what was set up: handlers, the root logger's level, and the lines."""
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
