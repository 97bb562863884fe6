"""Data for rules to evaluate that is made up instead of measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import Outcome, Phase
from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, merge, reduce
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, View
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.records import FailureRecord
from kaywatch_agent.model.series import Columns, ErrorKey, Kind, SeriesKey
from kaywatch_agent.rules.windows import EvalInput

__all__ = ["SyntheticSource"]


class SyntheticSource:
    """Everything that has happened so far.

    Attributes:
        clients: the client processes, by pid.
        failures: the latest failures, the oldest first.
        started: since when the agent has been observing, Unix seconds.
    """

    def __init__(self, started: float) -> None:
        """Start without data.

        Args:
            started: since when the agent has been observing, Unix seconds.
        """
        self.clients: dict[int, Client] = {}
        self.failures: list[FailureRecord] = []
        self.started = started
        self._registry = Registry(Limits())
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
        action: str = "",
        error: ErrorKey | None = None,
    ) -> None:
        """Let executions or runs end at a time.

        Args:
            key: the series.
            time: Unix seconds.
            outcomes: how many have each outcome.
            seconds: the duration of each.
            attempts: of each; for a run, the nodes that it visited.
            action: the action that each ended with.
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
            known = self._longest.setdefault(int(time // BUCKET_SECONDS), {})
            known[row] = max(known.get(row, 0), attempts)
        for _ in range(min(5, outcomes.get(Outcome.ERROR, 0)) if error else 0):
            self._fail(key, time, error or ErrorKey("", ""), attempts)

    def add_values(self, key: SeriesKey, time: float, values: Sequence[float]) -> None:
        """Record values of a custom metric at a time."""
        none = np.zeros(len(values), np.uint8)
        errors = np.zeros(len(values), np.int64)
        self._add(self._row(key), time, np.array(values, float), none, 1, "", errors)

    def eval_input(self, now: float) -> EvalInput:
        """Return the input of an evaluation at a time."""
        oldest = int((now - 86_400.0) // BUCKET_SECONDS)
        for number in [n for n in self._steps if n < oldest]:
            del self._steps[number]
        view = View(
            now,
            self.started,
            self._totals,
            self._steps,
            self._registry,
            tuple(self.failures),
            {},
            longest=self._longest,
        )
        return EvalInput(now, now - self.started, view, tuple(self.clients.values()))

    # -- inside ------------------------------------------------------------------------

    def _row(self, key: SeriesKey) -> int:
        return self._registry.row(key, "")

    def _add(
        self,
        row: int,
        time: float,
        values: NDArray[np.float64],
        outcomes: NDArray[np.uint8],
        attempts: int,
        action: str,
        errors: NDArray[np.int64],
    ) -> None:
        size = len(values)
        number = self._registry.actions.number(action) if action else 0
        step = reduce(
            Columns(
                np.full(size, row),
                np.full(size, time),
                values,
                outcomes,
                np.full(size, attempts),
                np.full(size, number),
                errors,
            )
        )
        bucket = int(time // BUCKET_SECONDS)
        self._steps[bucket] = merge([self._steps.get(bucket, EMPTY), step])
        self._totals = merge([self._totals, step])

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
