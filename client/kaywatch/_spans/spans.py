"""Executions of nodes in progress: `observe` attributes its values to them.

A span is opened when a node starts and closed when it ends. The innermost span of a
thread or task is in a contextvar, so threads and tasks never see each other's spans.

At most one listener, such as logging, is notified of each start and end. Without one,
each notification costs a look at a global of this module.
"""

from __future__ import annotations

import time
from contextvars import ContextVar, Token
from typing import Any, Final, Protocol

from kaywatch._process import process
from kaywatch._spans.details import OK, CaughtError, SpanDetails
from kaywatch._spans.failures import describe_failure
from kaywatch._spans.runs import MAX_ACTION, Run, action_name
from kaywatch.recorder import ErrorKey, ExecutionInFlight, Series
from kaywatch.wire import Outcome, Phase

__all__ = [
    "TRYING",
    "Listener",
    "Span",
    "current_span",
    "listen",
    "open_span",
    "watched_spans",
]

# Plain values of the enum: looking a member up costs more than recording it.
PREP: Final = Phase.PREP.value
EXEC: Final = Phase.EXEC.value
POST: Final = Phase.POST.value

RETRIED: Final = "retried_errors"  # counts the errors that a retry answered, by type

# Times that are true and before any other.
BEFORE: Final = -1.0  # of `Span.exec_ended`
TRYING: Final = -1.0  # of `Span.failed_at`


