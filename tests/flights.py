"""An execution that never ends, for tests of what is told of those under way."""

from __future__ import annotations

from kaywatch.recorder import Flight


class Endless:
    def __init__(self, graph: str, node: str, started: float, run: int = 0) -> None:
        self._flight = Flight(graph, node, started, run, 0)

    def flight(self) -> Flight:
        return self._flight
