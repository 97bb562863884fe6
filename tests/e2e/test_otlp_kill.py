"""An agent killed between an OTLP request and its commit sends the same again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from tests.agents import DEADLINE, Agent, until
from tests.collectors import Backend, Point, read_points
from tests.e2e.test_otlp import agent_that_exports, executions
from tests.e2e.test_peers import metrics
from tests.e2e.test_prometheus import DURATIONS, EXECUTIONS, RECORD, counts, expected

Key = tuple[str, str]  # a metric and its node


class Killer:
    """Kills an agent that waits for the answer to a request."""

    def __init__(self, backend: Backend, agent: Agent, node_total: float) -> None:
        """Wait for a request.

        Args:
            backend: what it sends to.
            agent: the one to kill.
            node_total: the least sum of executions in the first request of a snapshot.
        """
        self.first = -1  # its number
        self.killed = threading.Event()
        self._backend = backend
        self._agent = agent
        self._total = node_total

    def kill_at(self, place: int) -> None:
        """Kill the agent at a request of the snapshot, counted from its first."""

        def look(body: bytes) -> None:
            number = len(self._backend.bodies) - 1
            values = [p.data.as_double for n, p in read_points(body) if n == EXECUTIONS]
            if self.first < 0 and sum(values) >= self._total:
                self.first = number
            if 0 <= self.first == number - place:
                self._backend.before_answer = lambda body: None
                assert self._agent.process is not None
                self._agent.process.send_signal(signal.SIGKILL)
                self.killed.set()

        self._backend.before_answer = look

    def wait(self) -> list[bytes]:
        """Return the requests of the snapshot that have arrived when it is dead."""
        assert self.killed.wait(DEADLINE)
        self._agent.stop(signal.SIGKILL)
        return self._backend.bodies[self.first :]


@pytest.fixture
def backend() -> Iterator[Backend]:
    result = Backend()
    with result.serve():
        yield result


@pytest.mark.parametrize("place", [0, 1])  # of two requests of a snapshot
@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_the_identical_points_are_sent_again(
    backend: Backend, temporality: str, place: int
) -> None:
    is_delta = temporality == "delta"

    def total() -> dict[str, float]:
        return values(backend) if is_delta else executions(backend)

    keys = {"url": f"{backend.url}/v1/metrics", "temporality": temporality}
    with agent_that_exports(0, **keys) as agent:
        agent.run(f"{RECORD}\nrecord(2, 500)\nassert kaywatch.flush(10)")
        until(lambda: total() == counts(range(2, 3), 500), "the first totals")

        killer = Killer(backend, agent, 300 if is_delta else 800)
        killer.kill_at(place)
        agent.run(f"{RECORD}\nrecord(3, 300)\nassert kaywatch.flush(10)")
        requests = killer.wait()
        assert len(requests) == place + 1
        # Once more, before any of the snapshot was answered for good.
        for _ in range(2):
            sent = len(backend.bodies)
            again = Killer(backend, agent, 300 if is_delta else 800)
            again.kill_at(place)
            agent.start()
            assert again.wait() == requests == backend.bodies[sent:]
        agent.start()
        agent.run(f"{RECORD}\nrecord(4, 200)\nassert kaywatch.flush(10)")
        exact = counts(range(2, 3), 500)
        for more in (counts(range(3, 4), 300), counts(range(4, 5), 200)):
            exact = {node: exact[node] + more[node] for node in exact}
        until(lambda: total() == exact, "all totals")
        check_points(backend, is_delta=is_delta)
        assert metrics(agent, "kaywatch_otlp_dropped_total") == {}


def values(backend: Backend) -> dict[str, float]:
    """Return the sums of a delta by node; a point that came again counts once."""
    points = {
        (point.labels["node"], point.data.time_unix_nano): point.data.as_double
        for name, point in list(backend.points)
        if name == EXECUTIONS
    }
    result: dict[str, float] = {}
    for (node, _), value in points.items():
        result[node] = result.get(node, 0.0) + value
    return result


def check_points(backend: Backend, *, is_delta: bool) -> None:
    """Check that points with the same time are identical, and that deltas follow."""
    for series in group(backend).values():
        by_time: dict[int, set[bytes]] = {}
        for point in series:
            data = point.data.SerializeToString(deterministic=True)
            by_time.setdefault(point.data.time_unix_nano, set()).add(data)
        assert all(len(each) == 1 for each in by_time.values())
        times = [point.data.time_unix_nano for point in series]
        assert len(times) > len(set(times)), "some came again"
        assert times == sorted(times)
        ordered = list({point.data.time_unix_nano: point for point in series}.values())
        if is_delta:
            for one, next_one in pairwise(ordered):
                assert next_one.data.start_time_unix_nano >= one.data.time_unix_nano
    if is_delta:
        check_histograms(backend)


def check_histograms(backend: Backend) -> None:
    """Check that the distributions of deltas have all durations, each once."""
    for (name, node), series in group(backend).items():
        if name == DURATIONS:
            unique = {each.data.time_unix_nano: each.data for each in series}.values()
            seeds = ((2, 500), (3, 300), (4, 200))
            durations = [s for seed in seeds for s in expected(*seed)[node]]
            assert sum(each.count for each in unique) == len(durations)
            assert sum(map(count_buckets, unique)) == len(durations)
            total = sum(each.sum for each in unique)
            assert total == pytest.approx(sum(durations))


def count_buckets(point: Any) -> int:
    return int(sum(point.positive.bucket_counts) + point.zero_count)


def group(backend: Backend) -> dict[Key, list[Point]]:
    """Return the points of executions and durations by metric and node."""
    result: dict[Key, list[Point]] = {}
    for name, point in list(backend.points):
        if name in (EXECUTIONS, DURATIONS):
            result.setdefault((name, point.labels["node"]), []).append(point)
    return result
