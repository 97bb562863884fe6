"""The one background thread: drives the connection and serves calls of `flush`.

It shares no lock with the application: the hot path wakes the thread through a socket,
and requests are in a deque. Both may be re-entered from finalizers and signal handlers.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from signal import raise_signal  # imported before `kaywatch._exits` wraps it
from typing import Final

from kaywatch import wire
from kaywatch._send.connecting import finish_imports
from kaywatch._send.connection import AgentConnection
from kaywatch._send.schedule import FlushSchedule
from kaywatch._send.self_pipe import SelfPipe
from kaywatch._send.session import FLUSH_INTERVAL
from kaywatch.recorder import Recorder

__all__ = ["Sender"]

log = logging.getLogger("kaywatch")

POLL: Final = 0.05  # while bytes or acks are in transit
PAUSE_TIMEOUT: Final = 0.5  # the most that a fork waits; a step takes up to 50 ms


class Sender:
    """The thread that drives the connection.

    Attributes:
        failure: an error of ours in the last step; empty for none.
        pid: of the process that it belongs to.

    Args:
        connection: to the agent.
        recorder: holds the events.
        prepare_exit: records what is still in progress when a SIGTERM arrives; returns
            the maximum time in seconds by which a flush delays the signal.

    Raises:
        OSError: there is no free file descriptor.
    """

    def __init__(
        self,
        connection: AgentConnection,
        recorder: Recorder,
        prepare_exit: Callable[[], float],
    ) -> None:
        self.connection = connection
        self.failure = self._logged = ""
        self.pid = os.getpid()
        self._recorder = recorder
        self._prepare_exit = prepare_exit
        self._schedule = FlushSchedule(time.monotonic())
        self._requests: deque[FlushRequest] = deque()
        self._pipe = SelfPipe()
        self._thread: threading.Thread | None = None
        self._driving = threading.Lock()  # held while stepping the connection
        self._paused = threading.Event()
        self._paused.set()

    @property
    def paused(self) -> bool:
        """Whether no thread runs: before the first `start`, and since a fork."""
        return self._paused.is_set()

    @property
    def is_running(self) -> bool:
        """Whether its thread runs: none survives a fork of C code."""
        thread = self._thread
        return (
            thread is not None
            and not self.paused
            and self.pid == os.getpid()
            and thread.is_alive()
        )

    def start(self) -> None:
        """Start a thread, and let the recorder accept events without waking it.

        Raises:
            RuntimeError: no thread can be started, as at the interpreter's exit.
        """
        paused = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(paused,), name="kaywatch-sender", daemon=True
        )
        self._schedule = FlushSchedule(time.monotonic())
        # Before the first event is recorded: a SIGTERM may follow within microseconds.
        self._pipe.watch_sigterm()
        try:
            thread.start()
        except RuntimeError:
            self._pipe.unwatch_sigterm()
            raise
        self._thread, self._paused = thread, paused
        self._recorder.open()

    def pause(self) -> None:
        """Send pending events and end the thread, before a fork.

        So the child inherits no lock that the thread held, and Python 3.12 and later
        do not warn of a fork with several threads because of this one.
        """
        thread = self._thread
        if thread is None or self.paused or thread is threading.current_thread():
            return
        self._recorder.close()
        self._paused.set()
        self._pipe.notify()
        thread.join(PAUSE_TIMEOUT)
        if thread.is_alive():
            finish_imports()
        # Python 3.12's join returns shortly before the kernel's thread has ended.
        task = f"/proc/self/task/{thread.native_id}"
        for _ in range(100):
            if not os.path.exists(task):
                break
            time.sleep(0.0001)

    def wake(self) -> None:
        """Make the thread look now. Re-entrant, never blocks."""
        self._pipe.notify()

    def hasten(self) -> None:
        """Flush early, because something failed. Re-entrant, never blocks."""
        if self._schedule.request():
            self._pipe.notify()

    def end_pause(self) -> None:
        """Flush soon if nothing was sent lately. Re-entrant, never blocks."""
        if self._schedule.is_quiet(time.monotonic(), self.connection.interval):
            self.hasten()

    def abandon(self) -> None:
        """Close the files that the child of a fork inherited."""
        self._pipe.unwatch_sigterm()
        self._pipe.close()
        self.connection.abandon()

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until the agent has committed all events."""
        if threading.current_thread() is self._thread:
            return False  # called by a log handler or finalizer in this thread
        return self._request(timeout, stop=False)

    def stop(self, timeout: float) -> bool:
        """Flush, send a goodbye and end the thread."""
        drained = self._request(timeout, stop=True)
        self._recorder.close()
        return drained

    def _request(self, timeout: float, stop: bool) -> bool:
        request = FlushRequest(time.monotonic() + timeout, stop)
        self._requests.append(request)
        self._pipe.notify()
        # The thread watches the deadline itself; the margin is for its last step.
        while time.monotonic() < request.deadline + 0.5:
            if not self.is_running and self._driving.acquire(timeout=POLL):
                try:
                    self._serve(request)
                finally:
                    self._driving.release()
            if request.answered.wait(POLL):
                break
        return request.drained

    def _run(self, paused: threading.Event) -> None:
        with self._driving:
            if self._pipe.closed:  # by the driver that this thread waited for
                return
            try:
                self._drive(paused)
            finally:
                self._pipe.unwatch_sigterm()

    def _drive(self, paused: threading.Event) -> None:
        schedule = self._schedule
        while not paused.is_set():
            if self._pipe.wait(max(0.0, schedule.due - time.monotonic())):
                self._terminate()
            request = self._next_request()
            if request is None:
                self._flush_when_due(schedule)
            elif not self._serve(request, paused):
                self._requests.append(request)  # for the next driver
            elif request.stop:
                return
            else:
                schedule.due = 0.0
        self._step(urgent=False, wait=0.0)

    def _next_request(self) -> FlushRequest | None:
        try:
            return self._requests.popleft()
        except IndexError:
            return None

    def _terminate(self) -> None:
        """Flush the recorded events, then let SIGTERM end the process.

        Events that other threads record meanwhile would not exist without kaywatch.
        """
        started = time.monotonic()
        try:
            deadline = started + self._prepare_exit()
            self._step(urgent=True, wait=0.0)
            through = self.connection.batches.seq
            self._serve(FlushRequest(deadline, through=through))
            self.connection.close()
        except Exception:
            log.exception("kaywatch could not send its last events")
        finally:
            self._pipe.unwatch_sigterm()
            # If a handler was set meanwhile, it gets the signal.
            raise_signal(signal.SIGTERM)

    def _flush_when_due(self, schedule: FlushSchedule) -> None:
        """Flush if that is due, or if a whole batch is pending."""
        connection = self.connection
        is_due = schedule.is_due(time.monotonic(), connection.interval)
        if not (is_due or self._recorder.has_batch):
            return
        schedule.begin()
        packed = self._step(urgent=False, wait=0.0)
        delay = POLL if packed > wire.MAX_BATCH_EVENTS else connection.interval
        if connection.is_busy(time.monotonic()):
            packed += self._step(urgent=False, wait=POLL)
            delay = 0.0
        schedule.end(time.monotonic(), packed, delay, connection.interval)

    def _serve(
        self, request: FlushRequest, paused: threading.Event | None = None
    ) -> bool:
        """Answer a request; return False if a pause interrupted that."""
        connection = self.connection
        if request.answered.is_set():
            return True  # by another driver
        batches = connection.batches
        while not (self._pipe.closed or batches.is_drained(request.through)):
            if time.monotonic() >= request.deadline:
                break
            if paused is not None and paused.is_set():
                return False
            if paused is not None and self._pipe.wait(0.0):
                self._terminate()
            self._step(urgent=True, wait=POLL)
            now = time.monotonic()
            if connection.connected or connection.is_busy(now):
                continue
            # Where there is no agent, the exit does not wait for one. One that answered
            # before may be restarting.
            if not connection.expects_answer(now):
                break
            time.sleep(POLL)
        request.drained = batches.is_drained(request.through)
        if request.stop:
            connection.close()
            self._pipe.unwatch_sigterm()
            self._pipe.close()
        request.answered.set()
        return True

    def _step(self, urgent: bool, wait: float) -> int:
        """Step the connection. The thread must survive any exception."""
        try:
            packed = self.connection.step(time.monotonic(), urgent, wait)
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            if self.failure != self._logged:
                self._logged = self.failure
                log.exception("kaywatch failed to send; retrying")
            time.sleep(FLUSH_INTERVAL)
            return 0
        self.failure = ""
        return packed


class FlushRequest:
    """A request to the thread, with its answer in `drained` once `answered` is set.

    Args:
        deadline: monotonic seconds.
        stop: whether to announce the end of the client and end the thread afterwards.
        through: the last batch to wait for; None for all events.
    """

    def __init__(
        self, deadline: float, stop: bool = False, through: int | None = None
    ) -> None:
        self.deadline = deadline
        self.stop = stop
        self.through = through
        self.answered = threading.Event()
        self.drained = False
