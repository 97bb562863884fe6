"""What several receivers need."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.alerts import Notification
from kaywatch_agent.notify.verdict import Outcome, Verdict

__all__ = ["Closing", "Receiver", "unset"]


class Receiver(Protocol):
    """Tells somebody of what happened."""

    def render(self, notification: Notification, now: float) -> Any:
        """Return what is sent, as JSON has it, without any secret; reads none."""

    async def send(self, notification: Notification, now: float) -> Verdict:
        """Try once; say what it led to. Raises nothing that can be foreseen."""


@runtime_checkable
class Closing(Protocol):
    """A receiver that holds something of its own."""

    def close(self) -> None:
        """Let go of it; waits for nothing."""


def unset(error: ConfigError) -> Verdict:
    """Return the verdict on an attempt without its secret: the file may come back."""
    return Verdict(Outcome.RETRY, 0, str(error), unread=True)
