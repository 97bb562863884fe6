"""Finds the line of code that an event points at: a node's, an error's or a caller's.

Strategy: the metadata of a class is cached under its id, until the class is
deleted. Only code objects are inspected; no file is read.
"""

from __future__ import annotations

import logging
import os
import sys
import weakref
from types import FrameType, FunctionType, TracebackType
from typing import Any, Final, NamedTuple

from kaywatch._instrument import visits as _visits
from kaywatch._instrument.naming import node_classes
from kaywatch._wrappers import warn_once

__all__ = [
    "NOWHERE",
    "LogSource",
    "Place",
    "caller",
    "framework_files",
    "has_passed_node",
    "raised_at",
    "source_of",
    "traceback_of",
]

# A node's methods, the most characteristic first.
_METHODS: Final = (
    *("exec", "exec_async", "prep", "prep_async", "post", "post_async"),
    *("_run", "_run_async", "_orch", "_orch_async", "__init__"),
)
_OUR_FOLDER: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep
# These modules run coroutines and threads, whose caller is no longer on the stack.
_RUNNERS: Final = ("asyncio", "concurrent", "threading", "contextvars")
_MAX_WRAPPED: Final = 10


class Place(NamedTuple):
    """A line of code, as `%(pathname)s`, `%(lineno)d` and `%(funcName)s`."""

    path: str
    line: int
    function: str

    @classmethod
    def of(cls, code: Any, line: int | None = None) -> Place:
        """Return a line of a code object, the first one by default."""
        number = code.co_firstlineno if line is None else line
        return cls(code.co_filename, number, code.co_name)


NOWHERE: Final = Place("unknown", 0, "unknown")


class LogSource(NamedTuple):
    """The logger and the code of a class of nodes or graphs.

    Attributes:
        logger: named after the class.
        place: a function of the class.
        is_framework: whether `place` is in the framework, because the class defines no
            function.
    """

    logger: logging.Logger
    place: Place
    is_framework: bool


# The files of the frameworks whose nodes have run.
framework_files: Final[set[str]] = set()

_sources: Final[dict[int, tuple[weakref.ref[type], LogSource]]] = {}


def source_of(cls: type) -> LogSource:
    """Return the source of a class of nodes or graphs. Never raises."""
    cached = _sources.get(id(cls))
    if cached is not None:
        return cached[1]
    try:
        return _find_source(cls)
    except Exception:  # noqa: BLE001 - of a metaclass of the application's
        warn_once("the source file of a class", "cannot be found")
        return LogSource(logging.getLogger("kaywatch.nodes"), NOWHERE, True)


def _find_source(cls: type) -> LogSource:
    key = id(cls)
    reference = weakref.ref(cls, lambda _: _sources.pop(key, None))
    is_own = node_classes.is_own or (lambda _: False)
    places = [(place, is_own(base)) for base in cls.__mro__ for place in _places(base)]
    framework_files.update(place.path for place, is_framework in places if is_framework)
    place, is_framework = places[0] if places else (NOWHERE, True)
    source = LogSource(logging.getLogger(cls.__name__), place, is_framework)
    return _sources.setdefault(key, (reference, source))[1]


def caller(default: Place) -> Place:
    """Return where the application called the framework, `default` if unknown."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - as logging does
    while frame is not None:
        if _is_application(frame):
            module = str(frame.f_globals.get("__name__", ""))
            if module.partition(".")[0] in _RUNNERS:
                return default
            return Place.of(frame.f_code, frame.f_lineno)
        frame = frame.f_back
    return default


def raised_at(error: BaseException, source: Place) -> Place:
    """Return where in a node's own file an error came from, else where it was raised.

    Args:
        error: the error that left the node.
        source: the place of the node's class, which is returned if the error's place is
            unknown.
    """
    steps = [step for step in _steps(error) if _is_application(step.tb_frame)]
    own = [step for step in steps if step.tb_frame.f_code.co_filename == source.path]
    for step in (own or steps)[-1:]:
        return Place.of(step.tb_frame.f_code, step.tb_lineno)
    return source


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return an error's traceback without kaywatch's wrappers."""
    traceback: TracebackType | None = None
    for step in reversed(_steps(error)):
        frame = step.tb_frame
        if not frame.f_code.co_filename.startswith(_OUR_FOLDER):
            traceback = TracebackType(traceback, frame, step.tb_lasti, step.tb_lineno)
    return traceback


def has_passed_node(error: BaseException, node: object = None) -> bool:
    """Return whether another node has reported an error before it reached `node`."""
    for step in _steps(error):
        frame = step.tb_frame
        code = frame.f_code
        # A wrapper refers to its hooks by constants of its code, or by a variable.
        hooks = *code.co_consts, frame.f_locals.get("enter")
        if any(hook is _visits.RUN.enter for hook in hooks):
            visited = frame.f_locals.get(code.co_varnames[0])
            if visited is not node:
                return True
    return False


def _is_application(frame: FrameType) -> bool:
    path = frame.f_code.co_filename
    return not path.startswith(_OUR_FOLDER) and path not in framework_files


def _steps(error: BaseException) -> list[TracebackType]:
    steps = []
    traceback = error.__traceback__
    while traceback is not None:
        steps.append(traceback)
        traceback = traceback.tb_next
    return steps


def _places(cls: type) -> list[Place]:
    """Return where a class's own methods are, the most characteristic first."""
    methods = (vars(cls).get(name) for name in _METHODS)
    return [_place(m) for m in methods if isinstance(m, FunctionType)]


def _place(function: Any) -> Place:
    for _ in range(_MAX_WRAPPED):
        inner = vars(function).get("__wrapped__")
        if not isinstance(inner, FunctionType):
            break
        function = inner
    return Place.of(function.__code__)
