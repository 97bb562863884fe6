"""Executions and runs that never end, for tests of those in progress."""

from __future__ import annotations

from collections.abc import Mapping

from kaywatch.recorder import ExecutionInFlight, RunVisits


class Endless:
    failures = 0
    cost = (0.0, 0.0, 0.0)

    def __init__(self, graph: str, node: str, started: float, run: int = 0) -> None:
        run_started = started - 1 if run else 0.0
        self._flight = ExecutionInFlight(graph, node, started, run, 0, run_started, 0)

    def in_flight(self) -> ExecutionInFlight:
        return self._flight

    def failed_attempts(self) -> int:
        return self.failures

    def run_cost(self) -> tuple[float, float, float]:
        return self.cost


class Spinning:
    def __init__(self, graph: str, run: int, counts: Mapping[str, int]) -> None:
        self._looped = RunVisits(graph, run, sum(counts.values()), counts)

    def revisits(self) -> RunVisits | None:
        return self._looped
