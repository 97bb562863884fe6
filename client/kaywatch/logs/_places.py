"""Where a line of the log points at: a node's code, what raised, or who called.

Strategy: what can be known about a class is found once and kept under its id, which is
dropped when the class is. Only code objects are looked at; no file is read.
"""

from __future__ import annotations

import logging
import os
import sys
import weakref
from types import FrameType, FunctionType, TracebackType
from typing import Any, Final, NamedTuple

from kaywatch import _wrappers
from kaywatch._instrument import visits as _visits
from kaywatch._instrument.naming import node_classes
from kaywatch._wrappers import warn_once

__all__ = [
    "NOWHERE",
    "Place",
    "Source",
    "caller",
    "passed_a_node",
    "raised",
    "sources",
    "traceback_of",
]

# In the order in which they say most about a node.
_FUNCTIONS: Final = (
    *("exec", "exec_async", "prep", "prep_async", "post", "post_async"),
    *("_run", "_run_async", "_orch", "_orch_async", "__init__"),
)
_OUR_FOLDER: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep
# What runs coroutines and threads stands between them and their caller.
_RUNNERS: Final = ("asyncio", "concurrent", "threading", "contextvars")
_MAX_WRAPPED: Final = 10
_WRAPPERS: Final = _wrappers.__file__


class Place(NamedTuple):
    """A line of code, as `%(pathname)s`, `%(lineno)d` and `%(funcName)s`."""

    path: str
    line: int
    function: str


NOWHERE: Final = Place("unknown", 0, "unknown")


class Source(NamedTuple):
    """Who logs about the instances of a class, and where its code is.

    Attributes:
        logger: named by the class.
        place: a function of the class.
        foreign: whether that is the framework's, as the class defines none itself.
    """

    logger: logging.Logger
    place: Place
    foreign: bool


class Sources:
    """The classes that were met, by their ids.

    Attributes:
        framework_files: of the frameworks whose nodes were met.
    """

    def __init__(self) -> None:
        self.framework_files: set[str] = set()
        self._known: dict[int, tuple[weakref.ref[type], Source]] = {}

    def of(self, cls: type) -> Source:
        """Return what is known about a class of nodes or graphs. Never raises."""
        known = self._known.get(id(cls))
        if known is not None:
            return known[1]
        try:
            return self._learn(cls)
        except Exception:  # noqa: BLE001 - of a metaclass of the application's
            warn_once("the log of a class")
            return Source(logging.getLogger("kaywatch.nodes"), NOWHERE, foreign=True)

    def _learn(self, cls: type) -> Source:
        table, key = self._known, id(cls)
        reference = weakref.ref(cls, lambda _: table.pop(key, None))
        is_own = node_classes.is_own or (lambda _: False)
        for base in filter(is_own, cls.__mro__):
            self.framework_files.update(place.path for place in _places(base))
        found = ((p, is_own(base)) for base in cls.__mro__ for p in _places(base))
        place, foreign = next(found, (NOWHERE, True))
        source = Source(logging.getLogger(cls.__name__), place, foreign)
        return table.setdefault(key, (reference, source))[1]


sources: Final = Sources()


def caller(otherwise: Place) -> Place:
    """Return where the frameworks were called, `otherwise` if that can't be told."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - as logging does
    while frame is not None:
        if _is_application(frame):
            module = str(frame.f_globals.get("__name__", ""))
            if module.partition(".")[0] in _RUNNERS:
                return otherwise
            code = frame.f_code
            return Place(code.co_filename, frame.f_lineno, code.co_name)
        frame = frame.f_back
    return otherwise


def raised(error: BaseException, source: Place) -> Place:
    """Return where in a node's own file an error came from, else where it was raised.

    Args:
        error: as it leaves the node.
        source: where the node's class is; what is returned if nothing can be told.
    """
    steps = [step for step in _steps(error) if _is_application(step.tb_frame)]
    own = [step for step in steps if step.tb_frame.f_code.co_filename == source.path]
    for step in (own or steps)[-1:]:
        code = step.tb_frame.f_code
        return Place(code.co_filename, step.tb_lineno, code.co_name)
    return source


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return an error's traceback without the wrappers."""
    shown: TracebackType | None = None
    for step in reversed(_steps(error)):
        frame = step.tb_frame
        if not frame.f_code.co_filename.startswith(_OUR_FOLDER):
            shown = TracebackType(shown, frame, step.tb_lasti, step.tb_lineno)
    return shown


def passed_a_node(error: BaseException, node: object = None) -> bool:
    """Return whether an error came through the visit of a node, other than `node`.

    That node's line has told of it.
    """
    for traceback in _steps(error):
        frame = traceback.tb_frame
        code = frame.f_code
        if code.co_filename != _WRAPPERS:
            continue
        # The wrapper's first parameter is named like that of the function it wraps.
        visited = frame.f_locals.get(code.co_varnames[0])
        is_visit = frame.f_locals.get("enter") is _visits.RUN.enter
        if is_visit and visited is not node:
            return True
    return False


def _is_application(frame: FrameType) -> bool:
    path = frame.f_code.co_filename
    return not path.startswith(_OUR_FOLDER) and path not in sources.framework_files


def _steps(error: BaseException) -> list[TracebackType]:
    steps = []
    traceback = error.__traceback__
    while traceback is not None:
        steps.append(traceback)
        traceback = traceback.tb_next
    return steps


def _places(cls: type) -> list[Place]:
    """Return where a class's own functions are, the most telling first."""
    found = (vars(cls).get(name) for name in _FUNCTIONS)
    return [_place(f) for f in found if isinstance(f, FunctionType)]


def _place(function: Any) -> Place:
    for _ in range(_MAX_WRAPPED):
        inner = vars(function).get("__wrapped__")
        if not isinstance(inner, FunctionType):
            break
        function = inner
    code = function.__code__
    return Place(code.co_filename, code.co_firstlineno, code.co_name)
