"""Executions and runs under way: what `observe` and friends attribute values to.

A frame is opened when a node starts and closed when it ends; the innermost one of
this thread or task is in a contextvar, so threads and tasks never see each other's.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from kaywatch._process import process
from kaywatch.errors import ConfigurationError
from kaywatch.recorder import ErrorKey, Failure, Series
from kaywatch.wire import EndReason, Outcome, Phase

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Frame", "Run", "current_frame", "current_run", "execution"]

F = TypeVar("F", bound=Callable[..., Any])

MAX_MESSAGE: Final = 500  # characters of an exception's message that are kept

# Plain values of the enums: looking a member up costs more than recording it.
PREP: Final = Phase.PREP.value
EXEC: Final = Phase.EXEC.value
POST: Final = Phase.POST.value
OK: Final = Outcome.OK.value
UNKNOWN: Final = EndReason.UNKNOWN.value


class Run:
    """One execution of a graph, from entry to end.

    Attributes:
        owner: the graph object while it runs, for instrumentation to recognise its
            own runs; released at the end, since contexts outlive runs.
        parent: the frame in which it was opened: what runs with that one innermost
            is called by the graph's own loop.
        visits: executions of nodes by that loop so far.
        node, action: the last node that ended, and what its `post` returned.
        reason: why it ended, once `get_next_node` or an exception told.
        epoch: the wall clock's time when the clock of `started` was 0.
        ended_at: the visits when `get_next_node` gave the reason.
    """

    __slots__ = (
        "action",
        "ended_at",
        "epoch",
        "graph",
        "node",
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
        self.node = ""
        self.action = ""
        self.reason: str = UNKNOWN
        self.ended_at = 0
        self.number = process.recorder.next_number()
        self.token: Token[Run | None] = _set_run(self)
        self.started = _clock()
        self.epoch = _time() - self.started

    def ends(self, reason: str) -> None:
        """Note why the loop ends after the visits so far."""
        self.reason = reason
        self.ended_at = self.visits

    def leave(self) -> None:
        """Give the context back to the run around this one."""
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


class Frame:
    """One execution of one node, under way.

    Attributes:
        owner: the node object while it runs, for instrumentation to recognise its own
            frames; released at the end, since contexts outlive frames.
        run: the run of a graph in which it takes place.
        visit: whether that graph's loop called it, rather than another node.
        phase: where in the node we are, for a failure to name.
        attempts: calls of `exec` beyond the first plus one; 1 without retries.
        failed, inside: whether the last call of `exec` failed, and whether one is
            under way.
        retried: for a batch, the repeated calls of each item that had some. A list,
            since threads append to it.
        action: what `post` returned.
        outcome, answer: set by instrumentation when a failure was answered inside
            the node; an exception that leaves the frame overrides them.
    """

    __slots__ = (
        "action",
        "answer",
        "attempts",
        "failed",
        "inside",
        "outcome",
        "owner",
        "phase",
        "retried",
        "run",
        "series",
        "started",
        "token",
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
        self.phase: str = PREP
        self.attempts = 1
        self.failed = False
        self.inside = False
        self.retried: list[int] | None = None
        self.action = "default"
        self.outcome: int = OK
        self.answer: tuple[ErrorKey, str] | None = None
        self.started = started = _clock()
        if run is None:
            self.visit = False
            _in_flight[self] = (series.graph, series.node, _time(), 0)
        else:
            self.visit = outer is run.parent
            since = run.epoch + started
            _in_flight[self] = (series.graph, series.node, since, run.number)
        self.token: Token[Frame | None] = _set_frame(self)

    def answered(self, outcome: int, error: object) -> None:
        """Note that `error` was answered inside the node, where we are now.

        Its type and message are taken at once: keeping the exception would keep alive
        all that its traceback refers to.
        """
        self.outcome = outcome
        if isinstance(error, BaseException):
            self.answer = (type(error).__name__, self.phase), _message(error)

    def repeat(self) -> None:
        """Count a call of `exec` after one that failed."""
        self.failed = False
        self.attempts += 1

    def close(self, error: BaseException | None = None) -> None:
        """Record the execution, which ends now, with `error` if one leaves it."""
        seconds = _clock() - self.started
        try:  # noqa: SIM105 - a `with` on the hot path costs too much
            _reset_frame(self.token)
        except ValueError:
            # Closed in another context than it was opened in, as when a coroutine's
            # garbage collection closes it; that context is gone anyway.
            pass
        _in_flight.pop(self, None)
        self.owner = None
        if error is not None:
            self._fail(error)
        run, series, action = self.run, self.series, self.action
        if run is not None and self.visit:
            run.visits += 1
            run.node = series.node
            run.action = action
        if self.retried:
            self.attempts += sum(self.retried)
        if self.answer is None:
            series.record(seconds, self.outcome, self.attempts, action)
        else:
            self._tell(seconds, self.answer)

    def _fail(self, error: BaseException) -> None:
        # CancelledError, KeyboardInterrupt, GeneratorExit and SystemExit are no
        # Exceptions: they cut an execution short, it did not fail.
        failed = isinstance(error, Exception)
        self.answered(Outcome.ERROR if failed else Outcome.CANCELLED, error)
        self.action = ""

    def _tell(self, seconds: float, answer: tuple[ErrorKey, str]) -> None:
        key, message = answer
        self.series.record(seconds, self.outcome, self.attempts, self.action, key)
        if self.outcome == Outcome.CANCELLED:
            return
        recorder = process.recorder
        recorder.failed(
            Failure(
                time=time.time(),
                graph=self.series.graph,
                node=self.series.node,
                type=key[0],
                message=message,
                phase=key[1],
                attempts=self.attempts,
                outcome=int(self.outcome),
                run=recorder.run_id(self.run.number) if self.run else "",
            )
        )


current_frame: ContextVar[Frame | None] = ContextVar("kaywatch_frame", default=None)
current_run: ContextVar[Run | None] = ContextVar("kaywatch_run", default=None)

# The process has one recorder for as long as it lives.
_in_flight: Final[dict[Any, Any]] = process.recorder.in_flight
_time: Final = time.time
_clock: Final = time.perf_counter
_set_frame: Final = current_frame.set
_reset_frame: Final = current_frame.reset
_set_run: Final = current_run.set
_reset_run: Final = current_run.reset


class execution:  # noqa: N801 - used like a function, as contextlib's are
    """Measure a block, or a function, as one execution of a node.

    For code outside the frameworks, as a context manager or a decorator (of plain
    functions and of coroutine functions)::

        with kaywatch.execution("checkout", "pay") as pay:
            pay.action = charge(card)

        @kaywatch.execution("checkout", "notify")
        async def notify(order): ...

    An exception makes its outcome `error`, a cancellation `cancelled`; either goes
    on unchanged.

    Args:
        graph: the graph's name; empty for none.
        node: the node's name.

    Raises:
        ConfigurationError: if a name is not a str, or the node's is empty.
    """

    def __init__(self, graph: str, node: str) -> None:
        for what, value in (("graph", graph), ("node", node)):
            if not isinstance(value, str):
                raise ConfigurationError(
                    f"execution({what}=...): expected a str, got {type(value).__name__}"
                )
        if not node:
            raise ConfigurationError("execution(node=...): the name is empty")
        self.graph = graph
        self.node = node
        self._frame: Frame | None = None

    @property
    def action(self) -> str:
        """What comes next, as a node's `post` would return it."""
        return self._frame.action if self._frame is not None else "default"

    @action.setter
    def action(self, value: Any) -> None:
        if self._frame is not None:
            self._frame.action = value if isinstance(value, str) else "default"

    @property
    def attempts(self) -> int:
        """How often the work was tried, 1 without retries."""
        return self._frame.attempts if self._frame is not None else 1

    @attempts.setter
    def attempts(self, value: int) -> None:
        if self._frame is not None:
            self._frame.attempts = value

    def __enter__(self) -> Self:
        if process.settings.enabled:
            series = process.recorder.series(self.graph, self.node)
            self._frame = Frame(series, current_run.get(), current_frame.get())
            self._frame.phase = EXEC
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        frame, self._frame = self._frame, None
        if frame is not None:
            frame.close(error)

    def __call__(self, function: F) -> F:
        import inspect  # here, since it costs more than all of kaywatch's imports

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def measured_async(*args: Any, **kwargs: Any) -> Any:
                with execution(self.graph, self.node):
                    return await function(*args, **kwargs)

            return cast("F", measured_async)

        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            with execution(self.graph, self.node):
                return function(*args, **kwargs)

        return cast("F", measured)


def _message(cause: BaseException) -> str:
    try:
        return str(cause)[:MAX_MESSAGE]
    except Exception as failure:  # noqa: BLE001 - a __str__ of the application's
        return f"<__str__ raised {type(failure).__name__}>"
