"""The one background thread: drives the connection and serves calls of `flush`.

It shares no lock with the application: the hot path wakes the thread through a
SimpleQueue, whose `put` may be re-entered from finalizers and signal handlers.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from typing import Final

from kaywatch import wire
from kaywatch._send.connection import AgentConnection
from kaywatch._send.session import FLUSH_INTERVAL
from kaywatch.recorder import Recorder

__all__ = ["Sender"]

log = logging.getLogger("kaywatch")

FIRST_FLUSH: Final = 0.1  # soon, so that short-lived processes are seen at all
POLL: Final = 0.05  # while bytes or acks are in transit
PAUSE_TIMEOUT: Final = 0.5  # the most that a fork waits; a step takes up to 50 ms


class Sender:
    """The thread that drives the connection."""

    def __init__(self, connection: AgentConnection, recorder: Recorder) -> None:
        self.connection = connection
        self._recorder = recorder
        self._wake: queue.SimpleQueue[FlushRequest | None] = queue.SimpleQueue()
        self._woken = False
        self._thread: threading.Thread | None = None
        self._driving = threading.Lock()  # held while stepping the connection
        self._paused = threading.Event()
        self._paused.set()

    @property
    def paused(self) -> bool:
        """Whether no thread runs: before the first `start`, and since a fork."""
        return self._paused.is_set()

    def start(self) -> None:
        """Start a thread, and let the recorder accept events without waking it.

        Raises:
            RuntimeError: no thread can be started, as at the interpreter's exit.
        """
        paused = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(paused,), name="kaywatch-sender", daemon=True
        )
        thread.start()
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
        self._wake.put(None)
        thread.join(PAUSE_TIMEOUT)
        # Python 3.12's join returns shortly before the kernel's thread has ended.
        task = f"/proc/self/task/{thread.native_id}"
        for _ in range(100):
            if not os.path.exists(task):
                break
            time.sleep(0.0001)

    def wake(self) -> None:
        """Make the thread look now. Re-entrant, never blocks."""
        if not self._woken:
            self._woken = True
            self._wake.put(None)

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
        self._wake.put(request)
        # The thread watches the deadline itself; the margin is for its last step.
        while time.monotonic() < request.deadline + 0.5:
            if self.paused and self._driving.acquire(timeout=POLL):
                try:
                    self._serve(request)
                finally:
                    self._driving.release()
            if request.answered.wait(POLL):
                break
        return request.drained

    def _run(self, paused: threading.Event) -> None:
        delay = FIRST_FLUSH
        with self._driving:
            while not paused.is_set():
                request = self._next_request(delay)
                if request is None:
                    delay = self._flush_once()
                elif not self._serve(request, paused):
                    self._wake.put(request)  # for the next driver
                elif request.stop:
                    return
            self._step(urgent=False, wait=0.0)

    def _next_request(self, delay: float) -> FlushRequest | None:
        try:
            request = self._wake.get(timeout=delay)
        except queue.Empty:
            return None
        self._woken = False
        return request

    def _flush_once(self) -> float:
        """Step the connection; return how long to sleep."""
        connection = self.connection
        packed = self._step(urgent=False, wait=0.0)
        if connection.is_busy(time.monotonic()):
            self._step(urgent=False, wait=POLL)
            return 0.0
        return POLL if packed > wire.MAX_BATCH_EVENTS else connection.interval

    def _serve(
        self, request: FlushRequest, paused: threading.Event | None = None
    ) -> bool:
        """Answer a request; return False if a pause interrupted that."""
        connection = self.connection
        if request.answered.is_set():
            return True  # by another driver
        while not connection.batches.drained and time.monotonic() < request.deadline:
            if paused is not None and paused.is_set():
                return False
            self._step(urgent=True, wait=POLL)
            if connection.connected or connection.is_busy(time.monotonic()):
                continue
            # One attempt is enough for an agent that never answered; one that did may
            # be restarting.
            if not connection.history.reached:
                break
            time.sleep(POLL)
        request.drained = connection.batches.drained
        if request.stop:
            connection.close()
        request.answered.set()
        return True

    def _step(self, urgent: bool, wait: float) -> int:
        """Step the connection. The thread has to survive any exception."""
        try:
            return self.connection.step(time.monotonic(), urgent, wait)
        except Exception:
            log.exception("kaywatch failed to send; it will try again")
            time.sleep(FLUSH_INTERVAL)
            return 0


class FlushRequest:
    """A request to the thread, with its answer in `drained` once `answered` is set."""

    def __init__(self, deadline: float, stop: bool) -> None:
        self.deadline = deadline
        self.stop = stop
        self.answered = threading.Event()
        self.drained = False
