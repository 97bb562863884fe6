"""Agents that have seen something."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.agent.web.serving import Served, serving

import kaywatch
from kaywatch.recorder import Failure, Recorder, Topology
from kaywatch.wire import EndReason, Outcome

STRANGE = [
    "a/b",
    "50 %2F",
    'quo"te\\n',
    "joined\u200dname",
    "Zürich →",
    "{x}",
    "null",
    "?&#",
]


@pytest.fixture
def served() -> Iterator[Served]:
    """An agent that has seen nothing."""
    with serving() as result:
        yield result


@pytest.fixture(scope="module")
def shop() -> Iterator[Served]:
    """An agent that has seen two services; for tests that only read."""
    with serving() as result:
        fill(result)
        yield result


def fill(served: Served) -> None:
    """Let an agent see a little of everything."""
    with served.recording("shop", megabytes=100) as recorder:
        checkout(recorder)
        custom_metrics()
    with served.recording("back", megabytes=300, bye=True) as recorder:
        pay = recorder.series("checkout", "pay").record
        pay(0.5, Outcome.OK, 1, "default")
        for name in STRANGE:
            recorder.series("odd/graph", name).record(0.001)
    report_lost(served, {"buffer_full": 10})


def checkout(recorder: Recorder) -> None:
    """Record four runs of a graph: two fine, one failed, one cancelled."""
    load = recorder.series("checkout", "load").record
    pay = recorder.series("checkout", "pay").record
    for seconds in (0.1, 0.2, 0.3, 0.4):
        load(seconds)
    pay(0.125, Outcome.OK, 3, "default")
    pay(0.25, Outcome.FALLBACK, 2, "later", ("TimeoutError", "exec"))
    pay(1.0, Outcome.ERROR, 4, "", ("KeyError", "post"))
    pay(2.0, Outcome.CANCELLED, 1, "", ("CancelledError", "exec"))
    recorder.series("checkout", "notify").record(
        0.05, Outcome.SUPPRESSED, 1, "default", ("OSError", "prep")
    )
    ends: list[tuple[float, Outcome, EndReason, str, str, int]] = [
        (0.225, Outcome.OK, EndReason.NO_SUCCESSORS, "pay", "default", 2),
        (0.45, Outcome.OK, EndReason.UNMATCHED_ACTION, "pay", "later", 2),
        (1.3, Outcome.ERROR, EndReason.ERROR, "pay", "", 2),
        (2.4, Outcome.CANCELLED, EndReason.CANCELLED, "pay", "", 2),
    ]
    for seconds, outcome, reason, node, action, visits in ends:
        recorder.run_ended("checkout", seconds, outcome, reason, node, action, visits)
    recorder.add_topology(
        Topology(
            "checkout",
            "load",
            ("load", "pay", "notify"),
            (("load", "default", "pay"), ("pay", "default", "notify")),
        )
    )
    for number, kind in enumerate(("TimeoutError", "KeyError")):
        recorder.add_failure(
            Failure(
                1_700_000_000.0 + number,
                "checkout",
                "pay",
                kind,
                f"message {number}",
                "exec",
                2,
                Outcome.FALLBACK if number == 0 else Outcome.ERROR,
                "run-1",
            )
        )


def custom_metrics() -> None:
    """Record custom metrics, in a node and outside any."""
    with kaywatch.execution("checkout", "enrich"):
        for size in (100, 300, 200):
            kaywatch.observe("data_size", size)
        kaywatch.observe("processing_rate", 50.0)
        kaywatch.observe("processing_rate", 150.0)
        kaywatch.observe("items", 4, **{"data-size": "big", "le": "1", "node": "x"})
        kaywatch.count("orders", 5)
        kaywatch.gauge("queue_depth", 7)
        kaywatch.gauge("queue_depth", 3)
        kaywatch.record_llm(
            model="small", input_tokens=10, output_tokens=20, cost_usd=0.25
        )
    kaywatch.count("orders", 2)


def report_lost(served: Served, drops: dict[str, int]) -> None:
    """Let a client of `shop` say that it lost events."""
    served.receive(
        [
            {
                "type": "batch",
                "v": 1,
                "client": b"lossy-client-001",
                "seq": 1,
                "service": "shop",
                "recorded": sum(drops.values()) + 1,
                "drops": drops,
                "events": [{"graph": "checkout", "node": "load", "seconds": 0.1}],
            }
        ],
        "lossy",
        megabytes=0,
    )
