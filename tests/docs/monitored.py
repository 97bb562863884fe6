"""What is monitored without configuration: the table of docs/alerts.md.

`python -m tests.docs.monitored` rewrites it. `tests.e2e.test_failure_modes` lets each
fault happen, and checks that the page has this table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from kaywatch_agent.rules.built_in import BUILT_IN, STUCK_AT_LEAST
from kaywatch_agent.rules.load import load
from kaywatch_agent.units import duration

PAGE: Final = Path(__file__).parents[2] / "docs" / "alerts.md"
SETTINGS: Final = load({})
RULES: Final = SETTINGS.rules
_MARKS: Final = ("<!-- monitored -->\n", "<!-- end of monitored -->\n")


class Fault(NamedTuple):
    """A fault of `tests/e2e/faulty_app.py`: the rule that reports it, and where."""

    rule: str
    service: str
    graph: str = ""
    node: str = ""


# One fault of real processes for each rule that needs no history.
FAULTS: Final = (
    Fault("success_rate_min", "shop", "Failing", "Declines"),
    Fault("avg_execution_time_max", "shop", "Slow", "Thinks"),
    Fault("memory_usage_max", "cache"),
    Fault("low_traffic", "shop", "Rare", "Declines"),
    Fault("process_died", "worker"),
    Fault("dead_end", "shop", "DeadEnd", "Routes"),
    Fault("never_reached", "shop", "NeverReached", "Refunds"),
    Fault("unusual_loop", "shop", "Unusual", "Decides"),
    Fault("runaway", "shop", "Runaway", "Decides"),
    Fault("stuck", "shop", "Stuck", "Waits"),
    Fault("masked_failures", "shop", "Masked", "Asks"),
    Fault("wasted_spend", "shop", "Wasted", "Asks"),
)

# Not failures of a graph, but of a rule and of an export: `agent.rules.test_engine` and
# `e2e.test_remote_write` have them.
OF_RULES: Final = frozenset({"alerts_refused_max", "exports_rejected_max"})

# When each rule fires, in words.
FIRES_WHEN: Final[Mapping[str, str]] = {
    "success_rate_min": "`success_rate < 0.95` over 5 min, at least 20 executions",
    "avg_execution_time_max": (
        "`latency_avg > 5` seconds over 5 min, at least 20 executions. A node that"
        " calls models may take twice its usual average, if that is longer; see `slow`"
    ),
    "error_rate_max": "`error_rate > 0.05` over 5 min, at least 20 executions",
    "memory_usage_max": "`memory_rss > 1024` MiB; the largest process is named",
    "low_traffic": "half of at least 5 executions within 30 min failed",
    "process_died": (
        "a process died; the message names the nodes that it was running. The alert"
        " resolves when another process of the service has replaced it"
    ),
    "dead_end": "a run ended at an action that no edge has",
    "never_reached": (
        "100 runs of a graph, within a day and since its last change, and a node of it"
        " was never executed; if the graph never changed, 100 runs since it was first"
        " seen"
    ),
    "unusual_loop": (
        "a run visits a node more often than any run of the week before, and more than"
        " 10 times"
    ),
    "runaway": (
        "a run visits a node three times as often as any run of the week before, and at"
        " least 30 times; or twice as often, and at least 20 times, since it last"
        " reached a new node"
    ),
    "silent": (
        "over 30 runs of a graph are missing since the last one, compared with the same"
        " hours of yesterday and of a week ago"
    ),
    "slow": (
        "the average is 3 times that of the same hours of yesterday and of a week ago,"
        " whichever was slower, and at least 100 ms; at least 20 executions in 5 min,"
        " and 100 then. A node that is too new is compared with the hours before"
    ),
    "stuck": "an execution takes 10 times longer than the node's p99",
    "masked_failures": (
        "over 20 % of attempts within 30 min failed and were hidden by a retry, a"
        " fallback or `on_error`"
    ),
    "wasted_spend": (
        "over 10 % of the cost of models within an hour was spent on failed attempts"
    ),
    "cost_per_run": (
        "the models of a run cost twice as much, on average over 1 h, as in the same"
        " hours of a week ago; at least 20 runs now and then. It clears at 1.3 times as"
        " much"
    ),
    "drift": (
        "the share of an action within 30 min is 5 standard deviations, and at least 10"
        " points, away from its share in the hours of the week before; at least 20"
        " executions, and 24 hours older than a day"
    ),
    "alerts_refused_max": (
        "a rule has more alerts than `max_alerts_per_rule`, so new ones are refused;"
        " existing alerts are not affected"
    ),
    "exports_rejected_max": (
        "a server of `[export]` rejects series of a snapshot; the alert"
        " counts them by reason"
    ),
}


def monitored_table() -> str:
    """Return the table, in Markdown."""
    lines = [
        "| rule | fires when | after | severity | per | needs no history |",
        "|---|---|---|---|---|---|",
    ]
    real = {fault.rule for fault in FAULTS}
    for name in BUILT_IN:
        rule, wait = RULES[name], promised_wait(name)
        # Both are about the same errors, and one of them is notified.
        is_at_once = name in {*real, *OF_RULES, "error_rate_max"}
        lines.append(
            f"| `{name}` | {FIRES_WHEN[name]} | {duration(wait) if wait else 'at once'}"
            f" | {rule.severity} | {', '.join(rule.per)} |"
            f" {'yes' if is_at_once else ''} |"
        )
    return "\n".join(lines) + "\n"


def slowest_promise() -> float:
    """Return after how many seconds the slowest of the faults has to be notified."""
    waits = [promised_wait(fault.rule) for fault in FAULTS]
    return max(waits) + SETTINGS.grouping.group_wait


def promised_wait(name: str) -> float:
    """Return for how many seconds a condition has to be met before it is reported."""
    rule = RULES[name]
    return STUCK_AT_LEAST if rule.kind == "stuck" else rule.timing.for_


# -- inside --------------------------------------------------------------------------


def _write() -> None:
    start, end = map(re.escape, _MARKS)
    text, count = re.subn(
        f"(?s)({start}).*({end})",
        lambda marks: marks[1] + monitored_table() + marks[2],
        PAGE.read_text(),
    )
    assert count == 1
    PAGE.write_text(text)


if __name__ == "__main__":
    _write()
