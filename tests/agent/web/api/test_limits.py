"""The thresholds that apply to a node are the strictest of its own rules."""

from __future__ import annotations

from typing import Any

import pytest

from kaywatch_agent.rules.load import load
from kaywatch_agent.web.api.limits import NodeThresholds, StrictestThresholds

PAY = {"service": "shop", "graph": "checkout", "node": "pay"}
OFF = {"success_rate_min": False, "error_rate_max": False, "low_traffic": False}


def rule(**keys: Any) -> dict[str, Any]:
    return {"name": "mine", "metric": "success_rate", "op": "<", "value": 0.5, **keys}


@pytest.mark.parametrize(
    ("thresholds", "rules", "lowest"),
    [
        ({}, [], 0.95),
        ({"success_rate_min": 0.99}, [], 0.99),
        ({"success_rate_min": 0.7, "error_rate_max": 0.2}, [], 0.8),
        (OFF, [], None),
        (OFF, [rule()], 0.5),
        (OFF, [rule(match=['node="pay"'])], 0.5),
        (OFF, [rule(match=['node="refund"'])], None),
        (OFF, [rule(metric="error_rate", op=">", value=0.25)], 0.75),
        # It reports what is too good to be true, and is no limit.
        (OFF, [rule(op=">", value=0.999)], None),
    ],
)
def test_the_strictest_threshold_of_a_node(
    thresholds: dict[str, Any], rules: list[dict[str, Any]], lowest: float | None
) -> None:
    settings = load({"alerting": {"thresholds": thresholds}, "rule": rules})
    limits: StrictestThresholds = NodeThresholds(settings.rules.values()).find([PAY])

    assert limits.min_success_rate == lowest
    assert limits.max_avg == 5.0
