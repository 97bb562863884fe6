"""What only some executions have: retries, items, an answered failure, LLM calls.

Apart from the frame, so that the others don't pay for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from kaywatch.wire import Outcome

if TYPE_CHECKING:
    from kaywatch._llm.spending import Spending
    from kaywatch.recorder import ErrorKey

__all__ = ["OK", "Extras", "Part"]

OK: Final = Outcome.OK.value  # looking a member up costs more than recording it


class Part(NamedTuple):
    """What one item of a batch adds to its execution.

    Attributes:
        repeats: calls of `exec` beyond the first.
        waited: seconds between calls that failed and the next ones.
        seconds: how long it took in all.
    """

    repeats: int
    waited: float
    seconds: float


class Extras:
    """What only some executions have: retries, items, an answered failure, LLM calls.

    Attributes:
        attempts: calls of `exec` beyond the first plus one; 1 without retries.
        waited: seconds between calls of `exec` that failed and the next ones.
        parts: of the items that an `_exec` worked on. A list, as threads append to it.
        batch: whether the node is a batch. Another one may bring an `_exec` that calls
            the retry loop once, which makes no item of what it was given.
        failed: the type and message of what the last call of `exec` that failed did so
            with; the message if someone listens.
        outcome, answer: set by instrumentation when a failure was answered inside the
            node; an exception that leaves the frame overrides them.
        spending: what LLM calls cost the attempt under way, if it made any.
    """

    __slots__ = (
        "answer",
        "attempts",
        "batch",
        "failed",
        "outcome",
        "parts",
        "spending",
        "traceback",
        "waited",
    )

    def __init__(self) -> None:
        self.attempts = 1
        self.waited = 0.0
        self.parts: list[Part] = []
        self.batch = False
        self.failed = "", ""
        self.outcome: int = OK
        self.answer: tuple[ErrorKey, str] | None = None
        self.traceback = ""  # of the answer, if it is to be told
        self.spending: Spending | None = None

    @property
    def items(self) -> int:
        """How many items a batch has had so far, 0 if it is none."""
        count = len(self.parts)
        return count if self.batch or count > 1 else 0

    def add_up(self, span: float) -> None:
        """Take the items' attempts and waiting for the execution's, once.

        Items that are worked on at once also wait at once. So what is taken of `span`,
        the seconds in `_exec`, is the share that waiting has in all of their time.
        """
        if not self.parts:
            return
        # A copy, since threads of an abandoned batch go on.
        repeats, waited, worked = map(sum, zip(*self.parts[:], strict=True))
        self.attempts += repeats
        if waited:
            self.waited += waited * min(1.0, span / worked)
