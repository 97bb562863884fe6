"""What only some executions have: retries, items, an answered failure, LLM calls.

Apart from the span, so that the others don't pay for it.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from kaywatch.recorder import ErrorKey
from kaywatch.wire import Outcome

__all__ = ["OK", "ItemTiming", "SpanDetails", "message_of", "traceback_of"]

MAX_MESSAGE: Final = 500  # characters of an exception's message that are kept
MAX_FRAMES: Final = 30
MAX_TRACEBACK: Final = 4_000  # characters

OK: Final = Outcome.OK.value  # looking a member up costs more than recording it


class ItemTiming(NamedTuple):
    """What one item of a batch adds to its execution.

    Attributes:
        repeats: calls of `exec` beyond the first.
        waited: seconds between calls that failed and the next ones.
        seconds: how long it took in all.
    """

    repeats: int
    waited: float
    seconds: float


class CostOfAttempt(Protocol):
    """Adds up the costs of one attempt."""

    def waste(self) -> None:
        """The attempt failed: count its costs as wasted."""

    def close(self) -> None:
        """The attempt succeeded: add its costs to those of the attempt around it."""


class SpanDetails:
    """What only some executions have: retries, items, an answered failure, LLM calls.

    Attributes:
        attempts: calls of `exec` beyond the first plus one; 1 without retries.
        waited: seconds between calls of `exec` that failed and the next ones.
        timings: of a batch's items. A list, as threads append to it.
        batch: whether the node is a batch. Another one may bring an `_exec` that calls
            the retry loop once, which makes no item of what it was given.
        failed: the type and message of what the last call of `exec` that failed did so
            with; the message if someone listens.
        outcome, answer: set by instrumentation when a failure was answered inside the
            node; an exception that leaves the span overrides them.
        cost: what LLM calls cost the attempt under way, if it made any.
    """

    __slots__ = (
        "answer",
        "attempts",
        "batch",
        "cost",
        "failed",
        "outcome",
        "timings",
        "traceback",
        "waited",
    )

    def __init__(self) -> None:
        self.attempts = 1
        self.waited = 0.0
        self.timings: list[ItemTiming] = []
        self.batch = False
        self.failed = "", ""
        self.outcome: int = OK
        self.answer: tuple[ErrorKey, str] | None = None
        self.traceback = ""  # of the answer, if it is to be told
        self.cost: CostOfAttempt | None = None

    @property
    def items(self) -> int:
        """How many items a batch has had so far, 0 if it is none."""
        count = len(self.timings)
        return count if self.batch or count > 1 else 0

    def add_up(self, within: float) -> None:
        """Take the items' attempts and waiting for the execution's, once.

        Items that are worked on at once also wait at once. So the share of waiting in
        all of their time is taken of `within`, the seconds in `_exec`.
        """
        if not self.timings:
            return
        # A copy, since threads of an abandoned batch go on.
        repeats, waited, worked = map(sum, zip(*self.timings[:], strict=True))
        self.attempts += repeats
        if waited:
            self.waited += waited * min(1.0, within / worked)


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
