"""Whether another agent takes from the same topics of a broker, which loses events.

Each of the two would acknowledge what it has, and clients forget what either of them
acknowledges.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["Rivals"]

MAX_NAME: Final = 200


class _About(msgspec.Struct):
    agent: str
    host: str = ""


class Rivals:
    """What is known of other agents with our topics."""

    def __init__(self, mine: str) -> None:
        """Know of none.

        Args:
            mine: our own name at the broker.
        """
        self._mine = mine
        self._other: _About | None = None
        self._online = False  # somebody, before we said that we are

    @property
    def problem(self) -> str:
        """What is wrong; empty for nothing."""
        if self._other is None or not self._online:
            return ""
        return (
            f"another agent, {self._other.agent} on {self._other.host or 'some host'},"
            " takes from the same topics, and events get lost: give each agent a prefix"
            " of its own"
        )

    def online(self, online: bool, retained: bool) -> None:
        """Take a status: one that was there before, or that is new."""
        if retained:
            self._online = online
        elif not online:
            self.forget()

    def meet(self, about: bytes, retained: bool) -> bool:
        """Take what an agent says of itself; return whether there is a rival now."""
        try:
            found = msgspec.json.decode(about, type=_About)
        except msgspec.DecodeError:
            return False
        if found.agent == self._mine:
            return False
        before = self.problem
        self._other = _About(found.agent[:MAX_NAME], found.host[:MAX_NAME])
        self._online = self._online or not retained
        return self.problem not in ("", before)

    def forget(self) -> None:
        """Know of none: whoever is there says so again."""
        self._other, self._online = None, False
