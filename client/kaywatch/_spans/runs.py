"""Runs of graphs in progress, the innermost one of each thread or task."""

from __future__ import annotations

import time
from contextvars import ContextVar, Token
from typing import Final, Protocol

from kaywatch._process import process
from kaywatch._traces import current_trace_id
from kaywatch.recorder import RunVisits
from kaywatch.wire import EndReason, Outcome

__all__ = ["MAX_ACTION", "Run", "action_name", "current_run"]

# Plain values of the enums: looking a member up costs more than recording it.
_OK: Final = Outcome.OK.value
_UNKNOWN: Final = EndReason.UNKNOWN.value

MAX_ACTION: Final = 100

# Nodes of a path that a failure carries.
MAX_PATH: Final = 50


def action_name(action: object) -> str:
    """Return the name of an action that isn't None, without looking into it."""
    if not isinstance(action, str):
        return f"<{type(action).__name__}>"[:MAX_ACTION]
    # An empty one takes the default edge, as None does. Not `action[:100]`: a
    # subclass may override it.
    return str.__getitem__(action, slice(MAX_ACTION)) or "default"


class CostOfRun(Protocol):
    """Adds up the costs of a run."""

    def so_far(self) -> tuple[float, float, float]:
        """Return the dollars, the tokens, and the tokens without a price up to now."""
        ...

    def end(self) -> None:
        """Record the costs: the run has ended."""


class Run:
    """One execution of a graph, from entry to end.

    Attributes:
        owner: the graph object while it runs, by which instrumentation recognizes its
            own runs. Released at the end, because contexts outlive runs.
        parent: the innermost span when the run was opened. A node that starts while
            that span is the innermost one was called by the graph's own loop.
        visits: how many executions of nodes that loop has made so far.
        counts: the same for each node, by its name.
        node, action: the last node that ended, and what its `post` returned.
        reason: why the run ended, as far as `get_next_node` revealed it.
        reason_visits: the number of visits when `reason` was set; the reason is out of
            date once there are more.
        available_actions: what would have led on, if there is a listener.
        listener_state: what the listener keeps with the run.
        cost: the cost of its LLM calls, if it made any.
        trace_id: of the application's trace in which it started; empty without one.
        failures: how many calls of `exec` had failed in a row when `failures_at` visits
            were made; a later visit that did not fail makes them out of date.
    """

    visits = 0
    failures = 0
    failures_at = 0
    node = ""
    action = ""
    reason: str = _UNKNOWN
    reason_visits = 0
    available_actions: tuple[str, ...] = ()
    listener_state: object = None
    cost: CostOfRun | None = None

    def __init__(self, graph: str, owner: object = None, parent: object = None) -> None:
        self.graph = graph
        self.owner = owner
        self.parent = parent
        self.counts: dict[str, int] = {}
        self.trace_id = current_trace_id()
        self.number = _next_number()
        self.token: Token[Run | None] = _set_run(self)
        self.started = _clock()
        _runs.add(self)
        _ensure_sender()

    def set_reason(self, reason: str) -> None:
        """Note why the loop ends after the visits so far."""
        self.reason = reason
        self.reason_visits = self.visits

    def failed_in_a_row(self) -> int:
        """Return how many calls of `exec` have failed since the last success."""
        return self.failures if self.failures_at == self.visits else 0

    def add_failures(self, attempts: int) -> None:
        """Note that all attempts of the visit that was counted last failed."""
        # Only a failure costs something: a success is the absence of one.
        before = self.failures if self.failures_at == self.visits - 1 else 0
        self.failures, self.failures_at = before + attempts, self.visits

    def path(self) -> tuple[str, ...]:
        """Return the visited nodes in the order of their first visits, the last 50."""
        return tuple(self.counts)[-MAX_PATH:]

    def path_visits(self) -> tuple[int, ...]:
        """Return the visits of each node of the path; empty if it was once each."""
        if self.visits == len(self.counts):
            return ()
        return tuple(self.counts.values())[-MAX_PATH:]

    def revisits(self) -> RunVisits | None:
        """Return the visits of each node, None while no node was visited twice."""
        if self.visits == len(self.counts):
            return None
        return RunVisits(self.graph, self.number, self.visits, self.counts)

    def cost_so_far(self) -> tuple[float, float, float]:
        """Return the dollars, the tokens, and the tokens without a price up to now."""
        return self.cost.so_far() if self.cost is not None else (0.0, 0.0, 0.0)

    def leave(self) -> None:
        """Make the run around this one the current run again."""
        _runs.discard(self)
        try:  # noqa: SIM105 - see Span.close
            _reset_run(self.token)
        except ValueError:
            pass
        self.owner = None
        self.parent = self  # not a span: this loop calls no further nodes

    def close(self, error: BaseException | None = None) -> tuple[float, str]:
        """Record that the run ends now.

        Args:
            error: the exception that leaves it, if any.

        Returns:
            Its seconds, and an `EndReason`'s value.
        """
        seconds = _clock() - self.started
        outcome = _OK
        reason = self.reason if self.reason_visits == self.visits else _UNKNOWN
        if error is not None:
            failed = isinstance(error, Exception)
            outcome = (Outcome.ERROR if failed else Outcome.CANCELLED).value
            reason = (EndReason.ERROR if failed else EndReason.CANCELLED).value
        _run_ended(
            self.graph, seconds, outcome, reason, self.node, self.action, self.visits
        )
        if self.visits != len(self.counts):
            process.recorder.revisits.add(self.graph, self.counts)
        if self.cost is not None:
            self.cost.end()
        return seconds, reason


current_run: ContextVar[Run | None] = ContextVar("kaywatch_run", default=None)

_runs: Final = process.recorder.runs
_next_number: Final = process.recorder.run_ids.next_number
_ensure_sender: Final = process.recorder.ensure_sender
_run_ended: Final = process.recorder.run_ended
_clock: Final = time.perf_counter
_set_run: Final = current_run.set
_reset_run: Final = current_run.reset
