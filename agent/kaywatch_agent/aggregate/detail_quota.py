"""Bounds the memory of details, such as in-flight nodes, by process and by user.

Details are a copy of what a client reports about itself, kept until its next report.
What exceeds a limit is dropped and counted; events and totals are not affected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, TypeVar

from kaywatch_agent.runtime import metrics

__all__ = ["OBJECT_BYTES", "Detail", "DetailQuota"]

T = TypeVar("T")

# A process with 1,000 nodes in flight, as many as our client sends, takes 0.5 MB.
PROCESS_BYTES: Final = 4 * 1024 * 1024
USER_BYTES: Final = 32 * 1024 * 1024
ALL_BYTES: Final = 128 * 1024 * 1024

# The objects of an item, beside the characters of its texts.
OBJECT_BYTES: Final = 400


class Detail(StrEnum):
    """The kinds of details; also the label of their counter."""

    IN_FLIGHT = "in_flight"
    LOOPS = "loops"
    TAGS = "tags"
    TOPOLOGIES = "topologies"


class _Share(NamedTuple):
    owner: str
    user: int
    size: int


class DetailQuota:
    """How many bytes of details each process and each user has."""

    def __init__(self, dropped: metrics.Counter, user_of: Callable[[str], int]) -> None:
        """Begin with no details.

        Args:
            dropped: counts dropped details, by kind.
            user_of: returns the user of a process; -1 if unknown.
        """
        self.bytes = 0
        self._dropped = dropped
        self._user_of = user_of
        self._shares: dict[tuple[Detail, Hashable], _Share] = {}
        self._by_owner: Counter[str] = Counter()
        self._by_user: Counter[int] = Counter()

    def keep(
        self, kind: Detail, key: Hashable, items: Sequence[T], size: int, owner: str
    ) -> Sequence[T]:
        """Replace details; return those of the new ones for which there is room.

        Args:
            kind: what they are.
            key: whose they are, such as a client's id.
            items: the first ones are the most important.
            size: bytes of all items, as encoded.
            owner: the process that sent them.
        """
        self.release(kind, key)
        if not items:
            return items
        user = self._user_of(owner)
        free = ALL_BYTES - self.bytes
        if owner:  # what was restored belongs to nobody
            free = min(
                free,
                PROCESS_BYTES - self._by_owner[owner],
                USER_BYTES - self._by_user[user],
            )
        each = size / len(items) + OBJECT_BYTES
        room = max(0, int(free / each))
        if room < len(items):
            self._dropped.labels(kind).add(len(items) - room)
            items = items[:room]
        self._shares[kind, key] = _Share(owner, user, int(each * len(items)))
        self._count(self._shares[kind, key], 1)
        return items

    def release(self, kind: Detail, key: Hashable) -> None:
        """Forget details that are no longer kept."""
        share = self._shares.pop((kind, key), None)
        if share is not None:
            self._count(share, -1)

    def _count(self, share: _Share, sign: int) -> None:
        self.bytes += sign * share.size
        self._by_owner[share.owner] += sign * share.size
        self._by_user[share.user] += sign * share.size
        if not self._by_owner[share.owner]:
            del self._by_owner[share.owner]
