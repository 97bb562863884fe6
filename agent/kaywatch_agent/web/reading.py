"""What an answer is made from: one frozen picture, and the windows in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, Final, NamedTuple, TypeVar

from kaywatch_agent.aggregate.bucket import Bucket, Dimension, gather
from kaywatch_agent.aggregate.completeness import Completeness, EventCounts
from kaywatch_agent.aggregate.group_stats import (
    ALL_DIMENSIONS,
    GroupStats,
    SeriesGroups,
)
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, View
from kaywatch_agent.model.alerts import MessageRecord, ReceiverRecord
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.rules.rule import AlertSettings
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.runtime.health import HealthReport
from kaywatch_agent.runtime.metrics import Instrument
from kaywatch_agent.units import MIB
from kaywatch_agent.web.api import schema

__all__ = [
    "Matches",
    "OwnFigures",
    "Reading",
    "Window",
    "account",
    "completeness",
    "matching",
]

T = TypeVar("T", bound=Hashable)

Matches = Callable[[SeriesKey], bool]
OwnFigures = tuple[tuple[Instrument, dict[tuple[str, ...], float]], ...]


def no_alerts() -> AlertsSnapshot:
    """Return that nothing is known of alerts."""
    return AlertsSnapshot(0.0, AlertSettings({}))


class Letters(NamedTuple):
    """The messages that are kept, the newest first, to be read once; the receivers."""

    messages: Iterable[MessageRecord] = ()
    receivers: tuple[ReceiverRecord, ...] = ()


NO_LETTERS: Final = Letters()


@dataclass(frozen=True)
class Reading:
    """All that an answer may look at; safe to read in another thread.

    Attributes:
        now: Unix seconds.
        started: when the agent started.
        version: the agent's.
        socket: the path of the socket that clients push to.
        view: what is aggregated.
        health: the stages' readiness.
        memory: the largest peak RSS of each service's clients, in bytes.
        presence: how many clients are in each state.
        own: the agent's own metrics.
        clients: described, for the answers that asked for them; else none.
        accept: the request's Accept header.
        gzip: whether the answer may be compressed.
        picture: returns all about alerts; waits for an evaluation's end.
        alerts: how many are in each state.
        letters: messages and receivers, for the answers that asked for them.
    """

    now: float
    started: float
    version: str
    socket: str
    view: View
    health: HealthReport
    memory: Mapping[str, int]
    presence: Mapping[str, int]
    own: OwnFigures
    clients: tuple[schema.ClientAnswer, ...] = ()
    accept: str = ""
    gzip: bool = False
    picture: Callable[[], AlertsSnapshot] = no_alerts
    alerts: Mapping[AlertState, int] = field(default_factory=dict)
    letters: Letters = NO_LETTERS

    @cached_property
    def keys(self) -> list[SeriesKey]:
        """The series known, by row; a copy, for the registry goes on growing."""
        return list(self.view.registry.keys)

    @cached_property
    def rows(self) -> dict[Kind, list[int]]:
        """The rows of each kind of series."""
        found: dict[Kind, list[int]] = {kind: [] for kind in Kind}
        for row, key in enumerate(self.keys):
            found[key.kind].append(row)
        return found

    def of(self, *kinds: Kind) -> Iterator[SeriesKey]:
        """Yield the series of some kinds."""
        keys = self.keys
        for kind in kinds:
            for row in self.rows[kind]:
                yield keys[row]

    def groups(
        self,
        kinds: Iterable[Kind],
        name: Callable[[SeriesKey], T | None],
        names: Iterable[T] = (),
    ) -> SeriesGroups[T]:
        """Return series of some kinds in groups; see SeriesGroups."""
        rows = chain.from_iterable(self.rows[kind] for kind in kinds)
        return SeriesGroups(self.keys, rows, name, names)

    def memory_mb(self, services: Iterable[str]) -> float | None:
        """Return the largest peak RSS among services, in MiB, where known."""
        peak = max((self.memory.get(service, 0) for service in services), default=0)
        return peak / MIB if peak else None


class Window:
    """A stretch of time up to now, or all since first seen."""

    def __init__(self, reading: Reading, seconds: int | None) -> None:
        """Look at the last `seconds`, in whole steps; None for all."""
        view = reading.view
        self.seconds = seconds
        self._reading = reading
        self._steps: list[Bucket] = (
            [view.totals]
            if seconds is None
            else gather(
                step
                for _, step in view.between(
                    view.now - seconds, view.now + BUCKET_SECONDS
                )
            )
        )

    def figures(
        self, groups: SeriesGroups[Any], facets: Collection[Dimension] = ALL_DIMENSIONS
    ) -> GroupStats:
        """Return the figures of groups of series in this window."""
        found = GroupStats(groups.numbers, len(groups), facets)
        for step in self._steps:
            found.add(step)
        return found

    @cached_property
    def completeness(self) -> Completeness:
        """How complete the figures of this window are."""
        found = completeness(self._reading)
        for step in self._steps:
            found.add(step)
        return found


def completeness(reading: Reading) -> Completeness:
    """Return a count of what became of events, with nothing counted yet."""
    return Completeness(reading.keys, reading.view.registry.overflow_rows)


def account(counts: EventCounts) -> schema.Account:
    """Return what became of events, as answers show it."""
    return schema.Account(
        received=counts.received,
        dropped=dict(counts.dropped),
        late=counts.late,
        overflow=counts.overflow,
        ratio=counts.ratio,
    )


def matching(
    *,
    service: str | None = None,
    graph: str | None = None,
    node: str | None = None,
) -> Matches:
    """Return whether a series matches all that is given."""

    def matches(key: SeriesKey) -> bool:
        return (
            (service is None or key.service == service)
            and (graph is None or key.graph == graph)
            and (node is None or key.node == node)
        )

    return matches
