"""Numbers for names: series, actions, errors and ends of runs, up to their limits.

Overflow keeps totals correct: a series beyond the limits is counted as `__other__` of
its graph, or of its service where the graph is new as well, or in one row for each
kind. Nothing is dropped but detail.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.model.series import OTHER, EndPoint, ErrorKey, Kind, SeriesKey
from kaywatch_agent.settings.reader import Size
from kaywatch_agent.units import parse_size

__all__ = ["Excess", "Interner", "Limits", "Registry", "is_overflow"]

T = TypeVar("T", bound=Hashable)

# The names and labels of a series take 0.2 kB; the protocol allows 25 kB. The quota of
# bytes is this many for each series that the quota of series allows.
SERIES_BYTES: Final = 1_000

# The key of births among the names.
BIRTHS: Final = "births"

# Series that count what became of events; a service has a few of them, by reason.
LOSS_KINDS: Final = (Kind.LOSS, Kind.LATE, Kind.UNKNOWN)


@dataclass(frozen=True)
class Limits:
    """How much detail is kept (`[limits]`).

    Attributes:
        series: distinct series in total. Each takes about 1 kB when it is rarely used,
            and up to 20 kB when it is used all the time.
        series_per_client: distinct series that one client process may introduce.
        series_per_user: distinct series that all processes of one user may introduce,
            so that no user can use up what others need. The clients of all brokers
            count as one user.
        history: the memory for the ten-second buckets of the last hour. The oldest
            buckets beyond it are read from the store when they are needed. Without a
            store, they are dropped.
        names: distinct actions, errors and ends of runs, each.
        names_per_client: of these, how many one client process may introduce.
        names_per_user: of these, how many all processes of one user may introduce.
    """

    series: int = 50_000
    series_per_client: int = 5_000
    series_per_user: int = 40_000
    names: int = 4_096
    names_per_client: int = 1_024
    names_per_user: int = 3_072
    history: Size = "100MB"

    @property
    def history_bytes(self) -> int:
        """The memory for the buckets of the last hour, in bytes."""
        return parse_size(self.history)


class Excess(StrEnum):
    """Which limit a new name exceeds; also a label of the counter."""

    PROCESS = "process"
    USER = "user"
    TOTAL = "total"


class Interner(Generic[T]):
    """Numbers values in the order of their appearance, up to a limit."""

    def __init__(
        self,
        first: T,
        other: T,
        limit: int,
        exceeds: Callable[[str], Excess | None] = lambda _: None,
    ) -> None:
        """Give `first` the number 0; `other` stands for all values over a limit.

        Args:
            first: the first value.
            other: stands for others.
            limit: on the number of values.
            exceeds: counts a new value of a client, or returns the limit that the
                client has reached.
        """
        self.values: list[T] = [first]
        self.limit = limit
        self.overflow: Counter[Excess] = Counter()  # until somebody resets it
        self._numbers: dict[T, int] = {first: 0}
        self._other = other
        self._exceeds = exceeds

    def number(self, value: T, client: str = "") -> int:
        """Return the number of `value`, or of `other` beyond the limits.

        Args:
            value: the value.
            client: the process whose quota a new value counts for; empty for none.
        """
        number = self._numbers.get(value)
        if number is not None:
            return number
        if value != self._other:
            is_full = len(self.values) >= self.limit
            excess = Excess.TOTAL if is_full else self._exceeds(client)
            if excess is not None:
                self.overflow[excess] += 1
                return self.number(self._other)
        self._numbers[value] = len(self.values)
        self.values.append(value)
        return len(self.values) - 1

    @property
    def other(self) -> int:
        """The number of the value that stands for others."""
        return self.number(self._other)

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
        self._bytes: Counter[str] = Counter()  # of names and labels, by client
        self._by_user: Counter[int] = Counter()
        self._bytes_of_user: Counter[int] = Counter()
        self._user_of: dict[str, int] = {}  # by client

    def set_user(self, client: str, user: int) -> None:
        """Count the series that a client introduces for its user as well."""
        self._user_of[client] = user

    def user_of(self, client: str) -> int:
        """Return the user of a client; -1 if it is unknown."""
        return self._user_of.get(client, -1)

    def use(self, client: str, key: SeriesKey, limits: Limits) -> Excess | None:
        """Count one more series of a client, unless that exceeds a limit.

        All clients of brokers count as one user. The agent's own series have no client,
        and no user.
        """
        size, user = _size(key), self.user_of(client)
        most = limits.series_per_client
        if (
            self.by_client[client] >= most
            or self._bytes[client] + size > most * SERIES_BYTES
        ):
            return Excess.PROCESS
        most = limits.series_per_user
        if client and (
            self._by_user[user] >= most
            or self._bytes_of_user[user] + size > most * SERIES_BYTES
        ):
            return Excess.USER
        self.by_client[client] += 1
        self._bytes[client] += size
        if client:
            self._by_user[user] += 1
            self._bytes_of_user[user] += size
        return None

    def forget(self, client: str) -> None:
        """Drop the count of a client that has left; its user's count stays."""
        self.by_client.pop(client, None)
        self._bytes.pop(client, None)
        self._user_of.pop(client, None)


