"""The details of failed executions, for the record."""

from __future__ import annotations

import time

from kaywatch._process import process
from kaywatch._spans.details import SpanDetails
from kaywatch._spans.runs import Run
from kaywatch._traces import current_trace_id
from kaywatch.recorder import ErrorKey, Failure, Series

__all__ = ["describe_failure"]


def describe_failure(
    series: Series,
    run: Run | None,
    details: SpanDetails,
    key: ErrorKey,
    message: str,
    seconds: float = 0.0,
) -> Failure:
    """Return the details of a failure that happens now.

    Args:
        series: of the node.
        run: in which it is executed.
        details: of the execution.
        key: the type of the exception, and the phase.
        message: of the exception.
        seconds: the duration of the execution; 0 if it has not ended.
    """
    now = time.time()
    return Failure(
        time=now,
        graph=series.graph,
        node=series.node,
        type=key[0],
        message="" if process.settings.failures == "type" else message,
        phase=key[1],
        attempts=details.attempts,
        outcome=int(details.outcome),
        run=process.recorder.run_ids.text(run.number) if run else "",
        traceback=details.traceback,
        seconds=seconds,
        run_start=now - time.perf_counter() + run.started if run else 0.0,
        visits=run.visits if run else 0,
        path=run.path() if run else (),
        path_visits=run.path_visits() if run else (),
        # The node may have ended the trace's last span in this thread.
        trace_id=current_trace_id() or (run.trace_id if run else ""),
    )
