"""Executions and runs under way: what `observe` and friends attribute values to.

A frame is opened when a node starts and closed when it ends; the innermost one of
this thread or task is in a contextvar, so threads and tasks never see each other's.
"""

from __future__ import annotations

import time
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Final

from kaywatch._process import process
from kaywatch._spans import events as _events
from kaywatch._spans.extras import OK, Extras
from kaywatch.recorder import ErrorKey, Failure, Flight, Looped, Series
from kaywatch.wire import EndReason, Outcome, Phase

if TYPE_CHECKING:
    from kaywatch._llm.spending import Bill

__all__ = [
    "Frame",
    "TRYING",
    "Run",
    "current_frame",
    "current_run",
    "message_of",
    "traceback_of",
]

MAX_MESSAGE: Final = 500  # characters of an exception's message that are kept
MAX_FRAMES: Final = 30
MAX_TRACEBACK: Final = 4_000  # characters

# Plain values of the enums: looking a member up costs more than recording it.
PREP: Final = Phase.PREP.value
EXEC: Final = Phase.EXEC.value
POST: Final = Phase.POST.value
UNKNOWN: Final = EndReason.UNKNOWN.value

# Like times, these are true.
BEFORE: Final = -1.0  # of `Frame.left`
TRYING: Final = -1.0  # of `Frame.tried`


class Run:
    """One execution of a graph, from entry to end.

    Attributes:
        owner: the graph object while it runs, for instrumentation to recognise its
            own runs; released at the end, since contexts outlive runs.
        parent: the frame in which it was opened: what runs with that one innermost
            is called by the graph's own loop.
        visits: executions of nodes by that loop so far.
        counts: those of each node, by its name.
        node, action: the last node that ended, and what its `post` returned.
        reason: why it ended, once `get_next_node` or an exception told.
        epoch: the wall clock's time when the clock of `started` was 0.
        ended_at: the visits when `get_next_node` gave the reason.
        available: the actions that would have led on, if someone listens.
        noted: what the listener keeps with the run.
        bill: what its LLM calls cost, if it made any.
    """

    __slots__ = (
        "action",
        "available",
        "bill",
        "counts",
        "ended_at",
        "epoch",
        "graph",
        "node",
        "noted",
        "number",
        "owner",
        "parent",
        "reason",
        "started",
        "token",
        "visits",
    )

    def __init__(
        self, graph: str, owner: object = None, parent: Frame | None = None
    ) -> None:
        self.graph = graph
        self.owner = owner
        self.parent: Frame | Run | None = parent
        self.visits = 0
        self.counts: dict[str, int] = {}
        self.node = ""
        self.action = ""
        self.reason: str = UNKNOWN
        self.ended_at = 0
        self.available: tuple[str, ...] = ()
        self.noted: object = None
        self.bill: Bill | None = None
        self.number = process.recorder.next_number()
        self.token: Token[Run | None] = _set_run(self)
        self.started = _clock()
        self.epoch = _time() - self.started
        _set_out(self)

    def ends(self, reason: str) -> None:
        """Note why the loop ends after the visits so far."""
        self.reason = reason
        self.ended_at = self.visits

    def looped(self) -> Looped | None:
        """Return how often it visited which node, None while it came back to none."""
        if self.visits == len(self.counts):
            return None
        return Looped(self.graph, self.number, self.visits, self.counts)

    def leave(self) -> None:
        """Give the context back to the run around this one."""
        _arrive(self)
        try:  # noqa: SIM105 - see Frame.close
            _reset_run(self.token)
        except ValueError:
            pass
        self.owner = None
        self.parent = self  # no frame: nothing is called by this loop any more

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
            process.recorder.loop_ended(self.graph, self.counts)
        if self.bill is not None:
            self.bill.end()
        listener = _events.listener
        if listener is not None:
            listener.run_ended(self, seconds, str(reason), error)


