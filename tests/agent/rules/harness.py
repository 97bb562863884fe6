"""An engine on a virtual clock, with synthetic data and restarts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kaywatch.wire import Outcome
from kaywatch_agent.model.alerts import AlertDetails, NotificationKind, Severity
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.records import ProcessSample
from kaywatch_agent.model.series import ClientState, Kind, SeriesKey
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.alert_store import Document
from kaywatch_agent.rules.built_in import BUILT_IN
from kaywatch_agent.rules.engine import Engine, EvaluationResult
from kaywatch_agent.rules.load import load
from kaywatch_agent.simulation.synthetic import SyntheticSource

__all__ = ["AlertHarness", "rule"]

START = 1_800_000_000.0


def rule(**keys: Any) -> dict[str, Any]:
    """Return a rule that fires at once, with other keys."""
    return {
        "name": "success",
        "metric": "success_rate",
        "op": "<",
        "value": 0.9,
        "window": "1m",
        "for": "0",
        "keep_firing_for": "0",
        "min_executions": 10,
        **keys,
    }


class AlertHarness:
    """Synthetic executions, evaluations, and the notifications that were requested."""

    def __init__(
        self,
        *rules: Mapping[str, Any],
        min_severity: Mapping[str, Severity] | None = None,
        **tables: Any,
    ) -> None:
        self.tables: dict[str, Any] = {
            "alerting": {"thresholds": dict.fromkeys(BUILT_IN, False)},
            **tables,
            "rule": [dict(table) for table in rules],
        }
        self.now = START
        self.mono = 50.0
        self.source = SyntheticSource(START - 4000.0)
        self.sent: list[tuple[float, str, str, AlertDetails]] = []
        self.stored: dict[Document, bytes] = {}
        self.min_severity = min_severity or {}
        self.engine = Engine(
            self.settings(), host="box", min_severity=self.min_severity
        )
        self.last: EvaluationResult

    def settings(self) -> Any:
        return load(self.tables, receivers=["chat", "pager"])

    def ran(
        self,
        times: int,
        errors: int = 0,
        *,
        graph: str = "shop",
        node: str = "pay",
        seconds: float = 0.1,
        action: str = "",
        ago: float = 0.0,
        service: str = "web",
    ) -> None:
        """Let executions of a node end, some of them with an error."""
        key = SeriesKey(Kind.NODE, service, graph, node)
        outcomes = {Outcome.OK: times - errors, Outcome.ERROR: errors}
        at = self.now - ago
        self.source.add_executions(key, at, outcomes, seconds=seconds, action=action)

    def observe(
        self, name: str, *values: float, kind: Kind = Kind.GAUGE, **labels: str
    ) -> None:
        """Record values of a custom metric."""
        key = SeriesKey(kind, "web", "", "", name, tuple(sorted(labels.items())))
        self.source.add_values(key, self.now, values)

    def run_ended(self, visits: int, graph: str = "shop") -> None:
        """End a run that visited a number of nodes."""
        key = SeriesKey(Kind.RUN, "web", graph, "")
        self.source.add_executions(key, self.now, {Outcome.OK: 1}, attempts=visits)

    def end_looping_run(self, node: str, visits: int) -> None:
        """Let a run end that visited a node repeatedly."""
        row = self.source._row(SeriesKey(Kind.NODE, "web", "shop", node))
        self.source._longest.setdefault(int(self.now // 10), {})[row] = visits

    def process(
        self, pid: int, state: ClientState = ClientState.CONNECTED, **of: Any
    ) -> None:
        """Set the state of a process."""
        client = Client(
            id="c",
            service="web",
            host="box",
            pid=pid,
            state=state,
            since=self.now,
            sample=ProcessSample(rss_bytes=1000, cpu_seconds=0.0),
            cpu_percent=1.0,
        )
        self.source.clients[pid] = msgspec.structs.replace(client, **of)

    def evaluate(self) -> list[tuple[str, str]]:
        """Evaluate once; return the receivers and kinds of the notifications."""
        self.last = self.engine.evaluate(self.source.eval_input(self.now), self.mono)
        for at, data in self.last.documents.items():
            if data is None:
                self.stored.pop(at, None)
            else:
                self.stored[at] = data
        for notice in self.last.requests:
            # Every notification must be encodable.
            msgspec.json.encode(notice.alert)
            kind = str(NotificationKind(notice.kind))
            self.sent.append((self.now, notice.receiver, kind, notice.alert))
        return [(n.receiver, str(n.kind)) for n in self.last.requests]

    def wait(self, seconds: float, step: float = 5.0) -> list[tuple[str, str]]:
        """Advance the clock, with an evaluation every `step` seconds."""
        results = []
        left = seconds
        while left > 0:
            passed = min(step, left)
            left -= passed
            self.now += passed
            self.mono += passed
            results += self.evaluate()
        return results

    def restart(self, down: float = 0.0, *, clean: bool = True) -> None:
        """Kill or stop the agent, and start it again after `down` seconds."""
        if clean:
            stored = self.engine.documents(self.now)
            self.stored = {at: data for at, data in stored.items() if data is not None}
        self.now += down
        self.mono = 1.0
        self.engine = Engine(
            self.settings(), host="box", min_severity=self.min_severity
        )
        self.engine.restore(self.stored, self.now, self.mono)

    def reload(self, *rules: Mapping[str, Any], **tables: Any) -> None:
        """Replace the rules."""
        self.tables = {**self.tables, **tables, "rule": [dict(r) for r in rules]}
        self.engine.settings = self.settings()

    @property
    def only(self) -> Alert:
        """The only alert."""
        (instance,) = self.engine.alerts
        return instance
