"""Runs the rules: evaluated in a thread, stored with the tick.

    tick -> Engine.evaluate, in a thread -> AlertUpdate -> delivery, and publishers

One evaluation runs at a time. After it, the thread pauses for at least twenty times its
duration, up to 15 s: rules use at most a twentieth of a core. Within that limit, an
evaluation can be requested before the next tick, because something failed.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Final, NamedTuple

import structlog

from kaywatch_agent.aggregate.view import View
from kaywatch_agent.model.alerts import (
    NO_DATA,
    AlertDetails,
    NotificationKind,
    NotificationRequest,
    Severity,
)
from kaywatch_agent.model.client import Client
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.alert_store import CLOCK, Document, Documents
from kaywatch_agent.rules.engine import USUAL, Engine, EvaluationResult
from kaywatch_agent.rules.evaluation import StateChange
from kaywatch_agent.rules.rule import AlertSettings
from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.rules.windows import EvalInput
from kaywatch_agent.runtime.host import host_name
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics
from kaywatch_agent.units import duration

__all__ = ["AlertUpdate", "Alerting"]

# The kinds of documents of this component; all others belong to the outbox.
KINDS: Final = frozenset({"alert", "silence", CLOCK, USUAL[0]})

# After a shorter downtime, receivers are not notified again, in seconds.
MIN_DOWNTIME: Final = 60.0

# The pause after an evaluation: this many times its duration, up to this many seconds.
PAUSE_FACTOR: Final = 20.0
MAX_PAUSE: Final = 15.0

# What fails together arrives within this many seconds of the first failure.
GATHER_SECONDS: Final = 0.02
TICK_SLACK: Final = 0.1  # a tick may come slightly early

log = structlog.get_logger("kaywatch.agent")


class AlertMetrics(Metrics):
    """The metrics of rules and alerts."""

    evaluations = Counter(
        "kaywatch_rule_evaluations_total", "Evaluations of all rules."
    )
    failures = Counter(
        "kaywatch_rule_evaluation_failures_total",
        "Failed evaluations; they leave the alerts unchanged.",
    )
    seconds = Counter(
        "kaywatch_rule_evaluation_seconds_total",
        "Time spent in evaluations, in their own thread.",
    )
    alerts = Gauge("kaywatch_alerts", "Alerts by state.", labels=("state",))
    refused = Gauge(
        "kaywatch_alerts_refused",
        "Alerts over the limit of their rule in the last evaluation.",
    )
    suppressed = Counter(
        "kaywatch_notifications_suppressed_total",
        "Suppressed notifications by reason.",
        labels=("reason",),
    )


class AlertUpdate(NamedTuple):
    """The result of an evaluation for other components.

    Attributes:
        requests: the notifications to be sent.
        changed: the alerts whose state changed; None if none did.
    """

    requests: Sequence[NotificationRequest] = ()
    changed: AlertsSnapshot | None = None


class EvaluationTimer:
    """When the rules are evaluated: at a tick, or earlier on request."""

    def __init__(self) -> None:
        self._due = 0.0  # at a tick, by the loop's clock
        self._early_due = 0.0  # on request
        self._requested = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_due(self) -> bool:
        """Whether an evaluation is due at this tick, and none is in progress."""
        return self._idle.is_set() and asyncio.get_running_loop().time() >= self._due

    def request(self) -> None:
        """Ask for an evaluation before the next tick."""
        if not self._requested.is_set():
            soon = asyncio.get_running_loop().time() + GATHER_SECONDS
            self._early_due = max(self._early_due, soon)
            self._requested.set()

    async def wait_requested(self) -> None:
        """Wait until a requested evaluation may begin, and take the request."""
        loop = asyncio.get_running_loop()
        while True:
            await self._requested.wait()
            await self._idle.wait()
            wait = self._early_due - loop.time()
            if wait > 0.0:
                await asyncio.sleep(wait)
            elif self._requested.is_set():  # no evaluation at a tick answered it
                self._requested.clear()
                return

    def begin(self) -> None:
        """Begin an evaluation of all that was requested so far."""
        self._requested.clear()
        self._idle.clear()

    def end(self, seconds: float, interval: float) -> None:
        """End an evaluation that took some time, and schedule the next.

        Args:
            seconds: its duration.
            interval: the configured seconds between two evaluations. If they are more
                than those between two ticks, no request shortens them.
        """
        began = asyncio.get_running_loop().time() - seconds
        pause = min(seconds * PAUSE_FACTOR, MAX_PAUSE)
        self._due = began + max(interval, pause) - TICK_SLACK
        self._early_due = self._due if interval > 1.0 else began + pause
        self._idle.set()


class Alerting:
    """The rules, alerts and silences of one agent.

    Attributes:
        engine: the alerts and their rules.
        timer: when the rules are evaluated.
        problem: the error of the last evaluation; empty for none.
        evaluated: when it ended, Unix seconds; before the first, the start.
        counts: the number of alerts by state after it.
        rejected: returns the series that servers of exports rejected, by server and
            reason; the owner of the exports sets it.
    """

    def __init__(
        self,
        settings: AlertSettings,
        *,
        min_severity: Mapping[str, Severity],
        clock: Callable[[], float],
    ) -> None:
        """Create the engine.

        Args:
            settings: the rules and everything else that is configured.
            min_severity: the minimum severity of a notification, by receiver.
            clock: returns Unix seconds.
        """
        self.engine = Engine(settings, host=host_name(), min_severity=min_severity)
        self._log_warnings()
        self.problem = ""
        self.rejected: Callable[[], Mapping[str, Mapping[str, int]]] = dict
        self.evaluated = clock()
        self.counts: Mapping[AlertState, int] = {}
        self.metrics = AlertMetrics()
        self._clock = clock
        self._changed: dict[Document, bytes | None] = {}
        # A single thread: only one evaluation at a time may change the alerts.
        self._thread = ThreadPoolExecutor(1, "rules")
        self.timer = EvaluationTimer()
        self._started = clock()
        self._downtime = 0.0  # before the start, until receivers are notified of it
        # Held by an evaluation, and by snapshots, which copy what it changes.
        self._lock = threading.Lock()

    # -- over restarts -----------------------------------------------------------------

    def restore(self, documents: Mapping[Document, bytes]) -> None:
        """Restore the state from before a restart."""
        own = {key: data for key, data in documents.items() if key[0] in KINDS}
        self._downtime = self.engine.restore(own, self._clock(), time.monotonic())
        for silence, problem in self.engine.silences.unusable.items():
            log.warning("a stored silence is ignored", silence=silence, problem=problem)

    def changes(self, full: bool) -> Documents:
        """Return the documents that changed since the last call, or all of them."""
        changed, self._changed = self._changed, {}
        if not full:
            silences = self.engine.silences.documents()
            return {**changed, **{("silence", k): v for k, v in silences.items()}}
        with self._lock:
            return {**changed, **self.engine.documents(self._clock())}

    def committed(self, documents: Documents) -> None:
        """Do nothing: stored documents need no further work."""

    def refused(self, documents: Documents) -> None:
        """Take back documents that could not be stored."""
        own = {key: data for key, data in documents.items() if key[0] in KINDS}
        self._changed = {**own, **self._changed}

    # -- evaluation --------------------------------------------------------------------

    def use(
        self, settings: AlertSettings, min_severity: Mapping[str, Severity]
    ) -> None:
        """Replace the settings, from the next evaluation on."""
        self.engine.settings = settings
        self.engine.min_severity = min_severity
        self._log_warnings()

    @property
    def note(self) -> str:
        """The warnings about the configuration; empty for none."""
        return "; ".join(self.engine.settings.warnings)

    def _log_warnings(self) -> None:
        for warning in self.engine.settings.warnings:
            log.warning("configuration problem", problem=warning)

    async def evaluate(self, view: View, clients: Iterable[Client]) -> AlertUpdate:
        """Evaluate the rules in a thread; return what other components need.

        The changed alerts are part of the next `changes`. Their requests have to be
        enqueued before that, because both belong into one commit. A failed evaluation
        is logged, and its update is empty.
        """
        now, started = self._clock(), time.perf_counter()
        self.timer.begin()
        # The loop goes on changing its clients while the thread reads the copies.
        copies = tuple([copy(client) for client in clients])
        data = EvalInput(
            now, now - self._started, view, copies, rejected=self.rejected()
        )
        loop = asyncio.get_running_loop()
        try:
            result, changed = await loop.run_in_executor(
                self._thread, self._evaluate, data, time.monotonic()
            )
            self._changed.update(result.documents)
            self.problem = ""
        # An error in one evaluation must stop neither the agent nor later evaluations.
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            # An error is logged once, not every second for as long as it lasts.
            if problem != self.problem:
                log.exception("an evaluation of the rules failed and will be retried")
            self.problem = problem
            self.metrics.failures.add()
            return AlertUpdate()
        else:
            self.engine.silences.forget_expired(now)
            self._count(result)
            _log_changes(result.changes)
            return AlertUpdate(result.requests + self._summaries(result), changed)
        finally:
            self._record_end(time.perf_counter() - started)

    def stop(self) -> None:
        """Stop, once no evaluation is in progress."""
        self._thread.shutdown(wait=False)
        self._changed.update(self.engine.documents(self._clock()))

    # -- silences ----------------------------------------------------------------------

    @property
    def silences(self) -> Mapping[str, Silence]:
        """The silences that were created at runtime, by id."""
        return self.engine.silences.silences

    def put_silence(self, silence: Silence) -> None:
        """Add a silence, or replace the one with its id."""
        self.engine.silences.put(silence)

    def expire_silence(self, silence_id: str) -> bool:
        """End a silence now; return False if there is no such silence to end."""
        return self.engine.silences.expire(silence_id, self._clock())

    # -- for readers -------------------------------------------------------------------

    def snapshot(self) -> AlertsSnapshot:
        """Return a snapshot, from any thread; waits for an evaluation to end."""
        with self._lock:
            return self._snapshot(self.engine.alerts)

    def alerts_for(self, receiver: str) -> list[AlertDetails]:
        """Return a receiver's firing and recently resolved alerts."""
        return self.engine.alerts_for(receiver, self._clock())

    # -- inside ------------------------------------------------------------------------

    def _snapshot(self, alerts: Iterable[Alert]) -> AlertsSnapshot:
        engine = self.engine
        results = {name: engine.last_result(name) for name in engine.settings.rules}
        now = self._clock()
        return AlertsSnapshot(
            now=now,
            settings=engine.settings,
            alerts=tuple(alert.snapshot() for alert in alerts),
            silences=(*engine.settings.silences_at(now), *self.silences.values()),
            results={name: result for name, result in results.items() if result},
            refused=engine.refused,
            clock=engine.store.clock,
            evaluated=self.evaluated,
            problem=self.problem,
            host=engine.host,
        )

    def _evaluate(
        self, data: EvalInput, mono: float
    ) -> tuple[EvaluationResult, AlertsSnapshot | None]:
        """Evaluate; return also a snapshot of the alerts that changed."""
        with self._lock:
            result = self.engine.evaluate(data, mono)
            changed = {change.alert.id: change.alert for change in result.changes}
            return result, self._snapshot(changed.values()) if changed else None

    def _summaries(self, result: EvaluationResult) -> list[NotificationRequest]:
        """Return, after a downtime, requests about the alerts that still fire."""
        downtime, self._downtime = self._downtime, 0.0
        if downtime < MIN_DOWNTIME:
            return []
        text = f"kaywatch was down for {duration(downtime)}; the alert still fires"
        sent = {(n.receiver, n.alert.dedup_key) for n in result.requests}
        requests = []
        for alert in self.engine.alerts:
            details = self.engine.describe(alert)
            for receiver, last in alert.notified.items():
                if last.last == "firing" and (receiver, details.dedup_key) not in sent:
                    requests.append(
                        NotificationRequest(
                            receiver, NotificationKind.SUMMARY, details, text
                        )
                    )
        return requests

    def _record_end(self, seconds: float) -> None:
        """Record the end and the duration of an evaluation."""
        self.evaluated = self._clock()
        self.metrics.evaluations.add()
        self.metrics.seconds.add(seconds)
        self.timer.end(seconds, self.engine.settings.interval)

    def _count(self, result: EvaluationResult) -> None:
        counts = dict.fromkeys(AlertState, 0)
        for alert in self.engine.alerts:
            counts[alert.lifecycle.state] += 1
        for state in (AlertState.PENDING, AlertState.FIRING, AlertState.RECOVERING):
            self.metrics.alerts.labels(state).set(counts[state])
        self.counts = counts
        for reason, count in result.suppressed.items():
            self.metrics.suppressed.labels(reason).add(count)
        refused = result.refused.total()
        if refused and not self.metrics.refused.value:
            log.warning("too many alerts; new ones are refused", **result.refused)
        self.metrics.refused.set(refused)


def _log_changes(changes: Iterable[StateChange]) -> None:
    """Write a line for each alert that fires, and for each that ends."""
    for change in changes:
        alert, on = change.alert, (AlertState.FIRING, AlertState.RECOVERING)
        text = " / ".join(alert.labels.values())
        if change.after is AlertState.FIRING and change.before not in on:
            log.warning("alert fires", alert=alert.id, rule=alert.rule, text=text)
        elif change.before in on and change.after not in on:
            log.info(
                "alert resolved" if change.reason != NO_DATA else "alert has no data",
                alert=alert.id,
                rule=alert.rule,
                text=text,
                reason=change.reason,
            )
