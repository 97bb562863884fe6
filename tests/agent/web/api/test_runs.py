"""Runs: those in progress, failed ones with their path, and how runs ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pocketflow import Flow, Node
from tests.agent.web.serving import Served, serving
from tests.agents import DEADLINE

import kaywatch
from kaywatch._process import process


class Load(Node):
    def exec(self, _: Any) -> None:
        return None


class Pay(Node):
    entered = threading.Event()
    release = threading.Event()
    failure: Exception | None = None

    def exec(self, _: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.entered.set()
        self.release.wait(DEADLINE)

    def post(self, *_: Any) -> str:
        return "unknown"


def checkout() -> Flow:
    load, pay = Load(), Pay()
    load >> pay
    flow = Flow(start=load)
    kaywatch.name(flow, "checkout")
    return flow


@pytest.fixture
def instrumented() -> Iterator[None]:
    kaywatch.instrument()
    yield
    kaywatch.uninstrument()


class Ask(Node):
    """Asks again until no question is left, which is an error."""

    def prep(self, shared: dict[str, int]) -> None:
        shared["questions"] -= 1
        if shared["questions"] < 0:
            raise LookupError("no question is left")

    def post(self, shared: object, prepared: object, result: object) -> str:
        return "again"


@pytest.mark.usefixtures("instrumented")
def test_a_failed_run_has_the_visits_of_each_node(served: Served) -> None:
    ask, think, start = Ask(), kaywatch.name(Node(), "Think"), Load()
    start >> ask
    ask - "again" >> think
    think >> ask
    flow = kaywatch.name(Flow(start=start), "interview")
    with served.recording("shop"), pytest.raises(LookupError):
        flow.run({"questions": 5})

    (ended,) = served.get("/api/v1/runs", window="5m")["ended"]
    assert ended["path"] == ["Load", "Ask", "Think", "Ask"]
    assert (ended["path_visits"], ended["visits"]) == ([1, 6, 5], 12)


@pytest.mark.usefixtures("instrumented")
def test_a_failed_run_has_its_path(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.time()
    monkeypatch.setattr(Pay, "failure", ValueError("no money"))
    with served.recording("shop"), pytest.raises(ValueError, match="no money"):
        checkout().run({})
    monkeypatch.setattr(Pay, "failure", None)
    Pay.release.set()
    with served.recording("shop"):
        for _ in range(2):
            checkout().run({})
    runs = served.get("/api/v1/runs", window="5m")

    (ended,) = runs["ended"]
    assert (ended["path"], ended["path_visits"]) == (["Load", "Pay"], [])
    assert (ended["node"], ended["visits"], ended["reason"]) == ("Pay", 2, "error")
    assert ended["graph"] == "checkout"
    assert 0 < ended["seconds"] < time.time() - began
    assert began < ended["time"] - ended["seconds"] + 0.01
    ends = {(end["reason"], end["action"]): end["count"] for end in runs["ends"]}
    assert ends == {("error", ""): 1, ("no_successors", "unknown"): 2}
    assert runs["visits"] == [
        {"service": "shop", "graph": "checkout", "runs": 3, "average": 2.0, "most": 2}
    ]
    assert served.get("/api/v1/runs", run=ended["run"])["ended"] == [ended]
    assert served.get("/api/v1/runs", run="none")["ended"] == []
    assert served.get("/api/v1/runs", graph="none")["ends"] == []
    assert served.get("/api/v1/runs", window="5m", end="-30m")["ended"] == []


class Quote(Node):
    """Fails, and answers by its fallback."""

    def exec(self, _: Any) -> None:
        raise TimeoutError("no quote")

    def exec_fallback(self, _: Any, error: Exception) -> None:
        return None


@pytest.mark.usefixtures("instrumented")
def test_a_run_that_went_on_after_a_failure_is_found_by_its_id(served: Served) -> None:
    load, quote = Load(), Quote()
    load >> quote >> Load()
    with served.recording("shop"):
        kaywatch.name(Flow(start=load), "offer").run({})
    assert served.get("/api/v1/runs")["ended"] == []
    (failure,) = served.get("/api/v1/failures")["failures"]

    def found(**query: str) -> list[dict[str, Any]]:
        ended: list[dict[str, Any]] = served.get("/api/v1/runs", **query)["ended"]
        return ended

    (run,) = found(run_prefix=failure["run"][:4])
    assert (run["run"], run["node"]) == (failure["run"], "Quote")
    assert (run["outcome"], run["reason"]) == ("fallback", "unknown")
    assert run["path"] == ["Load", "Quote"]
    assert found(run=failure["run"]) == [run]
    assert found(run=failure["run"][:4]) == []
    assert found(run_prefix=failure["run"] + "0") == []


def test_a_run_in_progress_is_not_among_those_that_ended(served: Served) -> None:
    now = time.time()
    failure = {"graph": "offer", "node": "Quote", "type": "TimeoutError", "time": now}
    batch = {
        "type": "batch",
        "v": 1,
        "service": "shop",
        "failures": [
            {**failure, "outcome": 3, "run": "5f-1"},
            {**failure, "outcome": 3, "run": "5f-2"},
            {**failure, "run": "5f-3"},
        ],
        "in_flight": [["offer", "Pay", now, run] for run in ("5f-1", "5f-3")],
    }
    served.receive([batch], "one")
    runs = served.get("/api/v1/runs", run_prefix="5f-")
    assert {run["run"] for run in runs["in_progress"]} == {"5f-1", "5f-3"}
    # An error may have ended it since the client last reported what is in flight.
    assert {run["run"] for run in runs["ended"]} == {"5f-2", "5f-3"}


@pytest.mark.usefixtures("instrumented")
def test_a_run_in_progress_is_where_it_is(served: Served) -> None:
    Pay.entered.clear()
    Pay.release.clear()
    began = time.time()
    with served.recording("shop"):
        thread = threading.Thread(target=checkout().run, args=({},))
        thread.start()
        try:
            assert Pay.entered.wait(DEADLINE)
            kaywatch.flush()
        finally:
            flights = [span.in_flight() for span in process.recorder.in_flight]
            Pay.release.set()
            thread.join()
    (flight,) = flights
    assert (flight.node, flight.visits, flight.failed_attempts) == ("Pay", 1, 0)
    assert began - 0.01 <= flight.run_started <= flight.started


def test_a_run_in_progress_has_its_cost(served: Served) -> None:
    now = time.time()
    costs = {
        "5f-1": [0.25, 1200, 0],
        "5f-2": [0.25, 1200, 400],
        "5f-3": [0, 900, 900],
        "5f-4": [],
        # Two of its nodes are in flight: both report the cost of the run.
        "5f-5": [0.5, 70, 0],
    }
    flights = [["g", "ask", now, run, 1, now, 0, *cost] for run, cost in costs.items()]
    flights.append(["g", "think", now, "5f-5", 1, now, 0, 0.5, 70, 0])
    batch = {"type": "batch", "v": 1, "service": "shop", "in_flight": flights}
    served.receive([batch], "one")
    runs = served.get("/api/v1/runs")["in_progress"]
    assert {
        run["run"]: (run["cost_usd"], run["tokens"], run["unpriced_tokens"])
        for run in runs
    } == {
        "5f-1": (0.25, 1200, 0),
        "5f-2": (0.25, 1200, 400),
        "5f-3": (None, 900, 900),
        "5f-4": (None, 0, 0),
        "5f-5": (0.5, 70, 0),
    }


def test_changes_are_the_latest_first() -> None:
    now = [1_800_000_000.0]
    with serving(lambda: now[0]) as served:
        old = {"graph": "old", "node": "a", "seconds": 0.1}
        hello = {"type": "hello", "v": 1, "service": "shop", "pid": 7, "host": "h"}
        first = {
            **hello,
            "client": b"1" * 16,
            "start": now[0],
            "tags": {"version": "1"},
        }
        second = {
            **hello,
            "client": b"2" * 16,
            "start": now[0],
            "tags": {"version": "2"},
        }
        batch = {"type": "batch", "v": 1, "service": "shop"}
        served.receive([first], "one")
        served.send_rows({**old, "end": now[0]})
        now[0] += 3000
        topology = {"graph": "old", "nodes": ["a"], "edges": []}
        served.receive([{**batch, "topologies": [topology]}], "wiring")
        now[0] += 60
        wider = {**topology, "nodes": ["a", "b"]}
        served.receive([{**batch, "topologies": [wider]}], "wiring")
        now[0] += 40
        failing = {"outcome": "error", "error": "KeyError", "end": now[0]}
        served.send_rows(
            {**old, "end": now[0]},
            {**old, "node": "b", "end": now[0]},
            {**old, **failing},
            {**old, "graph": "new", "end": now[0]},
        )
        now[0] += 50
        served.receive([second], "two")
        now[0] += 50
        served.receive([{"type": "bye", "v": 1, "client": b"2" * 16}], "two")
        answer = served.get("/api/v1/changes", since="30m", service="shop")
        assert answer["time"] == now[0]
        kinds = [
            (c["kind"], c["text"])
            for c in answer["changes"]
            if c["graph"] or c["kind"] != "process_started"
        ]
        assert kinds == [
            ("process_ended", "process 4711 on h ended"),
            ("version", "version 2, before 1"),
            ("new_node", "b: first execution"),
            ("new_graph", "new: first run"),
            ("new_error", "a: first KeyError in it"),
            ("topology", "old: nodes or edges changed"),
        ]
        assert [c["time"] for c in answer["changes"]] == sorted(
            (c["time"] for c in answer["changes"]), reverse=True
        )
        assert served.get("/api/v1/changes", service="none")["changes"] == []
        assert served.ask("/api/v1/changes?since=x").status == 400
