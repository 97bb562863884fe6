"""Numbers for names: series, actions, errors and ends of runs, up to their limits.

Overflow keeps totals correct: a series beyond the limits is counted as `__other__` of
its graph, or of its service where the graph is new as well, or in one row for each
kind. Nothing is dropped but detail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from kaywatch_agent.model.series import OTHER, EndPoint, ErrorKey, Kind, SeriesKey

__all__ = ["Interner", "Limits", "Registry", "is_overflow"]

T = TypeVar("T", bound=Hashable)

# Series that count what became of events; a service has a few of them, by reason.
LOSS_KINDS: Final = (Kind.LOSS, Kind.LATE)


@dataclass(frozen=True)
class Limits:
    """How much detail is kept (`[limits]`).

    Attributes:
        series: distinct series in total. For an hour of history, each takes about 1 kB
            when it is rarely used and up to 40 kB when it is used all the time.
        series_per_client: distinct series that one client process may introduce.
        series_per_user: distinct series that all processes of one user may introduce,
            so that no user can use up what others need.
        names: distinct actions, errors and ends of runs, each.
    """

    series: int = 50_000
    series_per_client: int = 5_000
    series_per_user: int = 40_000
    names: int = 4_096


class Interner(Generic[T]):
    """Numbers values in the order of their appearance, up to a limit."""

    def __init__(self, first: T, other: T, limit: int) -> None:
        """Give `first` the number 0; `other` stands for all values over `limit`."""
        self.values: list[T] = [first]
        self.limit = limit
        self._numbers: dict[T, int] = {first: 0}
        self._other = other

    def number(self, value: T) -> int:
        """Return the number of `value`, or of `other` beyond the limit."""
        number = self._numbers.get(value)
        if number is not None:
            return number
        if len(self.values) >= self.limit and value != self._other:
            return self.number(self._other)
        self._numbers[value] = len(self.values)
        self.values.append(value)
        return len(self.values) - 1

    def restore(self, values: Iterable[T]) -> None:
        """Use the numbers that values had before a restart."""
        # In place: others hold the list.
        self.values[:] = values
        self._numbers = {value: number for number, value in enumerate(self.values)}


class SeriesQuota:
    """Counts the series that each client and each user introduced.

    Attributes:
        by_client: series introduced, by client.
    """

    def __init__(self) -> None:
        self.by_client: Counter[str] = Counter()
        self._by_user: Counter[int] = Counter()
        self._user_of: dict[str, int] = {}  # by client

    def set_user(self, client: str, user: int) -> None:
        """Count the series that a client introduces for its user as well."""
        self._user_of[client] = user

    def use(self, client: str, limits: Limits) -> bool:
        """Count one more series of a client; return whether its limits allow it."""
        user = self._user_of.get(client, -1)
        if self.by_client[client] >= limits.series_per_client or (
            user >= 0 and self._by_user[user] >= limits.series_per_user
        ):
            return False
        self.by_client[client] += 1
        self._by_user[user] += 1
        return True

    def forget(self, client: str) -> None:
        """Drop the count of a client that has left; its user's count stays."""
        self.by_client.pop(client, None)
        self._user_of.pop(client, None)


class Registry:
    """All names that have numbers, for one agent.

    Attributes:
        limits: on the numbers.
        quota: who introduced how many series.
        keys: the series by row; append-only.
        overflow_rows: the rows that stand for other series.
        overflow_count: lookups of series beyond the limits, until somebody resets it.
        actions, errors, ends: the other names.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.quota = SeriesQuota()
        self.keys: list[SeriesKey] = []
        self.overflow_rows: list[int] = []
        self.overflow_count = 0
        self.actions = Interner("", OTHER, limits.names)
        self.errors = Interner(ErrorKey("", ""), ErrorKey(OTHER, ""), limits.names)
        other_end = EndPoint(OTHER, OTHER, OTHER)
        self.ends = Interner(EndPoint("", "", ""), other_end, limits.names)
        self._rows: dict[SeriesKey, int] = {}
        # Of the series within the limits.
        self._graphs: set[tuple[str, str]] = set()
        self._services: set[str] = set()

    def row(self, key: SeriesKey, client: str) -> int:
        """Return the row of a series; beyond the limits, of the one that stands for it.

        Args:
            key: the series.
            client: whose quota a new series counts for.
        """
        row = self._rows.get(key)
        if row is not None:
            return row
        known = key.service in self._services
        if key.kind in LOSS_KINDS and known and self._has_spare_rows:
            return self._add(key)
        if len(self.keys) < self.limits.series and self.quota.use(client, self.limits):
            self._graphs.add((key.service, key.graph))
            self._services.add(key.service)
            return self._add(key)
        self.overflow_count += 1
        return self._overflow_row(key)

    def limit(self, limits: Limits) -> None:
        """Use other limits; what has a number keeps it."""
        self.limits = limits
        for interner in (self.actions, self.errors, self.ends):
            interner.limit = limits.names

    @property
    def names(self) -> dict[str, list[Any]]:
        """The numbered values other than series."""
        return {
            "actions": self.actions.values,
            "errors": self.errors.values,
            "ends": self.ends.values,
        }

    def restore(
        self, keys: Iterable[SeriesKey], names: Mapping[str, Iterable[Any]]
    ) -> None:
        """Use the numbers that everything had before a restart."""
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

    def _overflow_row(self, key: SeriesKey) -> int:
        # The last one is a row for each kind, so the search always ends.
        for service, graph in (
            (key.service, key.graph),
            (key.service, OTHER),
            (OTHER, OTHER),
        ):
            other = _overflow_key(key, service, graph)
            row = self._rows.get(other)
            if row is not None:
                return row
            # Invented names without end must not get a row each.
            bounded = graph in (OTHER, "") or (service, graph) in self._graphs
            if service == OTHER or (self._has_spare_rows and bounded):
                return self._add(other)
        raise AssertionError("the last one always has a row")

    @property
    def _has_spare_rows(self) -> bool:
        """Whether there is room for rows that the limits do not count."""
        return len(self.keys) < 2 * self.limits.series

    def _add(self, key: SeriesKey) -> int:
        row = self._rows[key] = len(self.keys)
        if is_overflow(key):
            self.overflow_rows.append(row)
        self.keys.append(key)
        return row


def is_overflow(key: SeriesKey) -> bool:
    """Return whether a series stands for others, here or already at the client."""
    return OTHER in (key.service, key.graph, key.node, key.metric)


def _overflow_key(key: SeriesKey, service: str, graph: str) -> SeriesKey:
    """Return the series of all others of a graph, of the same kind as `key`."""
    node = "" if key.kind is Kind.RUN else OTHER
    metric = "" if key.kind in (Kind.NODE, Kind.RUN) else OTHER
    return SeriesKey(key.kind, service, graph, node, metric)
