"""Alerts at work: evaluated beside the loop, kept with the tick, told once durable.

    tick -> Engine.evaluate, in a thread -> notices -> Outbox -> commit -> receivers

One evaluation is under way at a time. One that takes long is followed by a pause of
twenty times that, up to 15 s: rules never take more than a twentieth of a core.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec
import structlog

from kaywatch_agent.aggregate.aggregator import View
from kaywatch_agent.aggregate.clients import Client
from kaywatch_agent.model.alerts import (
    Alert,
    NoticeKind,
    NotificationRequest,
    Severity,
)
from kaywatch_agent.rules.engine import Engine
from kaywatch_agent.rules.instance import Instance
from kaywatch_agent.rules.picture import Picture, frozen
from kaywatch_agent.rules.round import CLOCK, Document
from kaywatch_agent.rules.rule import Settings
from kaywatch_agent.rules.scene import Process, Scene
from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.rules.state import State
from kaywatch_agent.rules.tell import Evaluation
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics
from kaywatch_agent.units import span

__all__ = ["Alerting"]

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


class Alerting:
    """The rules, the alerts and the silences of one agent.

    Attributes:
        engine: what decides.
        problem: what went wrong with the last evaluation; empty for nothing.
        evaluated: when that ended, Unix seconds; the start before the first.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        tell: Callable[[Iterable[NotificationRequest]], None],
        least: Mapping[str, Severity],
        clock: Callable[[], float],
        turned: Callable[[Picture], None] = lambda _: None,
    ) -> None:
        """Make the engine.

        Args:
            settings: rules, and what else is set.
            tell: takes notices to the outbox, with a text above them.
            least: by receiver, the least severity that it wants to hear of.
            clock: Unix seconds.
            turned: takes the alerts that went from one state to another.
        """
        self.host = socket.gethostname()
        self.engine = Engine(settings, host=self.host, least=least)
        self.problem = ""
        self.evaluated = clock()
        self.metrics = AlertMetrics()
        self._tell = tell
        self._clock = clock
        self._changed: dict[Document, bytes | None] = {}
        self._thread = ThreadPoolExecutor(1, "rules")
        self._work: asyncio.Task[None] | None = None
        self._due = 0.0  # by the loop's clock
        self._started = clock()
        self._away = 0.0  # before the start, until that was told
        self._turned = turned
        self._counts: Mapping[State, int] = {}
        self._refused: Mapping[str, int] = {}
        # Held by an evaluation, and by those who copy what it changes.
        self._lock = threading.Lock()

    # -- over restarts -----------------------------------------------------------------

    def restore(self, documents: Mapping[Document, bytes]) -> None:
        """Go on from what was kept before a restart."""
        ours = {at: data for at, data in documents.items() if at[0] in OURS}
        self._away = self.engine.restore(ours, self._clock(), time.monotonic())

    def changes(self, whole: bool) -> Mapping[Document, bytes | None]:
        """Return the documents that changed since the last call, or all of them."""
        changed, self._changed = self._changed, {}
        return {**changed, **self.engine.documents(self._clock())} if whole else changed

    def refused(self, documents: Mapping[Document, bytes | None]) -> None:
        """Take back documents that could not be made durable."""
        ours = {at: data for at, data in documents.items() if at[0] in OURS}
        self._changed = {**ours, **self._changed}

    # -- at work -----------------------------------------------------------------------

    def use(self, settings: Settings, least: Mapping[str, Severity]) -> None:
        """Go on with other rules, from the next evaluation on."""
        self.engine.settings = settings
        self.engine.least = least

    def tick(self, view: View, clients: Iterable[Client]) -> None:
        """Begin an evaluation, if it is time for one and none is under way."""
        loop = asyncio.get_running_loop()
        if self._work is not None or loop.time() < self._due:
            return
        now = self._clock()
        scene = Scene(now, now - self._started, view, tuple(map(_process, clients)))
        self._forget_silences(now)
        self._work = loop.create_task(self._evaluate(scene), name="rules")

    async def stop(self) -> None:
        """End, after the evaluation that is under way."""
        if self._work is not None:
            await asyncio.wait([self._work])
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
    def settings(self) -> Settings:
        """What is set."""
        return self.engine.settings

    @property
    def instances(self) -> Sequence[Instance]:
        """All alerts that something is remembered of."""
        return self.engine.instances

    @property
    def silences(self) -> Mapping[str, Silence]:
        """The silences, by id."""
        return self.engine.silences

    @property
    def counts(self) -> Mapping[State, int]:
        """How many alerts were in each state at the last evaluation."""
        return self._counts

    def picture(self) -> Picture:
        """Return all about alerts, for any thread; waits for an evaluation's end."""
        with self._lock:
            return self._picture(self.instances)

    def _picture(self, instances: Iterable[Instance]) -> Picture:
        engine = self.engine
        names = engine.settings.rules
        found = {name: found for name in names if (found := engine.found(name))}
        return Picture(
            now=self._clock(),
            settings=engine.settings,
            instances=frozen(instances),
            silences=(*engine.settings.silences, *engine.silences.values()),
            found=found,
            refused=self._refused,
            clock=engine.clock,
            evaluated=self.evaluated,
            problem=self.problem,
            host=self.host,
        )

    def alerts(self, receiver: str) -> list[Alert]:
        """Return what a receiver has to know of: what fires, and what ended lately."""
        return self.engine.alerts(receiver, self._clock())

    # -- inside ------------------------------------------------------------------------

    async def _evaluate(self, scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        try:
            evaluation, turned = await loop.run_in_executor(
                self._thread, self._look, scene, time.monotonic()
            )
            self._take(evaluation)
            if turned is not None:
                self._turned(turned)
            self.problem = ""
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            if problem != self.problem:
                log.exception("an evaluation of the rules failed, and is tried again")
            self.problem = problem
            self.metrics.failures.add()
        finally:
            self._work = None
            self.evaluated = self._clock()
            seconds = time.perf_counter() - started
            pause = max(self.settings.interval, min(seconds * PAUSE_FACTOR, MAX_PAUSE))
            # The tick comes a bit early now and then.
            self._due = loop.time() - seconds + pause - 0.1
            self.metrics.evaluations.add()
            self.metrics.seconds.add(seconds)

    def _look(self, scene: Scene, mono: float) -> tuple[Evaluation, Picture | None]:
        """Evaluate; return also those that turned, once each, as they are now."""
        with self._lock:
            done = self.engine.evaluate(scene, mono)
            turned = {turn.instance.id: turn.instance for turn in done.turns}
            return done, self._picture(turned.values()) if turned else None

    def _take(self, evaluation: Evaluation) -> None:
        self._changed.update(evaluation.documents)
        self._tell(evaluation.notices)
        if self._away >= AWAY_SECONDS:
            text = f"kaywatch was down for {span(self._away)}; this fires as before"
            self._tell(self._unchanged(evaluation, text))
        self._away = 0.0
        for reason, count in evaluation.suppressed.items():
            self.metrics.suppressed.labels(reason).add(count)
        self._count(evaluation)

    def _unchanged(
        self, evaluation: Evaluation, text: str
    ) -> list[NotificationRequest]:
        """Return, after a downtime, what receivers were told and is still so."""
        news = {(n.receiver, n.alert.dedup_key) for n in evaluation.notices}
        found = []
        for instance in self.instances:
            for receiver, told in instance.told.items():
                alert = self.engine.describe(instance)
                if told.last == "firing" and (receiver, alert.dedup_key) not in news:
                    found.append(
                        NotificationRequest(receiver, NoticeKind.SUMMARY, alert, text)
                    )
        return found

    def _count(self, evaluation: Evaluation) -> None:
        counts = dict.fromkeys(State, 0)
        for instance in self.instances:
            counts[instance.life.state] += 1
        for state in (State.PENDING, State.FIRING, State.RECOVERING):
            self.metrics.alerts.labels(state).set(counts[state])
        self._counts = counts
        self._refused = dict(evaluation.refused)
        refused = evaluation.refused.total()
        if refused and not self.metrics.refused.value:
            log.warning("too many alerts; more are refused", **evaluation.refused)
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
