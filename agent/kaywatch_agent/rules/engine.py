"""All alerts: evaluated, stored and notified of. Free of I/O: `now` is an argument.

    EvalInput -> evaluate -> ConditionStatus -> state.advance -> StateChange
              -> plan_notifications -> NotificationRequest

`evaluate` may run in a thread: nothing else changes the alerts meanwhile, and its
result is not changed afterwards. Settings and silences are replaced as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from kaywatch_agent.model.alerts import AlertDetails, NotificationRequest, Severity
from kaywatch_agent.rules.alert import Alert, SuppressionReason
from kaywatch_agent.rules.alert_store import AlertStore, Document, Documents
from kaywatch_agent.rules.companions import Companions
from kaywatch_agent.rules.describe import describe
from kaywatch_agent.rules.evaluate import evaluate, prepare
from kaywatch_agent.rules.evaluation import Evaluation, StateChange
from kaywatch_agent.rules.notifications import (
    Decision,
    Suppressor,
    plan_notifications,
)
from kaywatch_agent.rules.result import RuleResult
from kaywatch_agent.rules.rule import Absence, AlertSettings, Rule, Stuck, Threshold
from kaywatch_agent.rules.silence import SilenceStore
from kaywatch_agent.rules.visits import UsualVisits
from kaywatch_agent.rules.windows import EvalInput, WindowCache

__all__ = ["MAX_STEP", "USUAL", "Engine", "EvaluationResult", "refresh_interval"]

# A result is reused for 1/300 of the rule's window, at most a minute: a window of an
# hour changes little within seconds. Rules with a window of up to five minutes are
# evaluated each time.
REFRESH_SHARE: Final = 300.0
MIN_REFRESH: Final = 1.0
MAX_REFRESH: Final = 60.0

# How often memory and CPU of processes are sampled.
SAMPLE_SECONDS: Final = 10.0

# Evaluations may be this many seconds apart; twice that counts as observed.
MAX_STEP: Final = 15.0

# How long a resolved alert is sent to an Alertmanager, as Prometheus does:
# resolvedRetention in rules/alerting.go.
RESOLVED_SECONDS: Final = 900.0


# The document of what is usual.
USUAL: Final[Document] = ("usual", "visits")


class EvaluationResult(NamedTuple):
    """The result of one evaluation.

    Attributes:
        changes: the changes of state.
        requests: the notifications to be sent.
        documents: the documents to store.
        suppressed: newly suppressed notifications, by reason.
        refused: alerts over the limit of their rule, by rule.
    """

    changes: list[StateChange]
    requests: list[NotificationRequest]
    documents: Documents
    suppressed: Counter[SuppressionReason]
    refused: Counter[str]


class Engine:
    """The alerts of one agent.

    Attributes:
        settings: the rules and everything else that is configured.
        silences: the silences that were created at runtime.
        min_severity: the minimum severity of a notification, by receiver.
        store: the alerts.
        host: the agent's host name, for notifications.
        max_step: evaluations may be this many seconds apart.
        refused: alerts over the limit of their rule in the last evaluation, by rule.
    """

    def __init__(
        self,
        settings: AlertSettings,
        *,
        host: str = "",
        min_severity: Mapping[str, Severity],
    ) -> None:
        """Start without alerts.

        Args:
            settings: the rules and everything else that is configured.
            host: the agent's host name, for notifications.
            min_severity: the minimum severity of a notification, by receiver.
        """
        self.settings = settings
        self.silences = SilenceStore()
        self.min_severity = min_severity
        self.store = AlertStore()
        self.max_step = MAX_STEP
        self.refused: Mapping[str, int] = {}
        self.host = host
        self._usual = UsualVisits()
        self._windows = WindowCache()
        self._prepared: AlertSettings | None = None
        self._results: dict[str, tuple[float, RuleResult]] = {}
        self._last: float | None = None  # monotonic seconds of the last evaluation

    # -- over restarts -----------------------------------------------------------------

    def restore(
        self, documents: Mapping[Document, bytes], now: float, mono: float
    ) -> float:
        """Restore the state after a restart; return the downtime in seconds.

        Args:
            documents: of the kinds `alert`, `silence`, `clock` and `usual`.
            now: Unix seconds.
            mono: seconds of the clock that `evaluate` gets.
        """
        self._last = mono
        self.silences.restore(
            {
                name: data
                for (kind, name), data in documents.items()
                if kind == "silence"
            }
        )
        if USUAL in documents:
            self._usual.restore(documents[USUAL])
        return self.store.restore(documents, now)

    def documents(self, now: float) -> dict[Document, bytes | None]:
        """Return all documents."""
        silences = self.silences.documents(full=True)
        return {
            **self.store.documents(now, full=True),
            **self._learned(full=True),
            **{("silence", name): data for name, data in silences.items()},
        }

    # -- evaluation --------------------------------------------------------------------

    def evaluate(self, data: EvalInput, mono: float) -> EvaluationResult:
        """Evaluate all rules, and plan the notifications.

        Args:
            data: what the rules look at.
            mono: seconds of a clock that never goes back.
        """
        settings, store, now = self.settings, self.store, data.now
        passed = 0.0 if self._last is None else max(0.0, mono - self._last)
        self._last = mono
        store.clock += passed
        # While the machine was suspended, no condition was observed.
        elapsed = min(passed, 2.0 * max(settings.interval, self.max_step))
        self._prepare(settings)
        self._usual.learn(data.view)
        known = data._replace(refused=self.refused, usual_visits=self._usual.most)
        self._windows.reset(known)
        evaluation = Evaluation(store, settings, self._windows, elapsed)
        for rule in settings.rules.values():
            evaluation.apply(rule, self._evaluate_rule(rule, mono))
        evaluation.end_orphans()
        self._windows.release()
        # An explicit 0 clears the alert on refused alerts; a missing rule would be
        # unknown, and the alert would stay.
        zeros = dict.fromkeys([*self.refused, *settings.rules], 0)
        self.refused = {**zeros, **evaluation.refused}
        suppressed: Counter[SuppressionReason] = Counter()
        requests = list(self._requests(now, suppressed))
        store.forget(now)
        return EvaluationResult(
            evaluation.changes,
            requests,
            {**store.documents(now), **self._learned()},
            suppressed,
            evaluation.refused,
        )

    def alerts_for(self, receiver: str, now: float) -> list[AlertDetails]:
        """Return a receiver's firing and recently resolved alerts."""
        return [
            self.describe(alert)
            for alert in self.alerts
            if receiver in alert.notified
            and (
                alert.lifecycle.is_firing
                or now - (alert.lifecycle.ended or 0.0) < RESOLVED_SECONDS
            )
        ]

    def describe(self, alert: Alert) -> AlertDetails:
        """Return an alert as notifications carry it."""
        return describe(alert, self.settings, self.host, self.store.clock)

    def last_result(self, rule: str) -> RuleResult | None:
        """Return the last result of a rule; None before its first evaluation."""
        cached = self._results.get(rule)
        return None if cached is None else cached[1]

    @property
    def alerts(self) -> list[Alert]:
        """All alerts, in any state."""
        return list(self.store.alerts.values())

    # -- inside ------------------------------------------------------------------------

    def _requests(
        self, now: float, suppressed: Counter[SuppressionReason]
    ) -> Iterator[NotificationRequest]:
        """Yield the notifications that are due, and record them in the alerts."""
        clock, alerts = self.store.clock, self.store.alerts.values()
        silences = self.silences.silences.values()
        suppressor = Suppressor(
            self.settings, silences, self.min_severity, alerts, now, clock
        )
        companions = Companions(self.settings, alerts, self.last_result)
        for alert in alerts:
            rule = self.settings.rules.get(alert.rule)
            decisions = list(plan_notifications(alert, rule, suppressor.find, clock))
            suppressed.update(self._record_suppressions(alert, decisions, now))
            for decision in decisions:
                if decision.kind is not None and decision.last is not None:
                    alert.notified[decision.receiver] = decision.last
                    alert.add_note(
                        now, f"{decision.receiver} notified: {decision.kind}"
                    )
                    self.store.mark_changed(alert)
                    yield NotificationRequest(
                        decision.receiver,
                        decision.kind,
                        self.describe(alert),
                        is_alone=not companions.may_join(alert, decision.receiver),
                    )

    def _record_suppressions(
        self, alert: Alert, decisions: list[Decision], now: float
    ) -> Iterator[SuppressionReason]:
        """Record in an alert who is not notified; yield the reasons that are new."""
        before = alert.suppressions
        alert.suppressions = {
            d.receiver: d.suppression for d in decisions if d.suppression
        }
        for receiver, why in alert.suppressions.items():
            previous = before.get(receiver)
            if previous is None or (previous.reason, previous.by) != (
                why.reason,
                why.by,
            ):
                alert.add_note(now, f"{receiver} not notified: {why}")
                self.store.mark_changed(alert)
                yield why.reason

    def _learned(self, *, full: bool = False) -> Documents:
        document = self._usual.document(full=full)
        return {} if document is None else {USUAL: document}

    def _prepare(self, settings: AlertSettings) -> None:
        if self._prepared is not settings:
            self._prepared = settings
            self._windows = WindowCache()
            self._results.clear()
            for rule in settings.rules.values():
                prepare(rule, self._windows)

    def _evaluate_rule(self, rule: Rule, mono: float) -> RuleResult:
        """Return a rule's result; the last one while it is recent enough."""
        cached, refresh = self._results.get(rule.name), refresh_interval(rule)
        # Half a second of slack: evaluations are not exactly a second apart.
        if cached and refresh > MIN_REFRESH and mono - cached[0] < refresh - 0.5:
            return cached[1]
        result = evaluate(rule, self._windows)
        self._results[rule.name] = (mono, result)
        return result


def refresh_interval(rule: Rule) -> float:
    """Return for how many seconds a rule's result may be reused."""
    match rule.condition:
        case Stuck() | Absence():
            return 0.0
        case Threshold(metric="memory_rss" | "cpu_percent") as condition:
            if len(condition.metrics) == 1:
                return SAMPLE_SECONDS / 2
        # It adds up the actions of all nodes, which no other rule needs.
        case Threshold(metric="action_drift"):
            return MAX_REFRESH
    return min(MAX_REFRESH, rule.window / REFRESH_SHARE)
