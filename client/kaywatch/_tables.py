"""The tables of a recorder: numbered names, and revisited nodes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from itertools import count
from typing import Final, Generic, TypeVar

__all__ = ["MAX_REVISITS", "MAX_SERIES", "NumberedTable", "Revisits"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Distinct (graph, node) pairs and custom metrics of one process; later ones are
# folded into `__other__` of their graph. A graph built per request with a fresh name
# each time would otherwise fill the application's memory.
MAX_SERIES: Final = 5_000

# Entries for nodes that runs revisited, between two batches. A node gets another entry
# only when a run revisited it more often than any run before.
MAX_REVISITS: Final = 2 * MAX_SERIES


class NumberedTable(Generic[K, V]):
    """Objects by key, each with its number in the table of a batch.

    Attributes:
        keys: the keys by number, from 0 without gaps.
        objects: the objects by key.
        folded: the number of keys beyond the limit.
    """

    def __init__(self) -> None:
        self.keys: dict[int, K] = {}
        self.objects: dict[K, V] = {}
        self.folded = 0
        self._numbers = count()

    def add(self, key: K, make: Callable[[int], V]) -> V:
        """Add `make(number)` under a new key and return it.

        No lock: of two threads that add the same key, one loses setdefault and leaves
        a number that nothing refers to.
        """
        number = next(self._numbers)
        self.keys[number] = key
        return self.objects.setdefault(key, make(number))


class Revisits:
    """The nodes that ended runs visited more than once, until a batch takes them.

    Attributes:
        left_out: the number of entries beyond the limit.
    """

    def __init__(self) -> None:
        self.left_out = 0
        self._nodes: list[tuple[str, str, int]] = []  # (graph, node, visits)
        self._most: dict[tuple[str, str], int] = {}  # the most visits in `_nodes`

    def add(self, graph: str, counts: Mapping[str, int]) -> None:
        """Add the visits of a run that ended, where they exceed those of earlier runs.

        Two threads may both add an entry for a node; the larger one counts.
        """
        most = self._most
        for node, visits in counts.items():
            key = graph, node
            if visits > most.get(key, 1):
                most[key] = visits
                if len(self._nodes) < MAX_REVISITS:
                    self._nodes.append((graph, node, visits))
                else:
                    self.left_out += 1

    def take(self) -> list[tuple[str, str, int]]:
        """Return all (graph, node, visits) added since the last call."""
        taken = self._nodes[:]
        del self._nodes[: len(taken)]
        self._most.clear()
        return taken