class NameQuota:
    """Counts the names of one kind that each client and each user introduced."""

    def __init__(self, user_of: Callable[[str], int]) -> None:
        self._user_of = user_of
        self._by_client: Counter[str] = Counter()
        self._by_user: Counter[int] = Counter()

    def use(self, client: str, limits: Limits) -> Excess | None:
        """Count one more name of a client, unless that exceeds a limit.

        All clients of brokers count as one user, as for details.
        """
        if not client:
            return None
        user = self._user_of(client)
        if self._by_client[client] >= limits.names_per_client:
            return Excess.PROCESS
        if self._by_user[user] >= limits.names_per_user:
            return Excess.USER
        self._by_client[client] += 1
        self._by_user[user] += 1
        return None

    def forget(self, client: str) -> None:
        """Drop the count of a client that has left; its user's count stays."""
        self._by_client.pop(client, None)


class Registry:
    """All names that have numbers, for one agent.

    Attributes:
        limits: on the numbers.
        quota: who introduced how many series.
        keys: the series by row; append-only.
        births: by row, a time at which the series was still zero, Unix seconds; the
            newest series may be missing.
        overflow_rows: the rows that stand for other series.
        overflow: lookups of series beyond a limit, until somebody resets it.
        actions, errors, ends: the other names.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.quota = SeriesQuota()
        self.keys: list[SeriesKey] = []
        self.births: list[float] = []
        self.overflow_rows: list[int] = []
        self._overflow_flags = bytearray()  # by row, 1 for those
        self.overflow: Counter[Excess] = Counter()
        self._name_quotas: list[NameQuota] = []
        self.actions = self._interner("", OTHER)
        self.errors = self._interner(ErrorKey("", ""), ErrorKey(OTHER, ""))
        other_end = EndPoint(OTHER, OTHER, OTHER)
        self.ends = self._interner(EndPoint("", "", ""), other_end)
        self._rows: dict[SeriesKey, int] = {}
        # Of the series within the limits.
        self._graphs: defaultdict[str, set[str]] = defaultdict(set)  # by service

    @property
    def interners(self) -> Mapping[str, Interner[Any]]:
        """Actions, errors and ends, by kind."""
        return {"actions": self.actions, "errors": self.errors, "ends": self.ends}

    def row(self, key: SeriesKey, client: str) -> int:
        """Return the row of a series; beyond the limits, of the one that stands for it.

        Args:
            key: the series.
            client: whose quota a new series counts for.
        """
        row = self._rows.get(key)
        if row is not None:
            return row
        is_known = key.service in self._graphs
        if key.kind in LOSS_KINDS and is_known and self._has_spare_rows:
            return self._add(key)
        is_full = len(self.keys) >= self.limits.series
        excess = Excess.TOTAL if is_full else self.quota.use(client, key, self.limits)
        if excess is not None:
            self.overflow[excess] += 1
            return self._overflow_row(key)
        self._graphs[key.service].add(key.graph)
        return self._add(key)

    def find_overflow(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Return which of the rows stand for other series.

        It takes no longer when there are tens of thousands of them, as in a flood.
        """
        # No longer-lived view: a bytearray with one cannot grow.
        found: NDArray[np.bool_] = np.frombuffer(self._overflow_flags, np.bool_)[rows]
        return found

    def forget(self, client: str) -> None:
        """Drop the counts of a client that has left."""
        self.quota.forget(client)
        for quota in self._name_quotas:
            quota.forget(client)

    def add_births(self, time: float) -> None:
        """Record that the series without a birth were zero at a time."""
        missing = len(self.keys) - len(self.births)
        self.births.extend([time] * missing)

    def limit(self, limits: Limits) -> None:
        """Use other limits; numbered names keep their numbers."""
        self.limits = limits
        for interner in self.interners.values():
            interner.limit = limits.names

    @property
    def names(self) -> dict[str, list[Any]]:
        """The numbered values other than series, and the births of series."""
        values = {kind: interner.values for kind, interner in self.interners.items()}
        return {**values, BIRTHS: self.births}

    def restore(
        self, keys: Iterable[SeriesKey], names: Mapping[str, Iterable[Any]]
    ) -> None:
        """Use the numbers that everything had before a restart."""
        self.keys[:] = keys
        self.births[:] = names.get(BIRTHS, ())
        self._rows = {key: row for row, key in enumerate(self.keys)}
        self._overflow_flags[:] = map(is_overflow, self.keys)
        self.overflow_rows[:] = [
            row for row, is_other in enumerate(self._overflow_flags) if is_other
        ]
        self._graphs.clear()
        for key in self.keys:
            self._graphs[key.service].add(key.graph)
        self.actions.restore(names["actions"])
        self.errors.restore(ErrorKey(*value) for value in names["errors"])
        self.ends.restore(EndPoint(*value) for value in names["ends"])

    def _interner(self, first: T, other: T) -> Interner[T]:
        quota = NameQuota(self.quota.user_of)
        self._name_quotas.append(quota)
        limit = self.limits.names
        return Interner(first, other, limit, lambda name: quota.use(name, self.limits))

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
            bounded = graph in (OTHER, "") or graph in self._graphs.get(service, ())
            if service == OTHER or (self._has_spare_rows and bounded):
                return self._add(other)
        raise AssertionError("the last one always has a row")

    @property
    def _has_spare_rows(self) -> bool:
        """Whether there is room for rows that the limits do not count."""
        return len(self.keys) < 2 * self.limits.series

    def _add(self, key: SeriesKey) -> int:
        row = self._rows[key] = len(self.keys)
        is_other = is_overflow(key)
        self._overflow_flags.append(is_other)
        if is_other:
            self.overflow_rows.append(row)
        self.keys.append(key)
        return row


def _size(key: SeriesKey) -> int:
    """Return the bytes that the texts of a series take."""
    texts = [*key[1:5], *(text for label in key.labels for text in label)]
    return sum(len(text.encode()) for text in texts)


def is_overflow(key: SeriesKey) -> bool:
    """Return whether a series stands for others, here or already at the client."""
    return OTHER in (key.service, key.graph, key.node, key.metric)


def _overflow_key(key: SeriesKey, service: str, graph: str) -> SeriesKey:
    """Return the series of all others of a graph, of the same kind as `key`."""
    node = "" if key.kind is Kind.RUN else OTHER
    metric = "" if key.kind in (Kind.NODE, Kind.RUN) else OTHER
    return SeriesKey(key.kind, service, graph, node, metric)
