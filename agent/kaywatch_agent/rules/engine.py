"""All alerts: evaluated, remembered, and notified of. Pure: `now` is an argument.

    EvalInput -> evaluate -> Condition -> state.advance -> StateChange
              -> plan_notifications -> NotificationRequest

`evaluate` may run beside the loop: nothing else touches the alerts meanwhile, and what
it returns is frozen. Rules and silences are swapped whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from kaywatch_agent.model.alerts import AlertDetails, NotificationRequest, Severity
from kaywatch_agent.rules.alert import Alert, SuppressionReason
from kaywatch_agent.rules.alert_store import AlertStore, Document, Documents
from kaywatch_agent.rules.describe import describe
from kaywatch_agent.rules.evaluate import RuleResult, evaluate, prepare
from kaywatch_agent.rules.evaluation import Evaluation, StateChange
from kaywatch_agent.rules.notifications import (
    Decision,
    Suppressor,
    plan_notifications,
)
from kaywatch_agent.rules.rule import Absence, AlertSettings, Rule, Stuck, Threshold
from kaywatch_agent.rules.scene import EvalInput, WindowCache
from kaywatch_agent.rules.silence import Silence, stored

__all__ = ["Engine", "EvaluationResult"]

# A window of an hour need not be looked at each second.
REFRESH_SHARE: Final = 300.0
MAX_REFRESH: Final = 60.0

# Memory and CPU of processes are read so often.
SAMPLE_SECONDS: Final = 10.0

# Evaluations may be this far apart, and all of it counts as observed.
MAX_STEP: Final = 15.0

# As Prometheus tells an Alertmanager of what is over: rules/alerting.go.
ENDED_SECONDS: Final = 900.0


class EvaluationResult(NamedTuple):
    """What one evaluation did.

    Attributes:
        changes: which alerts went from one state to another.
        requests: who is to be notified of what.
        documents: what is to be stored.
        suppressed: how many notifications were suppressed, by reason.
        refused: how many alerts were over the limit, by rule.
    """

    changes: list[StateChange]
    requests: list[NotificationRequest]
    documents: Documents
    suppressed: Counter[SuppressionReason]
    refused: Counter[str]


class Engine:
    """The alerts of one agent.

    Attributes:
        settings: rules, and what else is set.
        silences: by id.
        unusable: of those that were stored, why one is left out, by id.
        min_severity: by receiver, the least severity that it is notified of.
        store: the alerts.
        max_step: evaluations may be this many seconds apart, and twice that counts as
            observed.
    """

    def __init__(
        self,
        settings: AlertSettings,
        *,
        host: str = "",
        min_severity: Mapping[str, Severity],
    ) -> None:
        """Begin without any alert.

        Args:
            settings: rules, and what else is set.
            host: where the agent runs, for those who read.
            min_severity: by receiver, the least severity that it is notified of.
        """
        self.settings = settings
        self.silences: Mapping[str, Silence] = {}
        self.unusable: dict[str, str] = {}
        self.min_severity = min_severity
        self.store = AlertStore()
        self.max_step = MAX_STEP
        self._host = host
        self._windows = WindowCache()
        self._prepared: AlertSettings | None = None
        self._found: dict[str, tuple[float, RuleResult]] = {}
        self._refused: Mapping[str, int] = {}  # at the last evaluation, by rule
        self._last: float | None = None  # monotonic seconds of the last evaluation

    # -- over restarts -----------------------------------------------------------------

    def restore(
        self, documents: Mapping[Document, bytes], now: float, mono: float
    ) -> float:
        """Continue with what was stored before a restart.

        Args:
            documents: of the kinds `alert`, `silence` and `clock`.
            now: Unix seconds.
            mono: seconds of the clock that `evaluate` gets.

        Returns:
            For how many seconds nobody looked.
        """
        self._last = mono
        found: dict[str, Silence] = {}
        for (kind, name), data in documents.items():
            if kind == "silence":
                try:
                    found[name] = stored(data)
                except ValueError as error:
                    # It would fail at each evaluation, and no alert would be sent.
                    self.unusable[name] = str(error)
        self.silences = found
        return self.store.restore(documents, now)

    def documents(self, now: float) -> dict[Document, bytes | None]:
        """Return all that is to be stored."""
        found = self.store.documents(now, full=True)
        for name, silence in self.silences.items():
            found["silence", name] = msgspec.json.encode(silence)
        return found

    # -- at work -----------------------------------------------------------------------

    def evaluate(self, scene: EvalInput, mono: float) -> EvaluationResult:
        """Evaluate all rules, and decide who is notified of what.

        Args:
            scene: what there is to see.
            mono: seconds of a clock that never goes back.
        """
        settings, store, now = self.settings, self.store, scene.now
        passed = 0.0 if self._last is None else max(0.0, mono - self._last)
        self._last = mono
        store.clock += passed
        # A suspended machine is no time in which a condition was observed.
        elapsed = min(passed, 2.0 * max(settings.interval, self.max_step))
        self._prepare(settings)
        self._windows.look(scene._replace(refused=self._refused))
        evaluation = Evaluation(store, settings, self._windows, elapsed)
        for rule in settings.rules.values():
            evaluation.apply(rule, self._result(rule, mono))
        evaluation.end_orphans()
        # Of a rule that is gone none are refused, which is not the same as unknown.
        none = dict.fromkeys([*self._refused, *settings.rules], 0)
        self._refused = {**none, **evaluation.refused}
        suppressed: Counter[SuppressionReason] = Counter()
        requests = list(self._requests(now, suppressed))
        store.forget(now)
        return EvaluationResult(
            evaluation.changes,
            requests,
            store.documents(now),
            suppressed,
            evaluation.refused,
        )

    def alerts(self, receiver: str, now: float) -> list[AlertDetails]:
        """Return what a receiver has to know of: what fires, and what ended lately."""
        return [
            self.describe(alert)
            for alert in self.instances
            if receiver in alert.told
            and (
                alert.life.is_firing or now - (alert.life.ended or 0.0) < ENDED_SECONDS
            )
        ]

    def describe(self, alert: Alert) -> AlertDetails:
        """Return the facts about an alert."""
        return describe(alert, self.settings, self._host, self.store.clock)

    def found(self, rule: str) -> RuleResult | None:
        """Return the last result of a rule; None before the first time."""
        known = self._found.get(rule)
        return None if known is None else known[1]

    @property
    def instances(self) -> list[Alert]:
        """All alerts that something is remembered of."""
        return list(self.store.alerts.values())

    # -- inside ------------------------------------------------------------------------

    def _requests(
        self, now: float, suppressed: Counter[SuppressionReason]
    ) -> Iterator[NotificationRequest]:
        """Yield who is to be notified of what, and remember it."""
        clock, alerts = self.store.clock, self.store.alerts.values()
        suppressor = Suppressor(
            self.settings,
            self.silences.values(),
            self.min_severity,
            alerts,
            now,
            clock,
        )
        for alert in alerts:
            rule = self.settings.rules.get(alert.rule)
            decisions = list(plan_notifications(alert, rule, suppressor.find, clock))
            suppressed.update(self._suppress(alert, decisions, now))
            for decision in decisions:
                if decision.kind is not None and decision.last is not None:
                    alert.told[decision.receiver] = decision.last
                    alert.say(now, f"{decision.receiver} notified: {decision.kind}")
                    self.store.changed(alert)
                    yield NotificationRequest(
                        decision.receiver, decision.kind, self.describe(alert)
                    )

    def _suppress(
        self, alert: Alert, decisions: list[Decision], now: float
    ) -> Iterator[SuppressionReason]:
        """Remember why receivers are not notified; yield the reasons that are new."""
        before = alert.held
        alert.held = {d.receiver: d.suppression for d in decisions if d.suppression}
        for receiver, why in alert.held.items():
            known = before.get(receiver)
            if known is None or (known.reason, known.by) != (why.reason, why.by):
                alert.say(now, f"{receiver} not notified: {why}")
                self.store.changed(alert)
                yield why.reason

    def _prepare(self, settings: AlertSettings) -> None:
        if self._prepared is not settings:
            self._prepared = settings
            self._windows = WindowCache()
            self._found.clear()
            for rule in settings.rules.values():
                prepare(rule, self._windows)

    def _result(self, rule: Rule, mono: float) -> RuleResult:
        """Return a rule's result; the last one, where little can have changed."""
        known = self._found.get(rule.name)
        refresh = _refresh(rule)
        if known is not None and mono - known[0] < refresh - 0.5:
            return known[1]
        found = evaluate(rule, self._windows)
        self._found[rule.name] = (mono, found)
        return found


def _refresh(rule: Rule) -> float:
    """Return how many seconds what a rule found is good for."""
    match rule.test:
        case Stuck() | Absence():
            return 0.0
        case Threshold(metric="memory_rss" | "cpu_percent", sources=(_,)):
            return SAMPLE_SECONDS / 2
    return min(MAX_REFRESH, rule.window / REFRESH_SHARE)