class Span:
    """One execution of one node, in progress; `open_span` makes it.

    Attributes:
        owner: the node object while it runs, by which instrumentation recognizes its
            own spans. Released at the end, because contexts outlive spans.
        run: the run of a graph in which it takes place.
        is_visit: whether that graph's loop called the node, rather than another node.
        started: when the span was opened, as are all times by `time.perf_counter`.
        exec_started: when `_exec` was entered first, 0.0 before.
        exec_ended: when `_exec` was left last, 0.0 within it, and BEFORE before it.
        failed_at: when the last call of `exec` failed, 0.0 if it didn't, and TRYING
            within one.
        action: what `post` returned.
        details: data that only some executions have; None until this one has it.
    """

    __slots__ = (
        "action",
        "details",
        "exec_ended",
        "exec_started",
        "failed_at",
        "is_visit",
        "owner",
        "run",
        "series",
        "started",
        "token",
    )

    series: Series
    run: Run | None
    owner: object
    is_visit: bool
    started: float
    exec_started: float
    exec_ended: float
    failed_at: float
    action: str
    details: SpanDetails | None
    token: Token[Span | None]

    def in_flight(self) -> ExecutionInFlight:
        """Return which node is executed, and since when."""
        run, epoch = self.run, _time() - _clock()
        return ExecutionInFlight(
            self.series.graph,
            self.series.node,
            epoch + self.started,
            0 if run is None else run.number,
            0 if run is None else run.visits,
            0.0 if run is None else epoch + run.started,
            self.failed_attempts(),
            *self.run_cost(),
            "" if run is None else run.trace_id,
        )

    def run_cost(self) -> tuple[float, float, float]:
        """Return what the LLM calls of its run have cost up to now.

        These are US dollars, tokens, and the tokens without a price.
        """
        return (0.0, 0.0, 0.0) if self.run is None else self.run.cost_so_far()

    def failed_attempts(self) -> int:
        """Return how many calls of `exec` in its run failed in a row up to now."""
        before = self.run.failed_in_a_row() if self.run and self.is_visit else 0
        if not self.failed_at:
            # An `exec` that succeeded ends the row.
            return 0 if self.exec_ended > 0.0 else before
        return before + self.attempts - 1 + (self.failed_at > 0.0)

    @property
    def phase(self) -> str:
        """The part of the node that is executed, for the record of a failure."""
        if not self.exec_started:
            return PREP
        return POST if self.exec_ended else EXEC

    @property
    def attempts(self) -> int:
        """Calls of `exec` beyond the first plus one; 1 without retries."""
        return self.details.attempts if self.details is not None else 1

    @property
    def outcome(self) -> int:
        """How the execution ended, once it has."""
        return self.details.outcome if self.details is not None else OK

    @property
    def answer(self) -> tuple[ErrorKey, str] | None:
        """The failure that ended it or was answered in it, and the message."""
        return self.details.answer if self.details is not None else None

    def ensure_details(self) -> SpanDetails:
        """Return the details, made at first use."""
        if self.details is None:
            self.details = SpanDetails()
        return self.details

    def enter_exec(self) -> None:
        """Note that `_exec` starts, or is entered again."""
        self.exec_ended = 0.0
        if not self.exec_started:
            self.exec_started = _clock()

    def leave_exec(self) -> None:
        """Note that `_exec` ends, unless it is entered again."""
        self.exec_ended = _clock()

    def record_answer(self, outcome: int, error: object) -> None:
        """Note that `error` was answered inside the node, in the current phase.

        Its type and message are read at once: keeping the exception would keep alive
        everything that its traceback refers to.
        """
        details = self.ensure_details()
        details.outcome = outcome
        if isinstance(error, BaseException):
            kind, message, trace = CaughtError.of(error, process.settings.failures)
            details.answer = (kind, self.phase), message
            details.traceback = trace

    def record_failed_attempt(self, error: BaseException) -> None:
        """Note that a call of `exec` failed: the next one is a retry."""
        watched_spans.add(self)
        self.failed_at = _clock()
        failure = CaughtError.of(error, process.settings.failures)
        self.ensure_details().last_failure = failure
        self.waste_cost()

    def count_retry(self) -> None:
        """Count a call of `exec` after one that failed, and record that failure."""
        details = self.ensure_details()
        details.wait_seconds += _clock() - self.failed_at
        kind, message, trace = details.last_failure
        recorder, series = process.recorder, self.series
        # All are counted, and the details of some are kept.
        recorder.point("count", RETRIED, series.graph, series.node, {"type": kind})(1)
        failure = describe_failure(
            self.series, self.run, details, (kind, EXEC), message
        )
        recorder.add_retried_failure(failure._replace(outcome=OK, traceback=trace))
        details.attempts += 1
        if listener is not None:
            listener.node_retried(self, kind, message)

    def notify_started(self, shared: object = None) -> None:
        """Notify the listener, if there is one, that the node starts."""
        if listener is None:
            return
        try:
            listener.node_started(self, shared)
        except BaseException as error:
            # An interrupt: nothing else would close this span.
            self.close(error=error)
            raise

    def waste_cost(self) -> None:
        """Count the LLM costs of the attempt as wasted: an exception left it."""
        details = self.details
        if details is not None and details.cost is not None:
            cost, details.cost = details.cost, None
            cost.waste()

    def pass_on_cost(self) -> None:
        """Add the LLM costs of the attempt, which succeeded, to the enclosing one."""
        if self.details is not None and self.details.cost is not None:
            self.details.cost.close()

    def close(self, action: Any = None, error: BaseException | None = None) -> None:
        """Record the execution, which ends now.

        This is a third of what a visit costs, so little of it is in other functions.

        Args:
            action: what `post` returned; None for the action that is set already.
            error: the exception that leaves the node, if any.
        """
        ended = _clock()
        try:  # noqa: SIM105 - a `with` on the hot path costs too much
            _reset_span(self.token)
        except ValueError:
            # Closed in another context than it was opened in, as when the garbage
            # collector closes a coroutine. That context is gone anyway.
            pass
        _in_flight.discard(self)
        owner, self.owner = self.owner, None
        # Most nodes return None or the literal "default", which is set already.
        if action is not None and action is not self.action:
            is_plain = type(action) is str and 0 < len(action) <= MAX_ACTION
            self.action = action if is_plain else action_name(action)
        if error is not None:
            self._record_error(error)
        run, series, action = self.run, self.series, self.action
        if run is not None and self.is_visit:
            run.visits += 1
            node = run.node = series.node
            counts = run.counts
            counts[node] = counts[node] + 1 if node in counts else 1
            run.action = action
        if self.details is not None or self.exec_ended <= 0.0:
            self._record(ended)
        else:
            number, started = series.number, self.started
            visit = number, ended, started, self.exec_started, self.exec_ended, action
            # As `EventBuffer.record`, without the 50 ns of a call.
            if len(_visits) < _watermark[0]:
                _extend(visit)
            else:
                _record_visit(visit)
        if listener is not None:
            listener.node_ended(self, owner, ended - self.started, error)

    def phases(self, ended: float) -> tuple[float, float, float] | None:
        """Return the seconds of `prep`, `exec` and waiting, None if they are unknown.

        The rest of the execution belongs to `post`. If an error ended it, the rest
        belongs to the phase that raised the error.
        """
        details = self.ensure_details()
        if not self.exec_started:
            # A `_run` that the application overrides need not call `_exec`.
            failed = details.outcome != OK
            return (ended - self.started, 0.0, 0.0) if failed else None
        exec_seconds = (self.exec_ended or ended) - self.exec_started
        details.add_items(exec_seconds)
        waited = min(details.wait_seconds, exec_seconds)
        return self.exec_started - self.started, exec_seconds - waited, waited

    def _record(self, ended: float) -> None:
        """Record an execution without phases, or with details."""
        seconds = ended - self.started
        if self.details is None and not self.exec_started:
            if self.action == "default":
                self.series.record_plain(seconds)
            else:
                self.series.record(seconds, action=self.action)
            return
        watched_spans.discard(self)
        phases, details = self.phases(ended), self.ensure_details()
        key, message = details.answer or (None, "")
        execution = seconds, details.outcome, details.attempts, self.action, key
        if phases is None:
            self.series.record(*execution)
        else:
            event = self.series.number, _time(), *execution, *phases, details.items
            process.recorder.pending.phased.record(event)
        if key is not None and details.outcome != Outcome.CANCELLED:
            if self.run and self.is_visit:
                self.run.add_failures(details.attempts)
            failure = describe_failure(
                self.series, self.run, details, key, message, seconds
            )
            process.recorder.add_failure(failure)

    def _record_error(self, error: BaseException) -> None:
        # CancelledError, KeyboardInterrupt, GeneratorExit and SystemExit are not
        # Exceptions: they interrupt an execution, it does not fail.
        failed = isinstance(error, Exception)
        self.record_answer(Outcome.ERROR if failed else Outcome.CANCELLED, error)
        self.action = ""
        self.waste_cost()


