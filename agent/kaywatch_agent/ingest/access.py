"""Who may push: the kernel's word for a peer against the lists that the operator gave.

What a client says of itself is never asked: its process, its user and its groups come
from the socket.
"""

from __future__ import annotations

import pwd
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from kaywatch_agent.runtime.sockets import MAX_ID, group_number

__all__ = ["Access", "Identity", "Refusal", "user_number"]


class Refusal(StrEnum):
    """Why a connection was not taken, or was ended; the label of its counter."""

    USER = "user"  # neither its user nor one of its groups is allowed
    PROCESS_CONNECTIONS = "process_connections"
    USER_CONNECTIONS = "user_connections"
    DESCRIPTORS = "descriptors"  # the agent can't hold more open files
    MEMORY = "memory"  # it keeps too many frames unfinished


class Identity(Protocol):
    """What the kernel says of a peer."""

    @property
    def uid(self) -> int:
        """Its user."""

    @property
    def gids(self) -> Collection[int]:
        """Its groups, the supplementary ones among them."""

    @property
    def trusted(self) -> bool:
        """Whether it is root or the agent's own user."""


@dataclass(frozen=True)
class Access:
    """Who may push; everybody whom the socket's mode lets in, where nobody is named.

    Attributes:
        uids: users who may.
        gids: groups whose members may.
    """

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    @classmethod
    def named(cls, users: Collection[str], groups: Collection[str]) -> Access:
        """Return the lists with numbers for names.

        Raises:
            ValueError: there is no such user or group; says under which key.
        """
        return cls(
            frozenset(user_number("allow_uids", user) for user in users),
            frozenset(group_number("allow_gids", group) for group in groups),
        )

    def admits(self, peer: Identity) -> bool:
        """Whether a peer may push: root and the agent's own user always may."""
        if peer.trusted or not (self.uids or self.gids):
            return True
        return peer.uid in self.uids or not self.gids.isdisjoint(peer.gids)


def user_number(key: str, name: str) -> int:
    """Return the number of a user that is named, or given by number.

    Raises:
        ValueError: there is none; names the key.
    """
    if name.isascii() and name.isdigit() and int(name) <= MAX_ID:
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        raise ValueError(
            f'{key}: unknown user "{name}": expected a name or number of a user'
        ) from None
