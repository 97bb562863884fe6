"""The one background thread: drives the session, and answers those who wait for it.

No lock is shared with the application: the hot path wakes the thread through a
SimpleQueue, whose `put` may be re-entered from finalizers and signal handlers.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Final

from kaywatch import wire
from kaywatch._session import FLUSH_INTERVAL, POLL, Session
from kaywatch.recorder import Recorder

__all__ = ["Sender"]

log = logging.getLogger("kaywatch")

FIRST_FLUSH: Final = 0.1  # so that short-lived and killed processes are seen at all


class Sender:
    """The thread that drives a session."""

    def __init__(self, session: Session, recorder: Recorder) -> None:
        self.session = session
        self._recorder = recorder
        self._wake: queue.SimpleQueue[_Flush | None] = queue.SimpleQueue()
        self._woken = False
        self._thread = threading.Thread(
            target=self._run, name="kaywatch-sender", daemon=True
        )

    def start(self) -> None:
        """Start the thread and open the recorder's gate."""
        self._thread.start()
        self._recorder.open_gate()

    def wake(self) -> None:
        """Make the thread look now. Re-entrant, never blocks."""
        if not self._woken:
            self._woken = True
            self._wake.put(None)

    def flush(self, timeout: float) -> bool:
        """Wait until all that was recorded is committed, at most `timeout` seconds."""
        if threading.current_thread() is self._thread:
            return False  # a log handler or finalizer in our own thread
        return self._ask(timeout, stop=False)

    def stop(self, timeout: float) -> bool:
        """Flush, say goodbye and end the thread."""
        settled = self._ask(timeout, stop=True)
        self._recorder.close_gate()
        return settled

    def _ask(self, timeout: float, stop: bool) -> bool:
        answered = threading.Event()
        request = _Flush(time.monotonic() + timeout, answered, stop)
        self._wake.put(request)
        # The thread keeps the deadline itself; the margin is for its last step.
        answered.wait(timeout + 0.5)
        return request.settled

    def _run(self) -> None:
        delay = FIRST_FLUSH
        while True:
            request = self._next_request(delay)
            if request is None:
                delay = self._flush_once()
                continue
            self._serve(request)
            if request.stop:
                return

    def _next_request(self, delay: float) -> _Flush | None:
        try:
            request = self._wake.get(timeout=delay)
        except queue.Empty:
            return None
        self._woken = False
        return request

    def _flush_once(self) -> float:
        """Do one step; return how long to sleep."""
        session = self.session
        packed = self._guarded(urgent=False, wait=0.0)
        if session.busy:
            self._guarded(urgent=False, wait=POLL)
            return 0.0
        return POLL if packed > wire.MAX_BATCH_EVENTS else session.interval

    def _serve(self, request: _Flush) -> None:
        session = self.session
        while not session.settled and time.monotonic() < request.deadline:
            self._guarded(urgent=True, wait=POLL)
            if session.connected or session.busy:
                continue
            # Where no agent ever was, one attempt is enough; where one was, it may
            # be restarting.
            if not session.ever_connected:
                break
            time.sleep(POLL)
        request.settled = session.settled
        if request.stop:
            session.close()
        request.answered.set()

    def _guarded(self, urgent: bool, wait: float) -> int:
        """Step, whatever happens: this thread has to outlive a bug of ours."""
        try:
            return self.session.step(time.monotonic(), urgent, wait)
        except Exception:
            log.exception("kaywatch could not send; it goes on")
            time.sleep(FLUSH_INTERVAL)
            return 0


class _Flush:
    """A request to the thread, and its answer."""

    def __init__(self, deadline: float, answered: threading.Event, stop: bool) -> None:
        self.deadline = deadline
        self.answered = answered
        self.stop = stop
        self.settled = False
