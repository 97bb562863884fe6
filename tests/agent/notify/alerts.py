"""Alerts and outboxes for tests of notifications."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kaywatch_agent.model.alerts import (
    AlertDetails,
    NotificationKind,
    NotificationRequest,
    dedup_key,
)
from kaywatch_agent.notify.enqueue import EnqueueResult
from kaywatch_agent.notify.message import OutboxMessage
from kaywatch_agent.notify.outbox import Outbox
from kaywatch_agent.notify.policy import Policy

NOON = 1_795_608_060.0  # 2026-11-25T12:01:00Z


def alert(node: str = "pay", graph: str = "checkout", **fields: Any) -> AlertDetails:
    """An alert as rules make it."""
    labels = {"graph": graph, "node": node}
    rule = fields.pop("rule", "node-success-rate")
    value: dict[str, Any] = {
        "severity": "critical",
        "labels": labels,
        "dedup_key": dedup_key("test", rule, labels),
        "episode": 1,
        "condition": "success_rate < 0.95",
        "value": 0.8424,
        "threshold": 0.95,
        "clear": 0.97,
        "unit": "ratio",
        "window_seconds": 300.0,
        "executions": 203,
        "errors": 32,
        "completeness": 1.0,
        "started": NOON - 120,
        "fired": NOON,
        "summary": f"{node}: success 84.2 % < 95.0 % (32 of 203 failed in 5m)",
        "error_classes": (("TimeoutError", 21), ("ValueError", 9), ("KeyError", 2)),
        "transition": "pay -> retry: 41 %",
        "history": (0.99, 0.98, 0.99, None, 0.97, 0.93, 0.88, 0.8424),
        "host": "worker-3",
        "runbook_url": "https://runbooks.example/checkout",
        "dashboard_url": "https://kaywatch.example/#/graphs/checkout",
        "silence_url": "https://kaywatch.example/#/silence/abc",
    }
    return AlertDetails(rule=rule, **{**value, **fields})


def resolve_alert(
    fired: AlertDetails, ended: float = NOON + 360, reason: str = "cleared"
) -> AlertDetails:
    """The same alert after it ended."""
    return msgspec.structs.replace(
        fired,
        resolved=True,
        ended=ended,
        reason=reason,
        value=0.985,
        summary=f"{fired.labels['node']}: success 98.5 %, limit 95.0 %",
    )


class Disk:
    """A store that keeps the outbox's documents."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}

    def commit(self, outbox: Outbox) -> set[str]:
        changes = outbox.store.changes()
        for message_id, document in changes.items():
            if document is None:
                self.documents.pop(message_id, None)
            else:
                self.documents[message_id] = document
        return outbox.store.committed(changes)


class Entropy:
    """Predictable bytes instead of random ones."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, length: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(length, "big")


def outbox(
    policies: Mapping[str, Policy],
    restored: Mapping[str, bytes] | None = None,
    random: float = 1.0,
    now: float = NOON,
) -> Outbox:
    box = Outbox(
        policies,
        random=lambda: random,
        entropy=Entropy(),
    )
    box.restore(restored or {}, now)
    return box


def put(
    box: Outbox,
    receiver: str,
    kind: NotificationKind,
    alert: AlertDetails,
    now: float,
    text: str = "",
) -> EnqueueResult:
    return box.enqueue(NotificationRequest(receiver, kind, alert, text), now)


def entries_of(message: OutboxMessage | None) -> list[tuple[str, str]]:
    """The kind and the node of each of a message's alerts."""
    assert message is not None
    return [(str(e.kind), e.alert.labels["node"]) for e in message.entries]
