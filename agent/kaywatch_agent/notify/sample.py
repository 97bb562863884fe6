"""A sample alert, for test messages and for the examples of the documentation."""

from __future__ import annotations

from typing import Final

import msgspec

from kaywatch_agent.model.alerts import AlertDetails, Evidence, dedup_key, fingerprint

__all__ = ["resolve", "sample"]

_LABELS: Final = {"service": "shop", "graph": "checkout", "node": "pay"}
_LOCATION: Final = "shop / checkout / pay"
_RULE: Final = "node-success-rate"


_TIMEOUT: Final = Evidence(
    time=0.0,
    node="pay",
    type="TimeoutError",
    message="the provider did not answer within 30 s",
    phase="exec",
    outcome="error",
    run="7f3a9c21",
    attempts=3,
)
_ALERT: Final = AlertDetails(
    id=fingerprint({**_LABELS, "alertname": _RULE}),
    rule=_RULE,
    severity="critical",
    labels=_LABELS,
    dedup_key="",
    episode=1,
    condition="success_rate < 0.95",
    value=0.8424,
    threshold=0.95,
    clear=0.97,
    unit="ratio",
    window_seconds=300.0,
    executions=203,
    errors=32,
    completeness=1.0,
    worst=0.8424,
    summary=f"{_LOCATION}: success rate 84.2 %, below 95.0 % (32 of 203 failed in 5m)",
    error_classes=(("TimeoutError", 21), ("ValueError", 9), ("KeyError", 2)),
    transition="pay -> retry: 41.0 %, usually 3.0 %",
    history=(0.99, 0.98, 0.99, None, 0.97, 0.93, 0.88, 0.8424),
)


def sample(now: float, *, host: str = "", namespace: str = "") -> AlertDetails:
    """Return an alert that fired at `now`.

    Args:
        now: Unix seconds.
        host: where the agent runs.
        namespace: distinguishes the tests of different agents.
    """
    return msgspec.structs.replace(
        _ALERT,
        dedup_key=dedup_key(namespace, f"test {_RULE}", _LABELS),
        started=now - 120,
        fired=now,
        worst_at=now,
        evidence=(msgspec.structs.replace(_TIMEOUT, time=now - 2),),
        host=host,
    )


def resolve(alert: AlertDetails, now: float) -> AlertDetails:
    """Return the sample alert as resolved at `now`."""
    return msgspec.structs.replace(
        alert,
        resolved=True,
        ended=now,
        reason="cleared",
        value=0.985,
        worst=0.612,
        worst_at=alert.fired + 60,
        errors=3,
        summary=f"{_LOCATION}: success rate 98.5 %, limit 95.0 %"
        " (3 of 203 failed in 5m)",
    )
