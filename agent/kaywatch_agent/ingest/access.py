"""Decide which local peers may push, by the configured users and groups.

The process, user and groups of a peer come from the kernel, by the socket. Nothing that
a client sends about itself is used.
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
    """Why a connection was refused or closed; the label of its counter."""

    USER = "user"  # neither the user nor one of its groups is allowed
    PROCESS_CONNECTIONS = "process_connections"
    USER_CONNECTIONS = "user_connections"
    DESCRIPTORS = "descriptors"  # the agent cannot open more files
    MEMORY = "memory"  # too many bytes in incomplete frames


class Identity(Protocol):
    """The identity of a peer, as the kernel reports it."""

    @property
    def uid(self) -> int:
        """The user id."""

    @property
    def gids(self) -> Collection[int]:
        """The group ids, including supplementary groups."""

    @property
    def trusted(self) -> bool:
        """Whether the user is root or the agent's own user."""


@dataclass(frozen=True)
class Access:
    """The users and groups that may push.

    With both sets empty, access depends on the permissions of the socket alone.

    Attributes:
        uids: the ids of users that may push.
        gids: the ids of groups whose members may push.
    """

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    @classmethod
    def named(cls, users: Collection[str], groups: Collection[str]) -> Access:
        """Resolve the names of users and groups.

        Raises:
            ValueError: unknown user or group; the message has the configuration key.
        """
        return cls(
            frozenset(user_number("allow_uids", user) for user in users),
            frozenset(group_number("allow_gids", group) for group in groups),
        )

    def admits(self, peer: Identity) -> bool:
        """Return whether a peer may push. Root and the agent's own user always may."""
        if peer.trusted or not (self.uids or self.gids):
            return True
        return peer.uid in self.uids or not self.gids.isdisjoint(peer.gids)


def user_number(key: str, name: str) -> int:
    """Return the id of a user, from a name or a number.

    Raises:
        ValueError: unknown user; the message has the configuration key.
    """
    if name.isascii() and name.isdigit() and int(name) <= MAX_ID:
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        raise ValueError(
            f'{key}: unknown user "{name}": expected a name or number of a user'
        ) from None
