"""Numbers for names: series, actions, errors, ends. Bounded; what is over is overflow.

Folding keeps totals true: a series beyond the caps is counted as `__other__` of its
graph, a graph's beyond those as `__other__` of its service, and so on; nothing is
dropped, only detail is. Who caused it is counted by client.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from kaywatch_agent.model.series import OTHER, EndPoint, ErrorKey, Kind, SeriesKey

__all__ = ["Interner", "Limits", "Registry", "is_overflow"]

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Limits:
    """How much detail is kept (`[limits]`).

    Attributes:
        series: distinct series in all; each costs some 1 kB for an hour of history
            when it is seldom used, and up to 40 kB when it always is.
        series_per_client: distinct series that one client's process may introduce.
        series_per_user: the same for all processes of one user, so that none can use
            up what there is for others.
        names: distinct actions, errors and ends, each.
    """

    series: int = 50_000
    series_per_client: int = 5_000
    series_per_user: int = 40_000
    names: int = 4_096


class Interner(Generic[T]):
    """Numbers for values in order of appearance, up to a cap."""

    def __init__(self, first: T, other: T, limit: int) -> None:
        """Give `first` the number 0, and `other` the number of all over `limit`."""
        self.values: list[T] = [first]
        self.overflow = 0
        self._numbers: dict[T, int] = {first: 0}
        self._other = other
        self.limit = limit

    def number(self, value: T) -> int:
        """Return the number of `value`, or of `other` beyond the limit."""
        found = self._numbers.get(value)
        if found is not None:
            return found
        if len(self.values) >= self.limit and value != self._other:
            self.overflow += 1
            return self.number(self._other)
        self._numbers[value] = len(self.values)
        self.values.append(value)
        return len(self.values) - 1

    def restore(self, values: Iterable[T]) -> None:
        """Take the numbers that values had before a restart."""
        # In place: others hold the list.
        self.values[:] = values
        self._numbers = {value: number for number, value in enumerate(self.values)}


ACCOUNTS: Final = (Kind.LOSS, Kind.LATE)

NO_ACTION: Final = ""


class Registry:
    """All names that have numbers, for one agent."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.keys: list[SeriesKey] = []
        self.by_client: Counter[str] = Counter()  # series introduced
        self.by_user: Counter[int] = Counter()  # likewise
        self._user_of: dict[str, int] = {}  # by client
        self.overflow: Counter[str] = Counter()  # series overflow, by client
        self.overflow_count = 0
        self.actions = Interner(NO_ACTION, OTHER, limits.names)
        self.errors = Interner(ErrorKey("", ""), ErrorKey(OTHER, ""), limits.names)
        other_end = EndPoint(OTHER, OTHER, OTHER)
        self.ends = Interner(EndPoint("", "", ""), other_end, limits.names)
        self.overflow_rows: list[int] = []  # rows that stand for others
        self._rows: dict[SeriesKey, int] = {}
        self._graphs: set[tuple[str, str]] = set()  # of series within the caps
        self._services: set[str] = set()  # likewise

    def row(self, key: SeriesKey, client: str) -> int:
        """Return the row of a series, overflow where the caps say so."""
        found = self._rows.get(key)
        if found is not None:
            return found
        # What became of the events of a service that is shown: a few reasons each.
        if key.kind in ACCOUNTS and key.service in self._services and self._room:
            return self._add(key)
        if (
            len(self.keys) < self.limits.series
            and self.by_client[client] < self.limits.series_per_client
            and self._user_has_room(client)
        ):
            self.by_client[client] += 1
            self.by_user[self._user_of.get(client, -1)] += 1
            self._graphs.add((key.service, key.graph))
            self._services.add(key.service)
            return self._add(key)
        self.overflow[client] += 1
        self.overflow_count += 1
        return self._overflow_row(key)

    def of_user(self, client: str, user: int) -> None:
        """Count what a client introduces for its user, too."""
        self._user_of[client] = user

    def find(self, key: SeriesKey) -> int | None:
        """Return the row of a series that is known."""
        return self._rows.get(key)

    def limit(self, limits: Limits) -> None:
        """Use other caps; what has a number keeps it."""
        self.limits = limits
        for interner in (self.actions, self.errors, self.ends):
            interner.limit = limits.names

    @property
    def names(self) -> dict[str, list[Any]]:
        """The values that have numbers besides series, by what they are."""
        return {
            "actions": self.actions.values,
            "errors": self.errors.values,
            "ends": self.ends.values,
        }

    def restore(
        self, keys: Iterable[SeriesKey], names: Mapping[str, Iterable[Any]]
    ) -> None:
        """Take the numbers that everything had before a restart."""
        self.keys[:] = keys
        self._rows = {key: row for row, key in enumerate(self.keys)}
        self.overflow_rows[:] = [
            row for row, key in enumerate(self.keys) if is_overflow(key)
        ]
        self._graphs = {(key.service, key.graph) for key in self.keys}
        self._services = {key.service for key in self.keys}
        self.actions.restore(names["actions"])
        self.errors.restore(ErrorKey(*value) for value in names["errors"])
        self.ends.restore(EndPoint(*value) for value in names["ends"])

    def forget_client(self, client: str) -> None:
        """Drop the accounts of a client that has left; its series stay."""
        self.by_client.pop(client, None)
        self.overflow.pop(client, None)
        self._user_of.pop(client, None)

    def _user_has_room(self, client: str) -> bool:
        user = self._user_of.get(client)
        return user is None or self.by_user[user] < self.limits.series_per_user

    def _overflow_row(self, key: SeriesKey) -> int:
        # The last resort is one row per kind, so folding ends.
        for service, graph in (
            (key.service, key.graph),
            (key.service, OTHER),
            (OTHER, OTHER),
        ):
            overflow = _overflow_key(key, service, graph)
            known = self._rows.get(overflow)
            if known is not None:
                return known
            if service == OTHER or (self._room and self._bounded(service, graph)):
                return self._add(overflow)
        raise AssertionError("the last fold always has a row")

    @property
    def _room(self) -> bool:
        """Whether there may be more rows of those that stand beside the series."""
        return len(self.keys) < 2 * self.limits.series

    def _bounded(self, service: str, graph: str) -> bool:
        """Whether names made up without end can't make a fold target each."""
        return graph in (OTHER, "") or (service, graph) in self._graphs

    def _add(self, key: SeriesKey) -> int:
        self._rows[key] = len(self.keys)
        if is_overflow(key):
            self.overflow_rows.append(len(self.keys))
        self.keys.append(key)
        return len(self.keys) - 1


def is_overflow(key: SeriesKey) -> bool:
    """Whether a series stands for others, here or at the client already."""
    return OTHER in (key.service, key.graph, key.node, key.metric)


def _overflow_key(key: SeriesKey, service: str, graph: str) -> SeriesKey:
    """Return the series of all others of a graph, of the same kind as `key`."""
    node = "" if key.kind is Kind.RUN else OTHER
    metric = "" if key.kind in (Kind.NODE, Kind.RUN) else OTHER
    return SeriesKey(key.kind, service, graph, node, metric)
