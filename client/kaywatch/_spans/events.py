"""The seam for whoever wants to hear of each node and run: logging, for one.

Strategy: one listener or none. Without one, each place that tells of something costs a
look at a module's global, a few nanoseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kaywatch._spans.frames import Frame, Run

__all__ = ["Listener", "listen"]


class Listener(Protocol):
    """Hears of what was recorded, on the application's threads.

    It lets no Exception out. What else it lets out, a KeyboardInterrupt, reaches the
    application as if it had met its own code.
    """

    def node_started(self, frame: Frame, shared: object) -> None:
        """Hear that a node starts, within its context.

        That the run started, and of the transition, is told by `frame.run`: the node
        and the action before this one are still there.

        Args:
            frame: of the execution; `owner` is the node.
            shared: what the node was called with; None for a block.
        """

    def node_retried(self, frame: Frame, error_type: str, message: str) -> None:
        """Hear that `exec` is called again, `frame.attempts` counts this call.

        Args:
            frame: of the execution, or of one item of a batch.
            error_type: what the call before failed with.
            message: that exception's.
        """

    def node_ended(
        self, frame: Frame, node: object, seconds: float, error: BaseException | None
    ) -> None:
        """Hear that a node ended and was recorded, its context left.

        Args:
            frame: of the execution, with outcome, answer, attempts and action.
            node: the object, which the frame has let go.
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
    """Tell `new` from now on, and nobody else; None for nobody."""
    global listener  # noqa: PLW0603 - the quickest thing to look at
    listener = new
