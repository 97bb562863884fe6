"""When batches are sent: regularly, at once after a pause, early after failures."""

from __future__ import annotations

import math
import time

from hypothesis import given
from hypothesis import strategies as st
from tests.agents import until

from kaywatch import wire
from kaywatch._process import Process
from kaywatch._send.schedule import BURST, FIRST_FLUSH, GATHER, FlushSchedule
from kaywatch._settings import Settings
from kaywatch.recorder import Failure
from kaywatch.testing import MemoryTransport

START = 1_000.0
HOUR = 3_600.0


def flush(schedule: FlushSchedule, now: float, packed: int = 1) -> None:
    schedule.begin()
    schedule.end(now, packed, delay=1.0, interval=1.0)


def fail(schedule: FlushSchedule, now: float) -> float:
    """Record a failure; return when the flush is due."""
    schedule.request()
    assert not schedule.is_due(now, 1.0)
    return schedule.due


def test_a_new_process_sends_soon() -> None:
    assert FlushSchedule(START).due == START + FIRST_FLUSH


def test_the_first_event_after_a_pause_is_sent_at_once() -> None:
    schedule = FlushSchedule(START)
    flush(schedule, START + 0.1)
    for second in range(1, 9):
        flush(schedule, START + second, packed=0)
    assert schedule.is_quiet(START + 8.5, 1.0)
    assert fail(schedule, START + 8.5) == START + 8.5 + GATHER


def test_a_process_that_sends_all_the_time_keeps_its_interval() -> None:
    schedule = FlushSchedule(START)
    flush(schedule, START + 1.0)
    assert not schedule.is_quiet(START + 1.9, 1.0)
    assert not schedule.is_due(START + 1.9, 1.0)
    assert schedule.is_due(START + 2.0, 1.0)


def test_a_failure_is_sent_early_and_later_failures_at_the_interval() -> None:
    schedule = FlushSchedule(START)
    flush(schedule, START)
    times = []
    for _ in range(BURST + 1):
        times.append(fail(schedule, schedule.due - 1.0))
        flush(schedule, schedule.due)

    assert [round(at - START, 3) for at in times] == [0.1, 0.2, 0.3, 1.1]


def test_a_loop_that_fails_wakes_the_sender_once_per_flush() -> None:
    schedule = FlushSchedule(START)
    flush(schedule, START)
    assert [schedule.request() for _ in range(3)] == [True, False, False]
    schedule.is_due(START, 1.0)
    assert not schedule.request()
    flush(schedule, START + 1.0)
    assert schedule.request()


def test_a_pause_allows_all_early_flushes_again() -> None:
    schedule = FlushSchedule(START)
    flush(schedule, START)
    for _ in range(2):
        for _ in range(BURST):
            before = schedule.due - 1.0
            assert fail(schedule, before) < before + 0.5
            flush(schedule, schedule.due)
        flush(schedule, schedule.due + 10.0)


@given(st.lists(st.floats(0.001, 3.0), max_size=200), st.floats(1.0, 10.0))
def test_early_flushes_are_few_whatever_fails(
    pauses: list[float], interval: float
) -> None:
    schedule, now, flushes = FlushSchedule(START), START, 0
    for pause in pauses:
        now += pause
        while schedule.due <= now:
            flushes += 1
            at = schedule.due
            schedule.begin()
            schedule.end(at, 1, delay=interval, interval=interval)
        assert schedule.due <= now + interval
        schedule.request()
        schedule.is_due(now, interval)

    # One per interval is regular, and one may be early.
    assert flushes <= 2 * (now - START) / interval + BURST + 1


# -- of a whole process --------------------------------------------------------------


class HourlyAgent(MemoryTransport):
    """An agent that asks for a batch per hour."""

    def send(self, message: bytes) -> None:
        super().send(message)
        if wire.decode(message)["type"] == "hello":
            self._replies.append(wire.slow(HOUR))


class Patient:
    """A process whose next regular flush is an hour away."""

    def __init__(self) -> None:
        self.received: list[dict[str, object]] = []
        self.process = Process(Settings(connect=lambda: HourlyAgent(self.received)))
        self.record = self.process.recorder.series("g", "n").record
        self.record(0.1)
        assert self.process.flush(30.0)
        sender = self.process.sender
        assert sender is not None
        self.schedule = sender._schedule
        until(lambda: self.schedule.due > START and self.wait > HOUR / 2, "it waits")

    @property
    def wait(self) -> float:
        return self.schedule.due - time.monotonic()

    def fail(self) -> None:
        failure = Failure(
            0.0, "g", "n", "Timeout", "", "exec", 1, wire.Outcome.ERROR, ""
        )
        self.process.recorder.add_failure(failure)

    def failures(self) -> int:
        return sum("failures" in message for message in self.received)


def test_a_failure_does_not_wait_for_the_interval() -> None:
    patient = Patient()
    patient.fail()
    until(patient.failures, "the failure was sent")
    assert patient.process.stop(30.0)


def test_a_loop_that_fails_waits_after_some_early_flushes() -> None:
    patient = Patient()
    for number in range(BURST):
        patient.fail()
        until(lambda sent=number + 1: patient.failures() == sent, "it was sent")
    until(lambda: patient.wait > HOUR / 2, "the last early flush is done")
    for _ in range(100):
        patient.fail()
    until(lambda: patient.schedule._is_answered, "the request was answered")
    assert patient.wait > HOUR / 2
    assert patient.failures() == BURST
    assert patient.process.stop(30.0)
    assert patient.failures() == BURST + 1


def test_an_event_after_a_pause_does_not_wait_for_the_interval() -> None:
    patient = Patient()
    patient.record(0.1)
    until(lambda: patient.process.recorder.pending.executions.flat, "it is pending")
    assert patient.wait > HOUR / 2
    assert patient.process.flush(30.0)
    until(lambda: patient.wait > HOUR / 2, "it waits")
    before = len(patient.received)

    patient.schedule._sent_at = -math.inf  # as after hours without an event
    patient.record(0.1)
    until(lambda: len(patient.received) > before, "the event was sent")
    assert patient.process.stop(30.0)


def test_a_full_batch_does_not_wait_for_early_flushes() -> None:
    patient = Patient()
    for number in range(BURST):
        patient.fail()
        until(lambda sent=number + 1: patient.failures() == sent, "it was sent")
    until(lambda: patient.wait > HOUR / 2, "the last early flush is done")
    before = len(patient.received)
    for _ in range(wire.MAX_BATCH_EVENTS + 1):
        patient.record(0.1)
        patient.fail()
    until(lambda: len(patient.received) > before, "the batch was sent")
    assert patient.process.stop(30.0)
    assert patient.process.stats()["dropped"] == {}
