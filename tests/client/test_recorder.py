"""The hot path: no event is lost silently, and no call raises."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from tests.flights import Endless, Spinning

from kaywatch import _pending
from kaywatch import recorder as module
from kaywatch._tables import MAX_REVISITS
from kaywatch.recorder import Failure, Recorder, Topology
from kaywatch.wire import EXECUTION_COLUMNS, PHASE_COLUMNS, POINT_COLUMNS

PHASED_WIDTH = len(EXECUTION_COLUMNS) + len(PHASE_COLUMNS)


def open_recorder(on_pressure: Callable[[], object] = lambda: None) -> Recorder:
    recorder = Recorder(on_pressure)
    recorder.open()
    return recorder


def test_first_event_starts_the_sender() -> None:
    asked: list[str] = []
    recorder = Recorder(lambda: asked.append("start"))

    recorder.series("g", "n").record(0.1)

    assert asked == ["start"]
    assert len(recorder.pending.executions.flat) == len(EXECUTION_COLUMNS)


def test_every_kind_of_event_starts_the_sender() -> None:
    asked: list[str] = []
    recorder = Recorder(lambda: asked.append("start"))
    series = recorder.series("g", "n")

    series.record_plain(0.1)
    recorder.pending.visits.record((series.number, 2.0, 1.0, 1.2, 1.4, "default"))
    recorder.point("count", "c", "g", "n")(1)
    recorder.run_ended("g", 0.1, 0, "error", "n", "", 1)

    assert asked == ["start"] * 4
    assert len(recorder.pending.plain.flat) == 3
    assert len(recorder.pending.visits.flat) == 6


def test_only_a_full_batch_wakes_a_running_sender(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_pending, "WAKE_EVENTS", 10)
    asked: list[str] = []
    recorder = open_recorder(lambda: asked.append("wake"))
    record = recorder.series("g", "n").record

    for _ in range(10):
        record(0.1)
    assert asked == []
    record(0.1)
    assert asked == ["wake"]
    # Woken once: the thousands that come until it has its turn don't wait for it.
    for _ in range(10):
        record(0.1)
    assert asked == ["wake"]
    recorder.rearm()
    record(0.1)
    assert asked == ["wake", "wake"]


def test_late_wake_does_not_raise_a_closed_watermark() -> None:
    """One thread has passed the watermark and not woken the sender; another forks."""
    asked: list[str] = []
    recorder = open_recorder(lambda: asked.append("start"))
    recorder.close()

    recorder.pending.executions.is_full()
    recorder.rearm()
    record = recorder.series("g", "n").record
    record(0.1)
    record(0.1)

    assert asked == ["start"] * 3


def test_events_beyond_the_limit_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_pending, "WAKE_EVENTS", 5)
    monkeypatch.setattr(_pending, "MAX_PENDING_EVENTS", 20)
    recorder = open_recorder()
    record, add = recorder.series("g", "n").record, recorder.point("count", "c", "", "")

    number = recorder.series("g", "n").number
    for _ in range(30):
        record(0.1)
        recorder.pending.phased.record(
            (number, 5.0, 0.1, 0, 1, "", None, 0.0, 0.1, 0.0, 0)
        )
        add(1)
        recorder.run_ended("g", 0.1, 0, "error", "n", "", 1)

    assert len(recorder.pending.executions.flat) == 20 * len(EXECUTION_COLUMNS)
    assert len(recorder.pending.phased.flat) == 20 * PHASED_WIDTH
    assert sum(events.dropped for events in recorder.pending) == 40


def test_series_and_points_are_the_same_object_for_the_same_names() -> None:
    recorder = open_recorder()

    assert recorder.series("g", "n") is recorder.series("g", "n")
    first = recorder.point("count", "c", "g", "n", {"b": "1", "a": "2"})
    assert recorder.point("count", "c", "g", "n", {"a": "2", "b": "1"}) is first


def test_series_beyond_the_cap_are_folded_into_other_of_their_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_SERIES", 3)
    recorder = open_recorder()
    for n in range(3):
        recorder.series("g", f"n{n}")

    folded = recorder.series("g", "one too many")
    assert (folded.graph, folded.node) == ("g", "__other__")
    assert recorder.folded == 1
    for n in range(50):
        recorder.series(f"g{n}", "n")
    assert recorder.series("yet another", "n").graph == "__other__"
    assert len(recorder.series_table.keys) < 10


def test_points_beyond_the_cap_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SERIES", 3)
    recorder = open_recorder()

    for n in range(50):
        recorder.point("count", f"c{n}", "g", "n")(1)

    assert len(recorder.points_table.keys) == 4
    assert len(recorder.pending.points.flat) == 50 * len(POINT_COLUMNS)


def test_failures_are_bounded_between_two_batches() -> None:
    recorder = open_recorder()

    for n in range(150):
        recorder.add_failure(Failure(0.0, "g", "n", "E", str(n), "exec", 1, 1, ""))

    assert len(recorder.failures) == module.MAX_FAILURES


def test_unchanged_topology_keeps_the_version() -> None:
    recorder = open_recorder()
    topology = Topology("g", "a", ("a",), ())

    recorder.add_topology(topology)
    before = recorder.topology_version
    recorder.add_topology(Topology("g", "a", ("a",), ()))
    assert recorder.topology_version == before
    recorder.add_topology(Topology("g", "a", ("a", "b"), (("a", "default", "b"),)))
    assert recorder.topology_version == before + 1


def test_fork_discards_the_parents_state() -> None:
    asked: list[str] = []
    recorder = open_recorder(lambda: asked.append("start"))
    record = recorder.series("g", "n").record
    record(0.1)
    recorder.in_flight.add(Endless("g", "n", 0.0))
    recorder.runs.add(Spinning("g", 1, {"n": 2}))
    recorder.revisits.add("g", {"n": 2})
    prefix = recorder.run_ids.prefix

    recorder.forget()

    assert not recorder.pending.executions.flat
    assert not recorder.in_flight
    assert not recorder.runs
    assert not recorder.revisits.take()
    assert recorder.run_ids.prefix != prefix
    record(0.1)
    assert asked == ["start"]


def test_events_from_before_a_fork_of_c_code_are_discarded() -> None:
    recorder = open_recorder()
    series, now, clock = recorder.series("g", "n"), time.time(), time.perf_counter()
    for ago in (20.0, 0.0):
        recorder.pending.visits.record((series.number, clock - ago, 0.0, 0.0, 0.0, ""))
        recorder.pending.plain.record((series.number, now - ago, 0.5))

    recorder.forget(before=now - 10.0)

    assert recorder.pending.visits.flat[1::6] == [clock]
    assert recorder.pending.plain.flat[1::3] == [now]


def test_only_a_run_with_more_visits_adds_an_entry() -> None:
    recorder = open_recorder()
    for times in (3, 2, 5, 5, 4):
        recorder.revisits.add("g", {"n": times, "once": 1})

    assert recorder.revisits.take() == [("g", "n", 3), ("g", "n", 5)]
    assert recorder.revisits.take() == []
    recorder.revisits.add("g", {"n": 2})
    assert recorder.revisits.take() == [("g", "n", 2)]


def test_ended_loops_are_bounded_and_the_rest_counted() -> None:
    recorder = open_recorder()
    for number in range(MAX_REVISITS + 7):
        recorder.revisits.add("g", {"n": number + 2})

    assert len(recorder.revisits._nodes) == MAX_REVISITS
    assert recorder.revisits.left_out == 7


def test_threads_record_whole_events() -> None:
    recorder = open_recorder()
    recorder.pending.executions.watermark[0] = 10**9

    def work(node: str) -> None:
        for n in range(20_000):
            recorder.series("g", node).record(float(n), attempts=n)

    threads = [threading.Thread(target=work, args=(f"n{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    flat = recorder.pending.executions.flat
    assert len(flat) == 80_000 * len(EXECUTION_COLUMNS)
    assert flat[2 :: len(EXECUTION_COLUMNS)] == flat[4 :: len(EXECUTION_COLUMNS)]
