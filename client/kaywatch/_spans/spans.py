"""Executions and runs in progress: `observe` and its siblings attribute values to them.

A span is opened when a node starts and closed when it ends. The innermost one of a
thread or task is in a contextvar, so threads and tasks never see each other's.

A listener, such as logging, may be notified of each start and end. There is one or
none; without one, each notification costs a look at a module's global.
"""

from __future__ import annotations

import time
from contextvars import ContextVar, Token
from typing import Final, Protocol

from kaywatch._process import process
from kaywatch._spans.details import OK, SpanDetails, message_of, traceback_of
from kaywatch.recorder import ErrorKey, Failure, InFlight, RunVisits, Series
from kaywatch.wire import EndReason, Outcome, Phase

__all__ = ["TRYING", "Listener", "Run", "Span", "current_run", "current_span", "listen"]

# Plain values of the enums: looking a member up costs more than recording it.
PREP: Final = Phase.PREP.value
EXEC: Final = Phase.EXEC.value
POST: Final = Phase.POST.value
UNKNOWN: Final = EndReason.UNKNOWN.value

# Like times, these are true.
BEFORE: Final = -1.0  # of `Span.left`
TRYING: Final = -1.0  # of `Span.tried`


class CostOfRun(Protocol):
    """Adds up the costs of a run."""

    def end(self) -> None:
        """The run has ended: record its costs."""


class Run:
    """One execution of a graph, from entry to end.

    Attributes:
        owner: the graph object while it runs, for instrumentation to recognise its
            own runs; released at the end, since contexts outlive runs.
        parent: the span in which it was opened: what runs with that one innermost
            is called by the graph's own loop.
        visits: executions of nodes by that loop so far.
        counts: those of each node, by its name.
        node, action: the last node that ended, and what its `post` returned.
        reason: why it ended, once `get_next_node` or an exception told.
        epoch: the wall clock's time when the clock of `started` was 0.
        ended_at: the visits when `get_next_node` gave the reason.
        available: the actions that would have led on, if someone listens.
        noted: what the listener keeps with the run.
        cost: what its LLM calls cost, if it made any.
    """

    visits = 0
    node = ""
    action = ""
    reason: str = UNKNOWN
    ended_at = 0
    available: tuple[str, ...] = ()
    noted: object = None
    cost: CostOfRun | None = None

    def __init__(
        self, graph: str, owner: object = None, parent: Span | None = None
    ) -> None:
        self.graph = graph
        self.owner = owner
        self.parent: Span | Run | None = parent
        self.counts: dict[str, int] = {}
        self.number = process.recorder.next_number()
        self.token: Token[Run | None] = _set_run(self)
        self.started = _clock()
        self.epoch = _time() - self.started
        _runs.add(self)

    def ends(self, reason: str) -> None:
        """Note why the loop ends after the visits so far."""
        self.reason = reason
        self.ended_at = self.visits

    def revisits(self) -> RunVisits | None:
        """Return the visits of each node, None while no node was visited twice."""
        if self.visits == len(self.counts):
            return None
        return RunVisits(self.graph, self.number, self.visits, self.counts)

    def leave(self) -> None:
        """Give the context back to the run around this one."""
        _runs.discard(self)
        try:  # noqa: SIM105 - see Span.close
            _reset_run(self.token)
        except ValueError:
            pass
        self.owner = None
        self.parent = self  # no span: nothing is called by this loop any more

    def close(self, error: BaseException | None = None) -> None:
        """Record that the run ended now, with `error` if one leaves it."""
        seconds = _clock() - self.started
        outcome = OK
        reason = self.reason if self.ended_at == self.visits else UNKNOWN
        if error is not None:
            failed = isinstance(error, Exception)
            outcome = Outcome.ERROR if failed else Outcome.CANCELLED
            reason = EndReason.ERROR if failed else EndReason.CANCELLED
        process.recorder.run_ended(
            self.graph, seconds, outcome, reason, self.node, self.action, self.visits
        )
        if self.visits != len(self.counts):
            process.recorder.revisits.add(self.graph, self.counts)
        if self.cost is not None:
            self.cost.end()
        if listener is not None:
            listener.run_ended(self, seconds, str(reason), error)


