"""Says in the log what each node and run does: the listener of the instrumentation.

Strategy: a line is written by the logger named by the node's class, as KayGraph does,
and that logger's level is looked at before anything else.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Final, ParamSpec

from kaywatch._instrument.patching import is_graph
from kaywatch._process import process
from kaywatch._spans.runs import Run
from kaywatch._spans.spans import Span
from kaywatch._wrappers import warn_once
from kaywatch.logs._payloads import keys_of, params_of
from kaywatch.logs._places import (
    NOWHERE,
    Place,
    Source,
    caller,
    passed_a_node,
    raised,
    sources,
)
from kaywatch.logs._records import (
    Fields,
    cause_of,
    ended_fields,
    error_fields,
    node_fields,
    run_fields,
    write,
)
from kaywatch.wire import EndReason, Outcome

__all__ = ["Lines"]

P = ParamSpec("P")

INFO: Final = logging.INFO
WARNING: Final = logging.WARNING
ERROR: Final = logging.ERROR

_ANSWERS: Final = {
    Outcome.SUPPRESSED: ("node_error_suppressed", "Error suppressed by on_error"),
    Outcome.FALLBACK: ("node_fallback", "Answered by exec_fallback"),
}
_BLOCK: Final = Source(logging.getLogger("kaywatch.execution"), NOWHERE, foreign=True)

_thread: Final = threading.local()


class Lines:
    """Writes a line for each event.

    Args:
        payloads: whether to show params and the keys of shared.
        tracebacks: whether to add the traceback to the line of a failure.
    """

    def __init__(self, *, payloads: bool, tracebacks: bool) -> None:
        self.payloads = payloads
        self.tracebacks = tracebacks

    # -- what instrumentation calls ------------------------------------------------

    def node_started(self, span: Span, shared: object) -> None:
        """Log the start, and before it the graph's, or how the run came here."""
        run = span.run
        if run is not None and span.is_visit:
            source = _source_of(run)
            if source.logger.isEnabledFor(INFO):
                _apart(self._stepped, source, run, span.series.node)
        source = _source(span.owner)
        if source.logger.isEnabledFor(INFO):
            _apart(self._started, source, span, shared)

    def node_retried(self, span: Span, error_type: str, message: str) -> None:
        """Log that `exec` is called again."""
        source = _source(span.owner)
        if source.logger.isEnabledFor(WARNING):
            _apart(self._retried, source, span, error_type, message)

    def node_ended(
        self, span: Span, node: object, seconds: float, error: BaseException | None
    ) -> None:
        """Log how an execution ended."""
        if isinstance(error, GeneratorExit):
            return  # perhaps from within the garbage collector: no place to take locks
        source = _source(node)
        if error is not None:
            level = ERROR if isinstance(error, Exception) else WARNING
            if source.logger.isEnabledFor(level):
                _apart(self._failed, source, level, span, node, seconds, error)
            return
        if span.answer is not None and source.logger.isEnabledFor(WARNING):
            _apart(self._answered, source, span)
        if source.logger.isEnabledFor(INFO):
            _apart(self._completed, source, span, seconds)

    def run_ended(
        self, run: Run, seconds: float, reason: str, error: BaseException | None
    ) -> None:
        """Log how a run ended, and that it had to end if no action matched."""
        if isinstance(error, GeneratorExit):
            return  # as above
        source = _source_of(run)
        dead_end = reason == EndReason.UNMATCHED_ACTION
        if dead_end and source.logger.isEnabledFor(WARNING):
            _apart(self._dead_end, source, run)
        if source.logger.isEnabledFor(ERROR if error is not None else INFO):
            _apart(self._run_ended, source, run, seconds, reason, error)

    # -- inside ----------------------------------------------------------------------

    def _stepped(self, source: Source, run: Run, node: str) -> None:
        if run.visits:
            fields = run_fields("node_transition", run)
            fields |= {"node_id": run.node, "action": run.action, "next_node_id": node}
            text = "Graph %s: Transition %s -> %s on action: %r"
            args = [run.graph, run.node, node, run.action]
        else:
            # Only now: a batch's `_run` looks like a run until its items have theirs.
            fields = run_fields("graph_execution_start", run)
            outer = run.parent
            if isinstance(outer, Span) and outer.run is not None:
                fields["parent_run_id"] = process.recorder.run_id(outer.run.number)
            text = "Graph %s: Starting execution"
            args = [run.graph]
            # Looked for once: the stack is walked for it.
            run.listener_state = source = Source(
                source.logger, _place(source), foreign=False
            )
        write(source.logger, INFO, _place(source), text, args, fields)

    def _started(self, source: Source, span: Span, shared: object) -> None:
        fields = node_fields("node_execution_start", span)
        text, args = "Node %s: Starting execution", [span.series.node]
        if self.payloads:
            fields |= _payloads(span.owner, shared)
            if "params" in fields:
                text += " with params: %s"
                args.append(fields["params"])
        write(source.logger, INFO, _place(source), text, args, fields)

    def _retried(
        self, source: Source, span: Span, error_type: str, message: str
    ) -> None:
        fields = node_fields("node_retry", span)
        fields |= {
            "attempt": span.attempts,
            "error": message,
            "error_type": error_type,
        }
        text = "Node %s: Retrying execution (attempt %d) after %s"
        args = [span.series.node, span.attempts, cause_of(error_type, message)]
        write(source.logger, WARNING, _place(source), text, args, fields)

    def _completed(self, source: Source, span: Span, seconds: float) -> None:
        fields = ended_fields("node_execution_success", span, seconds)
        text = "Node %s: Completed in %.3fs with action: %r"
        args = [span.series.node, seconds, span.action]
        if span.attempts > 1:
            text += " (attempts: %d)"
            args.append(span.attempts)
        write(source.logger, INFO, _place(source), text, args, fields)

    def _run_ended(
        self,
        source: Source,
        run: Run,
        seconds: float,
        reason: str,
        error: BaseException | None,
    ) -> None:
        # A node has told of its failure; whose own it is, the graph tells.
        alone = isinstance(error, Exception) and not passed_a_node(error)
        level = ERROR if alone else INFO
        if not source.logger.isEnabledFor(level):
            return
        fields = run_fields("graph_execution_end", run)
        fields |= {
            "duration": round(seconds, 6),
            "outcome": _outcome(error),
            "reason": reason,
            "node_id": run.node,
            "action": run.action,
            "visits": run.visits,
        }
        text = "Graph %s: Completed in %.3fs with final action: %r"
        args = [run.graph, seconds, run.action]
        place = _place(source)
        if error is not None:
            fields |= error_fields(error)
            what = "Failed" if isinstance(error, Exception) else "Cancelled"
            text = f"Graph %s: {what} after %.3fs at node %r: %s"
            cause = cause_of(fields["error_type"], fields["error"])
            args = [run.graph, seconds, run.node, cause]
            place = raised(error, place) if alone else place
        shown = error if alone and self.tracebacks else None
        write(source.logger, level, place, text, args, fields, shown)

    def _dead_end(self, source: Source, run: Run) -> None:
        fields = run_fields("graph_dead_end", run)
        fields |= {
            "node_id": run.node,
            "action": run.action,
            "available_actions": list(run.available_actions),
        }
        text = "Graph %s: No transition from %s on action: %r (available: %s)"
        args = [run.graph, run.node, run.action, fields["available_actions"]]
        write(source.logger, WARNING, _place(source), text, args, fields)

    def _answered(self, source: Source, span: Span) -> None:
        answer = _ANSWERS.get(Outcome(span.outcome))
        if answer is None or span.answer is None:
            return
        event, what = answer
        (error_type, phase), message = span.answer
        fields = node_fields(event, span)
        fields |= {"phase": phase, "error": message, "error_type": error_type}
        text = f"Node %s: {what}: %s"
        args = [span.series.node, cause_of(error_type, message)]
        write(source.logger, WARNING, _place(source), text, args, fields)

    def _failed(
        self,
        source: Source,
        level: int,
        span: Span,
        node: object,
        seconds: float,
        error: BaseException,
    ) -> None:
        failed = level == ERROR
        event = "node_execution_error" if failed else "node_execution_cancelled"
        fields = ended_fields(event, span, seconds) | error_fields(error)
        what = "Failed" if failed else "Cancelled"
        text = f"Node %s: {what} after %.3fs in %s: %s"
        cause = cause_of(fields["error_type"], fields["error"])
        args = [span.series.node, seconds, fields["phase"], cause]
        place = raised(error, source.place)
        told = is_graph(type(node)) or passed_a_node(error, node)
        shown = error if failed and self.tracebacks and not told else None
        write(source.logger, level, place, text, args, fields, shown)


