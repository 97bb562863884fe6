"""Detect a second agent that reads the same topics of a broker, which loses events.

Both agents acknowledge batches, and a client discards a batch after either of the
acknowledgements.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["ConflictDetector"]

MAX_NAME: Final = 200


class _About(msgspec.Struct):
    agent: str
    host: str = ""


class ConflictDetector:
    """Follows the status and description that agents publish, including our own."""

    def __init__(self, client_id: str) -> None:
        """Start without another agent.

        Args:
            client_id: our own client id, which identifies our own description.
        """
        self._client_id = client_id
        self._other: _About | None = None
        self._online = False  # an agent was online before we published our status

    @property
    def problem(self) -> str:
        """A description of the conflict; empty if there is none."""
        if self._other is None or not self._online:
            return ""
        return (
            f"another agent, {self._other.agent} on"
            f" {self._other.host or 'an unknown host'}, reads the same topics, and"
            " events get lost: use a different prefix for each agent"
        )

    def status(self, online: bool, retained: bool) -> None:
        """Handle a status message. A retained one is older than our connection."""
        if retained:
            self._online = online
        elif not online:
            self.reset()

    def about(self, payload: bytes, retained: bool) -> bool:
        """Handle an agent's description; return whether it reveals a new conflict."""
        try:
            about = msgspec.json.decode(payload, type=_About)
        except msgspec.DecodeError:
            return False
        if about.agent == self._client_id:
            return False
        previous = self.problem
        self._other = _About(about.agent[:MAX_NAME], about.host[:MAX_NAME])
        self._online = self._online or not retained
        return self.problem not in ("", previous)

    def reset(self) -> None:
        """Discard the other agent: if it is running, it publishes its status again."""
        self._other, self._online = None, False
