"""Logs each start, retry and end of a node, and each start, step and end of a run.

Strategy: the instrumentation notifies an `EventLogger`. As in KayGraph, the logger of
an event is named after the node's class. An event is formatted only if its logger is
enabled for the level.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Concatenate, Final, ParamSpec

from kaywatch._instrument.patching import is_graph
from kaywatch._process import process
from kaywatch._spans.runs import Run
from kaywatch._spans.spans import Span
from kaywatch._wrappers import warn_once
from kaywatch.logs._payloads import keys_of, params_of
from kaywatch.logs._places import (
    NOWHERE,
    LogSource,
    Place,
    caller,
    has_passed_node,
    raised_at,
    source_of,
)
from kaywatch.logs._records import (
    LogEvent,
    ended_fields,
    error_fields,
    node_fields,
    run_end_fields,
    run_fields,
    write,
)
from kaywatch.wire import EndReason, Outcome

__all__ = ["EventLogger"]

P = ParamSpec("P")

INFO: Final = logging.INFO
WARNING: Final = logging.WARNING
ERROR: Final = logging.ERROR

_HANDLED: Final = {
    Outcome.SUPPRESSED: ("node_error_suppressed", "Error suppressed by on_error"),
    Outcome.FALLBACK: ("node_fallback", "Answered by exec_fallback"),
}
_BLOCK: Final = LogSource(logging.getLogger("kaywatch.execution"), NOWHERE, True)

_thread: Final = threading.local()


class EventLogger:
    """The instrumentation's listener that logs each event.

    Args:
        payloads: whether to show params and the keys of shared.
        tracebacks: whether to add the traceback to a failure.
    """

    def __init__(self, *, payloads: bool, tracebacks: bool) -> None:
        self.payloads = payloads
        self.tracebacks = tracebacks

    # -- called by the instrumentation -----------------------------------------------

    def node_started(self, span: Span, shared: object) -> None:
        """Log the start, and before it the graph's start or the transition."""
        run = span.run
        if run is not None and span.is_visit:
            describe = self._transition if run.visits else self._run_start
            _log(INFO, _run_source(run), describe, run, span.series.node)
        _log(INFO, _node_source(span.owner), self._start, span, shared)

    def node_retried(self, span: Span, error_type: str, message: str) -> None:
        """Log that `exec` is called again."""
        source = _node_source(span.owner)
        _log(WARNING, source, self._retry, span, error_type, message)

    def node_ended(
        self, span: Span, node: object, seconds: float, error: BaseException | None
    ) -> None:
        """Log how an execution ended."""
        if isinstance(error, GeneratorExit):
            return  # the garbage collector may have called this; no lock may be taken
        source = _node_source(node)
        if error is not None:
            level = ERROR if isinstance(error, Exception) else WARNING
            _log(level, source, self._failure, span, node, seconds, error)
            return
        if span.answer is not None:
            _log(WARNING, source, self._handled_error, span)
        _log(INFO, source, self._success, span, seconds)

    def run_ended(
        self, run: Run, seconds: float, reason: str, error: BaseException | None
    ) -> None:
        """Log how a run ended, and before it that no action matched."""
        if isinstance(error, GeneratorExit):
            return  # as above
        source = _run_source(run)
        if reason == EndReason.UNMATCHED_ACTION:
            _log(WARNING, source, self._dead_end, run)
        if error is None:
            _log(INFO, source, self._run_end, run, seconds, reason)
            return
        # A node's event has reported its failure; the graph reports only its own.
        own = isinstance(error, Exception) and not has_passed_node(error)
        level = ERROR if own else INFO
        _log(level, source, self._run_failure, run, seconds, reason, error, own)

    # -- descriptions ----------------------------------------------------------------

    def _run_start(self, source: LogSource, run: Run, _: str) -> LogEvent:
        # Logged with the first node: the `_run` of a batch looks like a run until its
        # items have their own.
        fields = run_fields(run) | {"node_id": ""}
        del fields["action"]  # no node has returned an action yet
        outer = run.parent
        if isinstance(outer, Span) and outer.run is not None:
            fields["parent_run_id"] = process.recorder.run_ids.text(outer.run.number)
        # Kept with the run, since finding the place walks the stack.
        place = _place(source)
        run.listener_state = LogSource(source.logger, place, is_framework=False)
        text = "Graph %(graph)s: Starting execution"
        return LogEvent("graph_execution_start", text, fields, place)

    def _transition(self, source: LogSource, run: Run, node: str) -> LogEvent:
        fields = run_fields(run) | {"next_node_id": node}
        text = (
            "Graph %(graph)s: Transition %(node_id)s -> %(next_node_id)s"
            " on action: %(action)r"
        )
        return LogEvent("node_transition", text, fields, _place(source))

    def _start(self, source: LogSource, span: Span, shared: object) -> LogEvent:
        fields, text = node_fields(span), "Node %(node_id)s: Starting execution"
        if self.payloads:
            shown = {"params": params_of(span.owner), "shared_keys": keys_of(shared)}
            fields |= {key: value for key, value in shown.items() if value is not None}
        if "params" in fields:
            text += " with params: %(params)s"
        return LogEvent("node_execution_start", text, fields, _place(source))

    def _retry(
        self, source: LogSource, span: Span, error_type: str, message: str
    ) -> LogEvent:
        text = (
            "Node %(node_id)s: Retrying execution (attempt %(attempt)d) after %(cause)s"
        )
        fields = node_fields(span)
        fields |= {"error": message, "error_type": error_type, "attempt": span.attempts}
        return LogEvent("node_retry", text, fields, _place(source))

    def _success(self, source: LogSource, span: Span, seconds: float) -> LogEvent:
        text = "Node %(node_id)s: Completed in %(duration).3fs with action: %(action)r"
        if span.attempts > 1:
            text += " (attempts: %(attempt)d)"
        fields = ended_fields(span, seconds)
        return LogEvent("node_execution_success", text, fields, _place(source))

    def _handled_error(self, source: LogSource, span: Span) -> LogEvent | None:
        handled = _HANDLED.get(Outcome(span.outcome))
        if handled is None or span.answer is None:
            return None
        event, text = handled
        (error_type, phase), message = span.answer
        fields = node_fields(span)
        fields |= {"error": message, "error_type": error_type, "phase": phase}
        return LogEvent(
            event, f"Node %(node_id)s: {text}: %(cause)s", fields, _place(source)
        )

    def _failure(
        self,
        source: LogSource,
        span: Span,
        node: object,
        seconds: float,
        error: BaseException,
    ) -> LogEvent:
        failed = isinstance(error, Exception)
        event = "node_execution_error" if failed else "node_execution_cancelled"
        verb = "Failed" if failed else "Cancelled"
        text = f"Node %(node_id)s: {verb} after %(duration).3fs in %(phase)s: %(cause)s"
        fields = ended_fields(span, seconds) | error_fields(error)
        # An inner node's event has the traceback.
        logged = is_graph(type(node)) or has_passed_node(error, node)
        shown = error if failed and self.tracebacks and not logged else None
        return LogEvent(event, text, fields, raised_at(error, source.place), shown)

    def _dead_end(self, source: LogSource, run: Run) -> LogEvent:
        fields = run_fields(run) | {"available_actions": list(run.available_actions)}
        text = (
            "Graph %(graph)s: No transition from %(node_id)s on action: %(action)r"
            " (available: %(available_actions)s)"
        )
        return LogEvent("graph_dead_end", text, fields, _place(source))

    def _run_end(
        self, source: LogSource, run: Run, seconds: float, reason: str
    ) -> LogEvent:
        text = (
            "Graph %(graph)s: Completed in %(duration).3fs"
            " with final action: %(action)r"
        )
        fields = run_end_fields(run, seconds, reason, "ok")
        return LogEvent("graph_execution_end", text, fields, _place(source))

    def _run_failure(
        self,
        source: LogSource,
        run: Run,
        seconds: float,
        reason: str,
        error: BaseException,
        own: bool,
    ) -> LogEvent:
        failed = isinstance(error, Exception)
        outcome, verb = ("error", "Failed") if failed else ("cancelled", "Cancelled")
        text = (
            f"Graph %(graph)s: {verb} after %(duration).3fs at node %(node_id)r:"
            " %(cause)s"
        )
        fields = run_end_fields(run, seconds, reason, outcome) | error_fields(error)
        place = _place(source)
        if own:
            place = raised_at(error, place)
        shown = error if own and self.tracebacks else None
        return LogEvent("graph_execution_end", text, fields, place, shown)


