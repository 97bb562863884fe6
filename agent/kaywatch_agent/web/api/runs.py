"""Runs in progress, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta

from kaywatch_agent.model.bounds import Count, Moment
from kaywatch_agent.model.records import InFlight
from kaywatch_agent.model.series import Kind
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.snapshot import AgentSnapshot, ClientActivity, Window

__all__ = ["RunInProgress", "count_in_flight", "list_in_progress"]

# Two calls of `exec` in a row failed.
RETRYING_FAILURES: Final = 2

# A node is visited this often, and this many times as often as in any run that ended
# within the hour.
LOOPING_VISITS: Final = 10
LOOPING_FACTOR: Final = 3

# A node has been in flight this long, and this many times as long as its slowest
# execution that ended.
STUCK_SECONDS: Final = 10.0
STUCK_FACTOR: Final = 3.0

Trouble = Literal["retrying", "looping", "stuck"]
NodePlace = tuple[str, str, str]


class RunInProgress(ResponseBody):
    """One run in progress: where it is since when, and what is wrong with it.

    `retrying`: two calls of `exec` in a row failed. `looping`: it has visited a node at
    least 10 times, and three times as often as any run that ended within the hour.
    `stuck`: it has been in its node for 10 s and three times as long as the node's
    slowest execution. `start` is 0 if it is unknown.
    """

    service: str
    graph: str
    run: str
    client: str
    pid: Count
    host: str
    start: Moment
    node: str
    node_start: Moment
    visits: Annotated[int, Meta(ge=0, description="of nodes, without the present one")]
    trouble: list[Trouble]

    @property
    def key(self) -> str:
        """What identifies it among all runs."""
        return f"{self.client}/{self.run}"


def count_in_flight(snapshot: AgentSnapshot) -> Counter[NodePlace]:
    """Return the number of executions in progress by service, graph and node."""
    return Counter(
        (activity.service, execution.graph, execution.node)
        for activity in snapshot.activities
        for execution in activity.in_flight
    )


def list_in_progress(snapshot: AgentSnapshot) -> list[RunInProgress]:
    """Return the runs in progress: those in trouble first, then the longest."""
    trouble = _TroubleFinder(snapshot)
    runs = [
        _run(activity, executions, trouble)
        for activity in snapshot.activities
        for executions in _by_run(activity)
    ]
    return sorted(runs, key=lambda run: (not run.trouble, run.start, run.key))


# -- inside --------------------------------------------------------------------------


def _by_run(activity: ClientActivity) -> Iterator[list[InFlight]]:
    """Yield the executions in progress of each run, the latest last."""
    runs: dict[tuple[str, str], list[InFlight]] = {}
    for execution in sorted(activity.in_flight, key=lambda one: one.start):
        if execution.run and execution.graph:
            runs.setdefault((execution.graph, execution.run), []).append(execution)
    yield from runs.values()


def _run(
    activity: ClientActivity, executions: list[InFlight], trouble: _TroubleFinder
) -> RunInProgress:
    latest = executions[-1]
    return RunInProgress(
        service=activity.service,
        graph=latest.graph,
        run=latest.run,
        client=activity.client,
        pid=activity.pid,
        host=activity.host,
        start=latest.run_start or executions[0].start,
        node=latest.node,
        node_start=latest.start,
        visits=max(execution.visits for execution in executions),
        trouble=trouble.of(activity, executions),
    )


class _TroubleFinder:
    """Compares runs in progress with what their nodes did before."""

    def __init__(self, snapshot: AgentSnapshot) -> None:
        self._now = snapshot.now
        in_flight = count_in_flight(snapshot)
        self._slowest = _slowest(snapshot, in_flight) if in_flight else {}
        self._visits = _most_visits(snapshot)

    def of(self, activity: ClientActivity, executions: list[InFlight]) -> list[Trouble]:
        """Return what is wrong with a run."""
        graph, run = executions[0].graph, executions[0].run
        failed = max(execution.failed_attempts for execution in executions)
        trouble: list[Trouble] = []
        if failed >= RETRYING_FAILURES:
            trouble.append("retrying")
        if any(
            loop.visits >= LOOPING_VISITS
            and loop.visits
            > LOOPING_FACTOR * self._visits.get((activity.service, graph, loop.node), 0)
            for loop in activity.loops
            if loop.node and (loop.graph, loop.run) == (graph, run)
        ):
            trouble.append("looping")
        if any(self._is_stuck(activity.service, one) for one in executions):
            trouble.append("stuck")
        return trouble

    def _is_stuck(self, service: str, execution: InFlight) -> bool:
        slowest = self._slowest.get((service, execution.graph, execution.node))
        if slowest is None or not execution.start:
            return False
        limit = max(STUCK_SECONDS, STUCK_FACTOR * slowest)
        return self._now - execution.start > limit


def _slowest(
    snapshot: AgentSnapshot, places: Counter[NodePlace]
) -> dict[NodePlace, float]:
    """Return the longest execution of places since first seen."""

    def place(key: tuple[object, ...]) -> NodePlace | None:
        name = (str(key[1]), str(key[2]), str(key[3]))
        return name if name in places else None

    groups = snapshot.groups([Kind.NODE], place)
    longest = Window(snapshot, None).stats(groups, ()).mosts()
    return {
        name: seconds
        for name, seconds in zip(groups.names, longest, strict=True)
        if seconds is not None
    }


def _most_visits(snapshot: AgentSnapshot) -> dict[NodePlace, int]:
    """Return the most visits of a node in one run that ended within the hour."""
    most: dict[NodePlace, int] = {}
    for rows in snapshot.view.longest.values():
        for row, visits in rows.items():
            key = snapshot.keys[row]
            if key.kind is Kind.NODE:
                name = (key.service, key.graph, key.node)
                most[name] = max(most.get(name, 1), visits)
    return most
