"""Alerts at work: evaluated beside the loop, and stored with the tick.

    tick -> Engine.evaluate, in a thread -> AlertUpdate -> delivery, and publishers

One evaluation is under way at a time. One that takes long is followed by a pause of
twenty times that, up to 15 s: rules never take more than a twentieth of a core.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import msgspec
import structlog

from kaywatch_agent.aggregate.view import View
from kaywatch_agent.model.alerts import (
    AlertDetails,
    NotificationKind,
    NotificationRequest,
    Severity,
)
from kaywatch_agent.model.client import Client
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.alert_store import CLOCK, Document, Documents
from kaywatch_agent.rules.engine import Engine, EvaluationResult
from kaywatch_agent.rules.rule import AlertSettings
from kaywatch_agent.rules.scene import EvalInput, Process
from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics
from kaywatch_agent.units import duration

__all__ = ["AlertUpdate", "Alerting"]

# Kinds of documents that are the engine's; all others are the outbox's.
OURS: Final = frozenset({"alert", "silence", CLOCK})

# Nobody notices a shorter downtime.
AWAY_SECONDS: Final = 60.0

# After an evaluation, a pause of so many times its length, up to so many seconds.
PAUSE_FACTOR: Final = 20.0
MAX_PAUSE: Final = 15.0

# A silence that is over is shown for so long, as Alertmanager does.
SILENCE_SECONDS: Final = 5 * 86_400.0

log = structlog.get_logger("kaywatch.agent")


class AlertMetrics(Metrics):
    """What is counted of rules and alerts."""

    evaluations = Counter(
        "kaywatch_rule_evaluations_total", "Evaluations of all rules."
    )
    failures = Counter(
        "kaywatch_rule_evaluation_failures_total",
        "Evaluations that failed; the alerts stayed as they were.",
    )
    seconds = Counter(
        "kaywatch_rule_evaluation_seconds_total",
        "Time spent in evaluations, beside the loop.",
    )
    alerts = Gauge("kaywatch_alerts", "Alerts, by state.", labels=("state",))
    refused = Gauge(
        "kaywatch_alerts_refused",
        "Alerts over the cap of their rule at the last evaluation.",
    )
    suppressed = Counter(
        "kaywatch_notices_suppressed_total",
        "Times that somebody was not told, by reason.",
        labels=("reason",),
    )


class AlertUpdate(NamedTuple):
    """What an evaluation has for others.

    Attributes:
        requests: who is to be notified of what.
        changed: the alerts that went from one state to another; None for none.
    """

    requests: Sequence[NotificationRequest] = ()
    changed: AlertsSnapshot | None = None


class Alerting:
    """The rules, the alerts and the silences of one agent.

    Attributes:
        engine: what decides.
        problem: what went wrong with the last evaluation; empty for nothing.
        evaluated: when that ended, Unix seconds; the start before the first.
        counts: how many alerts were in each state then.
    """

    def __init__(
        self,
        settings: AlertSettings,
        *,
        min_severity: Mapping[str, Severity],
        clock: Callable[[], float],
    ) -> None:
        """Make the engine.

        Args:
            settings: rules, and what else is set.
            min_severity: by receiver, the least severity that it is notified of.
            clock: returns Unix seconds.
        """
        self.host = socket.gethostname()
        self.engine = Engine(settings, host=self.host, min_severity=min_severity)
        self.problem = ""
        self.evaluated = clock()
        self.counts: Mapping[AlertState, int] = {}
        self.metrics = AlertMetrics()
        self._clock = clock
        self._changed: dict[Document, bytes | None] = {}
        self._thread = ThreadPoolExecutor(1, "rules")
        self._due = 0.0  # by the loop's clock
        self._started = clock()
        self._away = 0.0  # before the start, until receivers were notified of it
        self._refused: Mapping[str, int] = {}
        # Suppression by an evaluation, and by those who copy what it changes.
        self._lock = threading.Lock()

    # -- over restarts -----------------------------------------------------------------

    def restore(self, documents: Mapping[Document, bytes]) -> None:
        """Continue with what was stored before a restart."""
        ours = {at: data for at, data in documents.items() if at[0] in OURS}
        self._away = self.engine.restore(ours, self._clock(), time.monotonic())
        for name, problem in self.engine.unusable.items():
            log.warning("a stored silence is left out", silence=name, problem=problem)

    def changes(self, full: bool) -> Documents:
        """Return the documents that changed since the last call, or all of them."""
        changed, self._changed = self._changed, {}
        if not full:
            return changed
        with self._lock:
            return {**changed, **self.engine.documents(self._clock())}

    def committed(self, documents: Documents) -> None:
        """Do nothing: what is stored need not be stored again."""

    def refused(self, documents: Documents) -> None:
        """Take back documents that could not be made durable."""
        ours = {at: data for at, data in documents.items() if at[0] in OURS}
        self._changed = {**ours, **self._changed}

    # -- at work -----------------------------------------------------------------------

    def use(
        self, settings: AlertSettings, min_severity: Mapping[str, Severity]
    ) -> None:
        """Take other rules, from the next evaluation on."""
        self.engine.settings = settings
        self.engine.min_severity = min_severity

    @property
    def due(self) -> bool:
        """Whether it is time for an evaluation, and none is under way."""
        return asyncio.get_running_loop().time() >= self._due

    async def evaluate(self, view: View, clients: Iterable[Client]) -> AlertUpdate:
        """Evaluate the rules in a thread; return what has to be passed on.

        The alerts that changed are in the next `changes`: their requests have to be
        enqueued before that, for both belong in one commit. An evaluation that fails
        is logged, and returns nothing.
        """
        now, started = self._clock(), time.perf_counter()
        self._due = math.inf
        scene = EvalInput(now, now - self._started, view, tuple(map(_process, clients)))
        loop = asyncio.get_running_loop()
        try:
            result, changed = await loop.run_in_executor(
                self._thread, self._evaluate, scene, time.monotonic()
            )
            self._changed.update(result.documents)
            self.problem = ""
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            if problem != self.problem:
                log.exception("an evaluation of the rules failed, and is tried again")
            self.problem = problem
            self.metrics.failures.add()
            return AlertUpdate()
        else:
            self._forget_silences(now)
            self._count(result)
            return AlertUpdate(result.requests + self._unchanged(result), changed)
        finally:
            self.evaluated = self._clock()
            seconds = time.perf_counter() - started
            pause = max(self.settings.interval, min(seconds * PAUSE_FACTOR, MAX_PAUSE))
            # The tick comes a bit early now and then.
            self._due = loop.time() - seconds + pause - 0.1
            self.metrics.evaluations.add()
            self.metrics.seconds.add(seconds)

    def stop(self) -> None:
        """End, once no evaluation is under way."""
        self._thread.shutdown(wait=False)
        self._changed.update(self.engine.documents(self._clock()))

    # -- silences ----------------------------------------------------------------------

    def silence(self, silence: Silence) -> None:
        """Add a silence, or change one."""
        self.engine.silences = {**self.engine.silences, silence.id: silence}
        self._changed["silence", silence.id] = msgspec.json.encode(silence)

    def expire(self, name: str) -> bool:
        """End a silence now; return whether there was one to end."""
        silence = self.engine.silences.get(name)
        now = self._clock()
        if silence is None or silence.over(now):
            return False
        end = dt.datetime.fromtimestamp(now, dt.UTC)
        start = min(silence.starts_at, end)
        self.silence(msgspec.structs.replace(silence, starts_at=start, ends_at=end))
        return True

    def _forget_silences(self, now: float) -> None:
        """Drop the silences that have been over for long."""
        old = [
            name
            for name, silence in self.engine.silences.items()
            if silence.over(now - SILENCE_SECONDS)
        ]
        if old:
            kept = dict(self.engine.silences)
            for name in old:
                del kept[name]
                self._changed["silence", name] = None
            self.engine.silences = kept

    # -- for those who read ------------------------------------------------------------

    @property
    def settings(self) -> AlertSettings:
        """What is set."""
        return self.engine.settings

    @property
    def instances(self) -> Sequence[Alert]:
        """All alerts that something is remembered of."""
        return self.engine.instances

    @property
    def silences(self) -> Mapping[str, Silence]:
        """The silences, by id."""
        return self.engine.silences

    def snapshot(self) -> AlertsSnapshot:
        """Return all about alerts, for any thread; waits for an evaluation's end."""
        with self._lock:
            return self._snapshot(self.instances)

    def alerts(self, receiver: str) -> list[AlertDetails]:
        """Return what a receiver has to know of: what fires, and what ended lately."""
        return self.engine.alerts(receiver, self._clock())

    # -- inside ------------------------------------------------------------------------

    def _snapshot(self, alerts: Iterable[Alert]) -> AlertsSnapshot:
        engine = self.engine
        names = engine.settings.rules
        return AlertsSnapshot(
            now=self._clock(),
            settings=engine.settings,
            instances=tuple(alert.frozen() for alert in alerts),
            silences=(*engine.settings.silences, *engine.silences.values()),
            found={name: found for name in names if (found := engine.found(name))},
            refused=self._refused,
            clock=engine.store.clock,
            evaluated=self.evaluated,
            problem=self.problem,
            host=self.host,
        )

    def _evaluate(
        self, scene: EvalInput, mono: float
    ) -> tuple[EvaluationResult, AlertsSnapshot | None]:
        """Evaluate; return also the alerts that changed, once each, as they are now."""
        with self._lock:
            result = self.engine.evaluate(scene, mono)
            changed = {change.alert.id: change.alert for change in result.changes}
            return result, self._snapshot(changed.values()) if changed else None

    def _unchanged(self, result: EvaluationResult) -> list[NotificationRequest]:
        """Return, after a downtime, requests about what still fires as before."""
        away, self._away = self._away, 0.0
        if away < AWAY_SECONDS:
            return []
        text = f"kaywatch was down for {duration(away)}; this fires as before"
        news = {(n.receiver, n.alert.dedup_key) for n in result.requests}
        found = []
        for instance in self.instances:
            alert = self.engine.describe(instance)
            for receiver, told in instance.told.items():
                if told.last == "firing" and (receiver, alert.dedup_key) not in news:
                    found.append(
                        NotificationRequest(
                            receiver, NotificationKind.SUMMARY, alert, text
                        )
                    )
        return found

    def _count(self, result: EvaluationResult) -> None:
        counts = dict.fromkeys(AlertState, 0)
        for instance in self.instances:
            counts[instance.life.state] += 1
        for state in (AlertState.PENDING, AlertState.FIRING, AlertState.RECOVERING):
            self.metrics.alerts.labels(state).set(counts[state])
        self.counts = counts
        for reason, count in result.suppressed.items():
            self.metrics.suppressed.labels(reason).add(count)
        self._refused = dict(result.refused)
        refused = result.refused.total()
        if refused and not self.metrics.refused.value:
            log.warning("too many alerts; more are refused", **result.refused)
        self.metrics.refused.set(refused)


def _process(client: Client) -> Process:
    sample = client.sample
    return Process(
        client.id,
        client.service,
        client.host,
        client.pid,
        client.state,
        client.since,
        None if sample is None else sample.rss_bytes,
        client.cpu_percent,
        client.in_flight,
        client.loops,
    )