def _apart(describe: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Keep errors from the application, and a line from calling for another one.

    A handler may run a node: that node's lines would meet the handler again.
    """
    if getattr(_thread, "telling", False):
        return
    _thread.telling = True
    try:
        describe(*args, **kwargs)
    except Exception:  # noqa: BLE001 - of a filter, a record factory, a `repr`
        with contextlib.suppress(Exception):  # those meet this line as well
            warn_once("the log of nodes")
    finally:
        _thread.telling = False


# -- who logs, and from where ------------------------------------------------------


def _source(owner: object) -> Source:
    return _BLOCK if owner is None else sources.of(type(owner))


def _source_of(run: Run) -> Source:
    """Return who logs of a run, kept with it since the graph is let go at its end."""
    source = run.listener_state
    if isinstance(source, Source):
        return source
    if run.owner is not None:
        run.listener_state = source = sources.of(type(run.owner))
        return source
    # No node ran: its name begins with its class's.
    return Source(logging.getLogger(run.graph.partition("[")[0]), NOWHERE, foreign=True)


def _place(source: Source) -> Place:
    """Return where the application's class is, or where it called the framework's."""
    return caller(source.place) if source.foreign else source.place


def _payloads(node: object, shared: object) -> Fields:
    found = {"params": params_of(node), "shared_keys": keys_of(shared)}
    return {key: value for key, value in found.items() if value is not None}


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "ok"
    return "error" if isinstance(error, Exception) else "cancelled"