def open_span(
    series: Series,
    run: Run | None = None,
    outer: Span | None = None,
    owner: object = None,
    cls: type[Span] = Span,
) -> Span:
    """Open a span of the class `cls`, within the current one, which is `outer`.

    A constructor's frame would cost another 60 ns in Python 3.11 and 3.12.
    """
    span = cls()
    span.series = series
    span.run = run
    span.owner = owner
    span.exec_started = 0.0
    span.exec_ended = BEFORE
    span.failed_at = 0.0
    span.action = "default"
    span.details = None
    span.is_visit = run is not None and outer is run.parent
    span.started = _clock()
    _in_flight.add(span)
    span.token = _set_span(span)
    return span


class Listener(Protocol):
    """Is notified on the application's threads, and must not raise an Exception.

    Anything else that it raises, such as a KeyboardInterrupt, reaches the application.
    """

    def node_started(self, span: Span, shared: object) -> None:
        """Handle the start of a node, within its context.

        Args:
            span: of the execution; `owner` is the node. Its run still has the previous
                node and action, or no visits if it starts here.
            shared: the argument of the node's `_run`; None for a block.
        """

    def node_retried(self, span: Span, error_type: str, message: str) -> None:
        """Handle a retry of `exec`, which `span.attempts` includes.

        Args:
            span: of the execution, or of one item of a batch.
            error_type: of the exception that the previous call raised.
            message: of that exception.
        """

    def node_ended(
        self, span: Span, node: object, seconds: float, error: BaseException | None
    ) -> None:
        """Handle the end of a node, recorded and outside of its context.

        Args:
            span: of the execution, with its details, action and attempts.
            node: the object, which the span has released.
            seconds: the duration.
            error: the exception that leaves the node, if any.
        """

    def run_ended(
        self, run: Run, seconds: float, reason: str, error: BaseException | None
    ) -> None:
        """Handle the end of a run, which has been recorded.

        Args:
            run: with its last node and action, and the `available_actions`.
            seconds: the duration.
            reason: a `wire.EndReason`'s value.
            error: the exception that leaves the run, if any.
        """


listener: Listener | None = None


def listen(new: Listener | None) -> None:
    """Replace the listener; None removes it."""
    global listener  # noqa: PLW0603 - the quickest thing to look at
    listener = new


class _Spans(set[Span]):
    """Spans, as a constant of code: those must be hashable."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]


# In progress, with several attempts: batches, and those of which an attempt has failed.
watched_spans: Final = _Spans()

current_span: ContextVar[Span | None] = ContextVar("kaywatch_span", default=None)

# The process has one recorder for as long as it lives.
_in_flight: Final = process.recorder.in_flight
_visits: Final = process.recorder.pending.visits.flat
_watermark: Final = process.recorder.pending.visits.watermark
_extend: Final = _visits.extend
_record_visit: Final = process.recorder.pending.visits.record
_time: Final = time.time
_clock: Final = time.perf_counter
_set_span: Final = current_span.set
_reset_span: Final = current_span.reset
