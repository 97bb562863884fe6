"""Data for rules to evaluate that is made up instead of measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import Outcome, Phase
from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, merge
from kaywatch_agent.aggregate.history import History
from kaywatch_agent.aggregate.reduction import reduce
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, DAY, HOUR, View
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.records import FailureRecord, TopologyRecord
from kaywatch_agent.model.series import Columns, EndPoint, ErrorKey, Kind, SeriesKey
from kaywatch_agent.rules.windows import EvalInput

__all__ = ["SyntheticSource"]

STEPS_PER_HOUR: Final = int(HOUR // BUCKET_SECONDS)

# Rules compare with a week ago.
MAX_DAYS: Final = 9


class SyntheticSource:
    """Everything that has happened so far.

    Attributes:
        clients: the client processes, by pid.
        failures: the latest failures, the oldest first.
        topologies: by service and graph.
        started: since when the agent has been observing, Unix seconds.
    """

    def __init__(self, started: float) -> None:
        """Start without data.

        Args:
            started: since when the agent has been observing, Unix seconds.
        """
        self.clients: dict[int, Client] = {}
        self.failures: list[FailureRecord] = []
        self.topologies: dict[tuple[str, str], TopologyRecord] = {}
        self.started = started
        self._registry = Registry(Limits())
        self._pending: dict[int, list[Columns]] = {}
        self._steps: dict[int, Bucket] = {}
        self._totals = EMPTY
        self._longest: dict[int, dict[int, int]] = {}

    def add_executions(
        self,
        key: SeriesKey,
        time: float,
        outcomes: Mapping[Outcome, int],
        *,
        seconds: float = 0.1,
        attempts: int = 1,
        action: str | EndPoint = "",
        error: ErrorKey | None = None,
    ) -> None:
        """Let executions or runs end at a time.

        Args:
            key: the series.
            time: Unix seconds.
            outcomes: how many have each outcome.
            seconds: the duration of each.
            attempts: of each; for a run, the nodes that it visited.
            action: the action that each ended with; of a run, where and why it ended.
            error: of those whose outcome is not ok.
        """
        codes = np.repeat(
            np.array([int(outcome) for outcome in outcomes], np.uint8),
            np.array(list(outcomes.values()), np.int64),
        )
        number = self._registry.errors.number(error) if error is not None else 0
        errors = np.where(codes == Outcome.OK, 0, number).astype(np.int64)
        row = self._row(key)
        self._add(
            row, time, np.full(len(codes), seconds), codes, attempts, action, errors
        )
        if key.kind is Kind.RUN:
            longest = self._longest.setdefault(int(time // BUCKET_SECONDS), {})
            longest[row] = max(longest.get(row, 0), attempts)
        for _ in range(min(5, outcomes.get(Outcome.ERROR, 0)) if error else 0):
            self._fail(key, time, error or ErrorKey("", ""), attempts)

    def add_values(self, key: SeriesKey, time: float, values: Sequence[float]) -> None:
        """Record values of a custom metric at a time."""
        none = np.zeros(len(values), np.uint8)
        errors = np.zeros(len(values), np.int64)
        self._add(self._row(key), time, np.array(values, float), none, 1, "", errors)

    @property
    def registry(self) -> Registry:
        """The names of series, actions and errors."""
        return self._registry

    def steps(self) -> Mapping[int, Bucket]:
        """Return the added events, by step of ten seconds."""
        self._reduce()
        return self._steps

    def eval_input(self, now: float) -> EvalInput:
        """Return the input of an evaluation at a time."""
        self._reduce()
        self._merge_old_steps(now)
        view = View(
            now,
            self.started,
            self._totals,
            History(self._steps),
            self._registry,
            tuple(self.failures),
            self.topologies,
            longest=self._longest,
        )
        return EvalInput(now, now - self.started, view, tuple(self.clients.values()))

    # -- inside ------------------------------------------------------------------------

    def _merge_old_steps(self, now: float) -> None:
        """Merge steps that are older than a day by hour, as the store does."""
        oldest = int((now - DAY) // BUCKET_SECONDS)
        forgotten = int((now - MAX_DAYS * DAY) // BUCKET_SECONDS)
        for number in [n for n in self._steps if n < oldest and n % STEPS_PER_HOUR]:
            step, hour = self._steps.pop(number), number - number % STEPS_PER_HOUR
            self._steps[hour] = merge([self._steps.get(hour, EMPTY), step])
        for number in [n for n in self._steps if n < forgotten]:
            del self._steps[number]

    def _number(self, action: str | EndPoint) -> int:
        if isinstance(action, EndPoint):
            return self._registry.ends.number(action)
        return self._registry.actions.number(action)

    def _row(self, key: SeriesKey) -> int:
        return self._registry.row(key, "")

    def _add(
        self,
        row: int,
        time: float,
        values: NDArray[np.float64],
        outcomes: NDArray[np.uint8],
        attempts: int,
        action: str | EndPoint,
        errors: NDArray[np.int64],
    ) -> None:
        size = len(values)
        number = self._number(action) if action else 0
        columns = Columns(
            np.full(size, row),
            np.full(size, time),
            values,
            outcomes,
            np.full(size, attempts),
            np.full(size, number),
            errors,
        )
        self._pending.setdefault(int(time // BUCKET_SECONDS), []).append(columns)

    def _reduce(self) -> None:
        """Aggregate the added events, all series of a step at once."""
        for number, parts in self._pending.items():
            step = reduce(
                Columns(*[np.concatenate(each) for each in zip(*parts, strict=True)])
            )
            self._steps[number] = merge([self._steps.get(number, EMPTY), step])
            self._totals = merge([self._totals, step])
        self._pending.clear()

    def _fail(
        self, key: SeriesKey, time: float, error: ErrorKey, attempts: int
    ) -> None:
        self.failures.append(
            FailureRecord(
                time=time,
                service=key.service,
                graph=key.graph,
                node=key.node,
                type=error.type,
                phase=Phase(error.phase),
                attempts=attempts,
            )
        )
        del self.failures[:-1000]
