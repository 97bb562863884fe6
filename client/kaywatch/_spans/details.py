"""Details of some executions: retries, items, an answered failure, LLM calls.

Kept apart from the span, so that other executions don't pay for it.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from kaywatch.recorder import ErrorKey
from kaywatch.wire import Outcome

__all__ = ["OK", "CaughtError", "ItemTiming", "SpanDetails", "message_of"]

MAX_MESSAGE: Final = 500  # characters of an exception's message
MAX_FRAMES: Final = 30
MAX_TRACEBACK: Final = 4_000  # characters

OK: Final = Outcome.OK.value  # looking a member up costs more than recording it


class ItemTiming(NamedTuple):
    """The contribution of one item of a batch to its execution.

    Attributes:
        retries: calls of `exec` beyond the first.
        wait_seconds: between calls that failed and the next ones.
        seconds: duration of the item, waiting included.
    """

    retries: int
    wait_seconds: float
    seconds: float


class CaughtError(NamedTuple):
    """The recorded facts of an exception, which itself is not kept."""

    type: str
    message: str = ""
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException, detail: str) -> CaughtError:
        """Read an exception; `detail` is the setting `failures`."""
        trace = traceback_of(error) if detail == "traceback" else ""
        return cls(type(error).__name__, message_of(error), trace)


class CostOfAttempt(Protocol):
    """Adds up the costs of one attempt."""

    def waste(self) -> None:
        """Count the costs as wasted: the attempt failed."""

    def close(self) -> None:
        """Add the costs to the enclosing attempt's, since this attempt succeeded."""


_NO_ERROR: Final = CaughtError("")


class SpanDetails:
    """Details of some executions: retries, items, an answered failure, LLM calls.

    Attributes:
        attempts: calls of `exec` beyond the first plus one; 1 without retries.
        wait_seconds: between calls of `exec` that failed and the next ones.
        item_timings: of a batch. A list, because several threads append to it.
        is_batch: whether the node is a batch. A node that is none may also override
            `_exec` and call the retry loop, once.
        last_failure: what `exec` raised last.
        outcome, answer: set when a failure was answered inside the node. An exception
            that leaves the span overrides them.
        traceback: of the answered failure, if tracebacks are to be recorded.
        thread: the one that entered the `_exec` of a batch.
        cost: of the LLM calls of the attempt in progress, if it made any.
    """

    __slots__ = (
        "answer",
        "attempts",
        "cost",
        "is_batch",
        "item_timings",
        "last_failure",
        "outcome",
        "thread",
        "traceback",
        "wait_seconds",
    )

    def __init__(self) -> None:
        self.attempts = 1
        self.wait_seconds = 0.0
        self.item_timings: list[ItemTiming] = []
        self.is_batch = False
        self.last_failure = _NO_ERROR
        self.outcome: int = OK
        self.answer: tuple[ErrorKey, str] | None = None
        self.traceback = ""
        self.thread = 0
        self.cost: CostOfAttempt | None = None

    @property
    def items(self) -> int:
        """Number of items that have ended, 0 if the node is not a batch."""
        count = len(self.item_timings)
        return count if self.is_batch or count > 1 else 0

    def add_items(self, exec_seconds: float) -> None:
        """Add the retries and the waiting of the items to the execution's, once.

        Items that run concurrently also wait concurrently. The execution has waited
        for the same share of `exec_seconds` as the items of their total time.
        """
        if not self.item_timings:
            return
        # A copy, because threads of an abandoned batch go on.
        retries, waiting, total = map(sum, zip(*self.item_timings[:], strict=True))
        self.attempts += retries
        if waiting:
            self.wait_seconds += waiting * min(1.0, exec_seconds / total)


def message_of(error: BaseException) -> str:
    """Return the first 500 characters of an exception's message."""
    try:
        return str(error)[:MAX_MESSAGE]
    except Exception as failure:  # noqa: BLE001 - a __str__ of the application's
        return f"<__str__ raised {type(failure).__name__}>"


def traceback_of(error: BaseException) -> str:
    """Return where an exception was raised, one line per frame, the innermost last.

    It has files, line numbers and function names, but no source code and no values.
    """
    lines = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        file = "/".join(code.co_filename.rsplit("/", 3)[-3:])
        lines.append(f"{file}:{trace.tb_lineno} in {code.co_name}")
        trace = trace.tb_next
    return "\n".join(lines[-MAX_FRAMES:])[-MAX_TRACEBACK:]