class Frame:
    """One execution of one node, under way.

    Attributes:
        owner: the node object while it runs, for instrumentation to recognise its own
            frames; released at the end, since contexts outlive frames.
        run: the run of a graph in which it takes place.
        visit: whether that graph's loop called it, rather than another node.
        started, entered, left: when the frame was opened, and when its `_exec` was
            entered first and left last. `entered` is 0.0 before, and `left` is
            BEFORE then, and 0.0 within.
        tried: TRYING within a call of `exec`, else when it failed, 0.0 if it did not.
        action: what `post` returned.
        extras: what only some executions have, once this one does.
    """

    __slots__ = (
        "action",
        "entered",
        "extras",
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
        outer: Frame | None = None,
        owner: object = None,
    ) -> None:
        self.series = series
        self.run = run
        self.owner = owner
        self.entered = 0.0
        self.left = BEFORE
        self.tried = 0.0
        self.action = "default"
        self.extras: Extras | None = None
        self.started = _clock()
        self.visit = run is not None and outer is run.parent
        _take_off(self)
        self.token: Token[Frame | None] = _set_frame(self)

    def flight(self) -> Flight:
        """Return where this execution is under way, and since when."""
        run = self.run
        epoch = _time() - _clock() if run is None else run.epoch
        return Flight(
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
        return self.extras.attempts if self.extras is not None else 1

    @property
    def outcome(self) -> int:
        """How it ended, once it has."""
        return self.extras.outcome if self.extras is not None else OK

    @property
    def answer(self) -> tuple[ErrorKey, str] | None:
        """The failure that it ended with, or that was answered in it; its message."""
        return self.extras.answer if self.extras is not None else None

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
        extras = self.extra()
        extras.outcome = outcome
        if isinstance(error, BaseException):
            key = type(error).__name__, self.phase
            extras.answer = key, message_of(error)
            if process.settings.failures == "traceback":
                extras.traceback = traceback_of(error)

    def extra(self) -> Extras:
        """Return the extras, made at first use."""
        if self.extras is None:
            self.extras = Extras()
        return self.extras

    def fails(self, error: BaseException) -> None:
        """Note that a call of `exec` failed: another one would be a retry."""
        self.tried = _clock()
        heard = _events.listener is not None
        message = message_of(error) if heard else ""
        self.extra().failed = type(error).__name__, message
        self.waste()

    def repeat(self) -> None:
        """Count a call of `exec` after one that failed."""
        extras = self.extra()
        extras.waited += _clock() - self.tried
        extras.attempts += 1
        listener = _events.listener
        if listener is not None:
            listener.node_retried(self, *extras.failed)

    def tell(self, shared: object = None) -> None:
        """Tell the listener, if there is one, that the node starts."""
        listener = _events.listener
        if listener is None:
            return
        try:
            listener.node_started(self, shared)
        except BaseException as error:
            # An interrupt: nobody else would close this frame.
            self.close(error)
            raise

    def waste(self) -> None:
        """Count what LLM calls cost the attempt as wasted: an exception left it."""
        extras = self.extras
        if extras is not None and extras.spending is not None:
            spending, extras.spending = extras.spending, None
            spending.waste()

    def keep(self) -> None:
        """Leave what LLM calls cost the attempt to the one around it: it went well."""
        if self.extras is not None and self.extras.spending is not None:
            self.extras.spending.close()

    def close(self, error: BaseException | None = None) -> None:
        """Record the execution, which ends now, with `error` if one leaves it."""
        ended = _clock()
        try:  # noqa: SIM105 - a `with` on the hot path costs too much
            _reset_frame(self.token)
        except ValueError:
            # Closed in another context than it was opened in, as when a coroutine's
            # garbage collection closes it; that context is gone anyway.
            pass
        _land(self)
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
        if self.extras is not None or left <= 0.0:
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
            # As `record_phased` does, without the 50 ns of a call.
            if len(_phased) < _gate[0]:
                _extend(event)
            else:
                _record_phased(event)
        listener = _events.listener
        if listener is not None:
            listener.node_ended(self, owner, ended - self.started, error)

    def phases(self, ended: float) -> tuple[float, float, float] | None:
        """Return the seconds of `prep`, `exec` and waiting, None if they aren't known.

        What is left of the execution belongs to `post`. If an error ended it, then the
        rest belongs to the phase that the error came from.
        """
        extras = self.extra()
        if not self.entered:
            # A `_run` of the application's own need not call `_exec`.
            failed = extras.outcome != OK
            return (ended - self.started, 0.0, 0.0) if failed else None
        span = (self.left or ended) - self.entered
        extras.add_up(span)
        waited = min(extras.waited, span)
        return self.entered - self.started, span - waited, waited

    def _record(self, ended: float) -> None:
        phases, extras = self.phases(ended), self.extra()
        key = extras.answer[0] if extras.answer is not None else None
        seconds = ended - self.started
        usual = seconds, extras.outcome, extras.attempts, self.action, key
        if phases is None:
            self.series.record(*usual)
        else:
            event = self.series.number, _time(), *usual, *phases, extras.items
            _record_phased(event)
        if extras.answer is not None and extras.outcome != Outcome.CANCELLED:
            self._tell(extras, *extras.answer)

    def _fail(self, error: BaseException) -> None:
        # CancelledError, KeyboardInterrupt, GeneratorExit and SystemExit are no
        # Exceptions: they cut an execution short, it did not fail.
        failed = isinstance(error, Exception)
        self.answered(Outcome.ERROR if failed else Outcome.CANCELLED, error)
        self.action = ""
        self.waste()

    def _tell(self, extras: Extras, key: ErrorKey, message: str) -> None:
        recorder = process.recorder
        recorder.failed(
            Failure(
                time=_time(),
                graph=self.series.graph,
                node=self.series.node,
                type=key[0],
                message="" if process.settings.failures == "type" else message,
                phase=key[1],
                attempts=extras.attempts,
                outcome=int(extras.outcome),
                run=recorder.run_id(self.run.number) if self.run else "",
                traceback=extras.traceback,
            )
        )


current_frame: ContextVar[Frame | None] = ContextVar("kaywatch_frame", default=None)
current_run: ContextVar[Run | None] = ContextVar("kaywatch_run", default=None)

# The process has one recorder for as long as it lives.
_take_off: Final = process.recorder.in_flight.add
_land: Final = process.recorder.in_flight.discard
_set_out: Final = process.recorder.under_way.add
_arrive: Final = process.recorder.under_way.discard
_record_phased: Final = process.recorder.record_phased
_phased: Final = process.recorder.phased
_extend: Final = _phased.extend
_gate: Final = process.recorder.phased_gate
_time: Final = time.time
_clock: Final = time.perf_counter
_set_frame: Final = current_frame.set
_reset_frame: Final = current_frame.reset
_set_run: Final = current_run.set
_reset_run: Final = current_run.reset


def message_of(cause: BaseException) -> str:
    """Return an exception's message, the 500 characters of it that are kept."""
    try:
        return str(cause)[:MAX_MESSAGE]
    except Exception as failure:  # noqa: BLE001 - a __str__ of the application's
        return f"<__str__ raised {type(failure).__name__}>"


def traceback_of(cause: BaseException) -> str:
    """Return where an exception was raised, a line for each frame, the last innermost.

    Files, line numbers and names of functions: neither source nor values.
    """
    lines = []
    trace = cause.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        file = "/".join(code.co_filename.rsplit("/", 3)[-3:])
        lines.append(f"{file}:{trace.tb_lineno} in {code.co_name}")
        trace = trace.tb_next
    return "\n".join(lines[-MAX_FRAMES:])[-MAX_TRACEBACK:]