class Span:
    """One execution of one node, under way.

    Attributes:
        owner: the node object while it runs, for instrumentation to recognise its own
            spans; released at the end, since contexts outlive spans.
        run: the run of a graph in which it takes place.
        visit: whether that graph's loop called it, rather than another node.
        started, entered, left: when the span was opened, and when its `_exec` was
            entered first and left last. `entered` is 0.0 before, and `left` is
            BEFORE then, and 0.0 within.
        tried: TRYING within a call of `exec`, else when it failed, 0.0 if it did not.
        action: what `post` returned.
        details: what only some executions have, once this one does.
    """

    __slots__ = (
        "action",
        "details",
        "entered",
        "left",
        "owner",
        "run",
        "series",
        "started",
        "token",
        "tried",
        "visit",
    )

    def __init__(
        self,
        series: Series,
        run: Run | None = None,
        outer: Span | None = None,
        owner: object = None,
    ) -> None:
        self.series = series
        self.run = run
        self.owner = owner
        self.entered = 0.0
        self.left = BEFORE
        self.tried = 0.0
        self.action = "default"
        self.details: SpanDetails | None = None
        self.started = _clock()
        self.visit = run is not None and outer is run.parent
        _in_flight.add(self)
        self.token: Token[Span | None] = _set_span(self)

    def in_flight(self) -> InFlight:
        """Return where this execution is under way, and since when."""
        run = self.run
        epoch = _time() - _clock() if run is None else run.epoch
        return InFlight(
            self.series.graph,
            self.series.node,
            epoch + self.started,
            0 if run is None else run.number,
            0 if run is None else run.visits,
        )

    @property
    def phase(self) -> str:
        """Where in the node we are, for a failure to name."""
        if not self.entered:
            return PREP
        return POST if self.left else EXEC

    @property
    def attempts(self) -> int:
        """Calls of `exec` beyond the first plus one; 1 without retries."""
        return self.details.attempts if self.details is not None else 1

    @property
    def outcome(self) -> int:
        """How it ended, once it has."""
        return self.details.outcome if self.details is not None else OK

    @property
    def answer(self) -> tuple[ErrorKey, str] | None:
        """The failure that it ended with, or that was answered in it; its message."""
        return self.details.answer if self.details is not None else None

    def enter(self) -> None:
        """Note that `_exec` starts, or goes on after it was left."""
        self.left = 0.0
        if not self.entered:
            self.entered = _clock()

    def leave(self) -> None:
        """Note that `_exec` ended, for all we know."""
        self.left = _clock()

    def answered(self, outcome: int, error: object) -> None:
        """Note that `error` was answered inside the node, where we are now.

        Its type and message are taken at once: keeping the exception would keep alive
        all that its traceback refers to.
        """
        details = self.detail()
        details.outcome = outcome
        if isinstance(error, BaseException):
            key = type(error).__name__, self.phase
            details.answer = key, message_of(error)
            if process.settings.failures == "traceback":
                details.traceback = traceback_of(error)

    def detail(self) -> SpanDetails:
        """Return the details, made at first use."""
        if self.details is None:
            self.details = SpanDetails()
        return self.details

    def fails(self, error: BaseException) -> None:
        """Note that a call of `exec` failed: another one would be a retry."""
        self.tried = _clock()
        message = message_of(error) if listener is not None else ""
        self.detail().failed = type(error).__name__, message
        self.waste()

    def repeat(self) -> None:
        """Count a call of `exec` after one that failed."""
        details = self.detail()
        details.waited += _clock() - self.tried
        details.attempts += 1
        if listener is not None:
            listener.node_retried(self, *details.failed)

    def tell(self, shared: object = None) -> None:
        """Tell the listener, if there is one, that the node starts."""
        if listener is None:
            return
        try:
            listener.node_started(self, shared)
        except BaseException as error:
            # An interrupt: nobody else would close this span.
            self.close(error)
            raise

    def waste(self) -> None:
        """Count what LLM calls cost the attempt as wasted: an exception left it."""
        details = self.details
        if details is not None and details.cost is not None:
            cost, details.cost = details.cost, None
            cost.waste()

    def keep(self) -> None:
        """Leave what LLM calls cost the attempt to the one around it: it went well."""
        if self.details is not None and self.details.cost is not None:
            self.details.cost.close()

    def close(self, error: BaseException | None = None) -> None:
        """Record the execution, which ends now, with `error` if one leaves it."""
        ended = _clock()
        try:  # noqa: SIM105 - a `with` on the hot path costs too much
            _reset_span(self.token)
        except ValueError:
            # Closed in another context than it was opened in, as when a coroutine's
            # garbage collection closes it; that context is gone anyway.
            pass
        _in_flight.discard(self)
        owner, self.owner = self.owner, None
        if error is not None:
            self._fail(error)
        run, series, action = self.run, self.series, self.action
        if run is not None and self.visit:
            run.visits += 1
            node = run.node = series.node
            counts = run.counts
            counts[node] = counts.get(node, 0) + 1
            run.action = action
        left = self.left
        if self.details is not None or left <= 0.0:
            self._record(ended)
        else:
            # Nearly always, and the same as `_record` does.
            started, entered = self.started, self.entered
            event = (
                series.number,
                _time(),
                ended - started,
                OK,
                1,
                action,
                None,
                entered - started,
                left - entered,
                0.0,
                0,
            )
            # As `PendingEvents.record` does, without the 50 ns of a call.
            if len(_phased) < _watermark[0]:
                _extend(event)
            else:
                _record_phased(event)
        if listener is not None:
            listener.node_ended(self, owner, ended - self.started, error)

    def phases(self, ended: float) -> tuple[float, float, float] | None:
        """Return the seconds of `prep`, `exec` and waiting, None if they aren't known.

        What is left of the execution belongs to `post`. If an error ended it, then the
        rest belongs to the phase that the error came from.
        """
        details = self.detail()
        if not self.entered:
            # A `_run` of the application's own need not call `_exec`.
            failed = details.outcome != OK
            return (ended - self.started, 0.0, 0.0) if failed else None
        within = (self.left or ended) - self.entered
        details.add_up(within)
        waited = min(details.waited, within)
        return self.entered - self.started, within - waited, waited

    def _record(self, ended: float) -> None:
        phases, details = self.phases(ended), self.detail()
        key = details.answer[0] if details.answer is not None else None
        seconds = ended - self.started
        usual = seconds, details.outcome, details.attempts, self.action, key
        if phases is None:
            self.series.record(*usual)
        else:
            event = self.series.number, _time(), *usual, *phases, details.items
            _record_phased(event)
        if details.answer is not None and details.outcome != Outcome.CANCELLED:
            self._tell(details, *details.answer)

    def _fail(self, error: BaseException) -> None:
        # CancelledError, KeyboardInterrupt, GeneratorExit and SystemExit are no
        # Exceptions: they cut an execution short, it did not fail.
        failed = isinstance(error, Exception)
        self.answered(Outcome.ERROR if failed else Outcome.CANCELLED, error)
        self.action = ""
        self.waste()

    def _tell(self, details: SpanDetails, key: ErrorKey, message: str) -> None:
        recorder = process.recorder
        recorder.failed(
            Failure(
                time=_time(),
                graph=self.series.graph,
                node=self.series.node,
                type=key[0],
                message="" if process.settings.failures == "type" else message,
                phase=key[1],
                attempts=details.attempts,
                outcome=int(details.outcome),
                run=recorder.run_id(self.run.number) if self.run else "",
                traceback=details.traceback,
            )
        )


