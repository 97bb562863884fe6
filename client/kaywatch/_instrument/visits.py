"""The wrappers around `_run`, `_run_async` and `on_error` of nodes: one visit each.

Strategy: `_run` opens a frame, unless the innermost frame is this very node's: then a
subclass's `_run` has called its parent's. Whatever runs inside recognises the frame
by its owner, so that calls outside of a recorded execution pass through untouched.
"""

from __future__ import annotations

from typing import Any, Final

from kaywatch._instrument.naming import MAX_ACTION, NAME, action_name, given_name, kinds
from kaywatch._instrument.wrapping import Function, Pair, trouble
from kaywatch._process import process
from kaywatch._spans import events as _events
from kaywatch._spans.frames import Frame, current_frame, current_run
from kaywatch.wire import Outcome

__all__ = ["ON_ERROR", "RUN", "answered"]

SUPPRESSED: Final = Outcome.SUPPRESSED.value

_frame: Final = current_frame.get
_run: Final = current_run.get
_nodes: Final = kinds.nodes


def _run_plain(original: Function) -> Function:
    def run(self: Any, shared: Any) -> Any:
        outer = _frame()
        if outer is not None and outer.owner is self:
            return original(self, shared)
        frame = _enter(self, outer, shared)
        if frame is None:
            return original(self, shared)
        try:
            action = original(self, shared)
        except BaseException as error:
            frame.close(error)
            raise
        if action is not None:
            usual = type(action) is str and 0 < len(action) <= MAX_ACTION
            frame.action = action if usual else action_name(action)
        frame.close()
        return action

    return run


def _run_waiting(original: Function) -> Function:
    async def run(self: Any, shared: Any) -> Any:
        outer = _frame()
        if outer is not None and outer.owner is self:
            return await original(self, shared)
        frame = _enter(self, outer, shared)
        if frame is None:
            return await original(self, shared)
        try:
            action = await original(self, shared)
        except BaseException as error:
            frame.close(error)
            raise
        if action is not None:
            usual = type(action) is str and 0 < len(action) <= MAX_ACTION
            frame.action = action if usual else action_name(action)
        frame.close()
        return action

    return run


RUN: Final = Pair(_run_plain, _run_waiting, 2)


def _on_error(original: Function) -> Function:
    def on_error(self: Any, shared: Any, error: Any) -> Any:
        suppressed = original(self, shared, error)
        try:
            if suppressed:
                answered(self, SUPPRESSED, error)
        except Exception:  # noqa: BLE001 - of a `__bool__`; the framework meets it too
            trouble(f"on_error of {type(self).__name__}")
        return suppressed

    return on_error


# KayGraph's, which may swallow an error. It is never awaited.
ON_ERROR: Final = Pair(_on_error, _on_error, 3)


def answered(node: Any, outcome: int, error: object) -> None:
    """Note that a node answered an error in place of an exception."""
    frame = _frame()
    if frame is not None and frame.owner is node:
        frame.answered(outcome, error)


def _enter(node: Any, outer: Frame | None, shared: object) -> Frame | None:
    """Open the frame of a node, None if it isn't to be recorded."""
    try:
        cls = type(node)
        kind = _nodes.get(id(cls)) or kinds.node(cls)
        if kind is None or not process.settings.enabled:
            return None
        run = _run()
        graph = run.graph if run is not None else ""
        own = node.__dict__
        name = None
        if "node_id" in own or NAME in own or kind.identified:
            name = given_name(node, kind)
        if name is None:
            series = kind.series.get(graph) or kind.series_in(graph)
        else:
            series = process.recorder.series(graph, name)
        frame = Frame(series, run, outer, node)
        if _events.listener is not None:
            frame.tell(shared)
    except Exception:  # noqa: BLE001 - the application goes on without us
        trouble(f"node {type(node).__name__}")
        return None
    else:
        return frame
