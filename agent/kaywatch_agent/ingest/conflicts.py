"""Detect a second agent that reads the same topics of a broker: events would get lost.

Each of the two acknowledges the batches that it has taken, and clients forget what
either of them acknowledges.
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
    """Follows the status and the description that agents publish, our own included."""

    def __init__(self, client_id: str) -> None:
        """Begin without another agent.

        Args:
            client_id: our own; a description with it is ours.
        """
        self._client_id = client_id
        self._other: _About | None = None
        self._online = False  # an agent was online before we said that we are

    @property
    def problem(self) -> str:
        """The conflict in a sentence; empty if there is none."""
        if self._other is None or not self._online:
            return ""
        return (
            f"another agent, {self._other.agent} on {self._other.host or 'some host'},"
            " reads the same topics, and events get lost: give each agent a prefix"
            " of its own"
        )

    def status(self, online: bool, retained: bool) -> None:
        """Take a status message: retained, it is from before our connection."""
        if retained:
            self._online = online
        elif not online:
            self.reset()

    def about(self, payload: bytes, retained: bool) -> bool:
        """Take a description of an agent; return whether it reveals a new conflict."""
        try:
            found = msgspec.json.decode(payload, type=_About)
        except msgspec.DecodeError:
            return False
        if found.agent == self._client_id:
            return False
        before = self.problem
        self._other = _About(found.agent[:MAX_NAME], found.host[:MAX_NAME])
        self._online = self._online or not retained
        return self.problem not in ("", before)

    def reset(self) -> None:
        """Forget the other agent: if it is there, it says so again."""
        self._other, self._online = None, False