def _log(
    level: int,
    source: LogSource,
    describe: Callable[Concatenate[LogSource, P], LogEvent | None],
    *args: P.args,
    **kwargs: P.kwargs,
) -> None:
    """Log an event if its logger is enabled for the level.

    Errors of handlers do not reach the application. A handler may run a node itself:
    the events of that node are not logged, since the same handler would get them.
    """
    if not source.logger.isEnabledFor(level) or getattr(_thread, "logging", False):
        return
    _thread.logging = True
    try:
        event = describe(source, *args, **kwargs)
        if event is not None:
            write(source.logger, level, event)
    except Exception:  # noqa: BLE001 - of a filter, a record factory, a `repr`
        with contextlib.suppress(Exception):  # the warning may fail in the same filter
            warn_once("an event of a node or run", "cannot be logged")
    finally:
        _thread.logging = False


# -- which logger, and which line of code ----------------------------------------------


def _node_source(owner: object) -> LogSource:
    return _BLOCK if owner is None else source_of(type(owner))


def _run_source(run: Run) -> LogSource:
    """Return a run's source, kept with it since the graph is released at its end."""
    source = run.listener_state
    if isinstance(source, LogSource):
        return source
    if run.owner is not None:
        run.listener_state = source = source_of(type(run.owner))
        return source
    # No node has run. The graph's name begins with its class's name.
    return LogSource(logging.getLogger(run.graph.partition("[")[0]), NOWHERE, True)


def _place(source: LogSource) -> Place:
    """Return where the application's class is, or where it called the framework's."""
    return caller(source.place) if source.is_framework else source.place
