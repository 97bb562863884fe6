"""Tests of rules as Python values: rules, receivers, stimuli."""

from __future__ import annotations

from typing import Any

from kaywatch_agent.config import assemble
from kaywatch_agent.rules.built_in import BUILT_IN
from kaywatch_agent.simulation import test_file as files
from kaywatch_agent.simulation.run_test import CaseResult, run_test

__all__ = ["BOT", "HOOK", "PAGER", "SLACK", "failing_executions", "run_case", "rule"]

# None of these files is there: nothing that is secret is read.
SLACK = {"type": "slack", "webhook_url_file": "/run/secrets/slack"}
BOT = {"type": "slack", "bot_token_file": "/run/secrets/bot", "channel": "#alerts"}
PAGER = {"type": "pagerduty", "routing_key_file": "/run/secrets/pagerduty"}
HOOK = {"type": "webhook", "url_file": "/run/secrets/hook"}

OFF = {"thresholds": dict.fromkeys(BUILT_IN, False)}


def rule(**keys: Any) -> dict[str, Any]:
    """A rule on errors that fires and ends at once."""
    return {
        "name": "fails",
        "metric": "error_rate",
        "op": ">",
        "value": 0.5,
        "window": "10s",
        "min_executions": 5,
        "for": "0",
        "keep_firing_for": "0",
        **keys,
    }


def failing_executions(
    *nodes: str, errors: int = 9, **when: str
) -> list[dict[str, Any]]:
    """Nine executions of each node, at each ten seconds, and how many fail."""
    return [
        {"graph": "shop", "node": node, "count": 9, "errors": errors, **when}
        for node in nodes
    ]


def run_case(
    *rules: dict[str, Any],
    receivers: dict[str, dict[str, Any]] | None = None,
    alerting: dict[str, Any] | None = None,
    **test: Any,
) -> CaseResult:
    """Run a test."""
    config = assemble(
        {
            "rule": list(rules),
            "alerting": {**OFF, **(alerting or {})},
            "receiver": {"ops": SLACK} if receivers is None else receivers,
        }
    )
    parsed = config.notify.receivers
    (case,) = files.load({"test": [{"name": "t", **test}]}, config.alerts, parsed)
    return run_test(case, config.alerts, parsed)