class Listener(Protocol):
    """Hears of what was recorded, on the application's threads.

    It lets no Exception out. What else it lets out, a KeyboardInterrupt, reaches the
    application as if it had met its own code.
    """

    def node_started(self, span: Span, shared: object) -> None:
        """Hear that a node starts, within its context.

        That the run started, and of the transition, is told by `span.run`: the node
        and the action before this one are still there.

        Args:
            span: of the execution; `owner` is the node.
            shared: what the node was called with; None for a block.
        """

    def node_retried(self, span: Span, error_type: str, message: str) -> None:
        """Hear that `exec` is called again, `span.attempts` counts this call.

        Args:
            span: of the execution, or of one item of a batch.
            error_type: what the call before failed with.
            message: that exception's.
        """

    def node_ended(
        self, span: Span, node: object, seconds: float, error: BaseException | None
    ) -> None:
        """Hear that a node ended and was recorded, its context left.

        Args:
            span: of the execution, with outcome, answer, attempts and action.
            node: the object, which the span has let go.
            seconds: how long it took.
            error: what leaves the node.
        """

    def run_ended(
        self, run: Run, seconds: float, reason: str, error: BaseException | None
    ) -> None:
        """Hear that a run of a graph ended and was recorded.

        Args:
            run: with its last node and action, and the actions that were `available`.
            seconds: how long it took.
            reason: a `wire.EndReason`'s value.
            error: what leaves the run.
        """


listener: Listener | None = None


def listen(new: Listener | None) -> None:
    """Notify `new` from now on, instead of the listener before; None for nobody."""
    global listener  # noqa: PLW0603 - the quickest thing to look at
    listener = new


current_span: ContextVar[Span | None] = ContextVar("kaywatch_span", default=None)
current_run: ContextVar[Run | None] = ContextVar("kaywatch_run", default=None)

# The process has one recorder for as long as it lives.
_in_flight: Final = process.recorder.in_flight
_runs: Final = process.recorder.runs
_record_phased: Final = process.recorder.pending.phased.record
_phased: Final = process.recorder.pending.phased.flat
_extend: Final = _phased.extend
_watermark: Final = process.recorder.pending.phased.watermark
_time: Final = time.time
_clock: Final = time.perf_counter
_set_span: Final = current_span.set
_reset_span: Final = current_span.reset
_set_run: Final = current_run.set
_reset_run: Final = current_run.reset
