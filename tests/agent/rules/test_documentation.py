"""docs/alerts.md is complete: every key, every metric, working examples."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kaywatch_agent.cli.commands import rule_tests
from kaywatch_agent.config import parse
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.rules import load
from kaywatch_agent.rules.built_in import BUILT_IN
from kaywatch_agent.rules.config import KINDS
from kaywatch_agent.rules.metrics import METRICS, WAYS
from kaywatch_agent.simulation import test_file as files
from kaywatch_agent.simulation.run_test import run_test

WRITTEN = (Path(__file__).parents[3] / "docs" / "alerts.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", WRITTEN, re.MULTILINE | re.DOTALL)
TEST = next(example for example in EXAMPLES if "[[test]]" in example)

RECEIVER = """
[receiver.ops]
type = "slack"
webhook_url_file = "/run/secrets/slack"
"""

LEAST: dict[str, dict[str, Any]] = {
    "threshold": {"metric": "error_rate", "op": ">", "value": 0.1},
    "absence": {"max_age": "5m"},
    "burn_rate": {"objective": 0.99},
    "transition_share": {"action": "x", "above": 0.1},
    "stuck": {},
    "process_died": {},
    "runaway": {"max_visits": 3},
}


def known_keys(complaint: Any, *arguments: Any) -> set[str]:
    """The keys that the loader would have taken instead of `strange`."""
    with pytest.raises(ConfigError, match="strange") as caught:
        complaint(*arguments)
    return set(str(caught.value).partition("(known: ")[2].rstrip(")").split(", "))


def documented(names: set[str]) -> set[str]:
    return {name for name in names if f"`{name}`" not in WRITTEN}


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_a_rule_is_documented(kind: str) -> None:
    rule = {"name": "r", "kind": kind, "strange": 1, **LEAST[kind]}

    assert documented(known_keys(load.load, {"rule": [rule]})) == set()


def test_every_key_of_the_other_tables_is_documented() -> None:
    tier = {"factor": 2.0, "long": "1h", "short": "5m", "strange": 1}
    slo = {"name": "r", "kind": "burn_rate", "objective": 0.9, "tiers": [tier]}
    when = {"name": "r", "when": "error_rate > 0.1", "strange": 1}
    inhibit = {"source": ["a=b"], "target": ["a=c"], "strange": 1}
    mute = {"name": "m", "match": ["a=b"], "strange": 1}
    for table in (
        {"alerting": {"strange": 1}},
        {"defaults": {"strange": "1"}},
        {"rule": [slo]},
        {"rule": [when]},
        {"inhibit": [inhibit]},
        {"mute": [mute]},
    ):
        names = known_keys(load.load, table) - {"source", "target", "equal"}
        assert documented(names) == set(), table
    assert documented(set(BUILT_IN)) == set()
    assert all(f"\n{name} = [" in WRITTEN for name in ("source", "target", "equal"))


def test_every_key_of_a_test_is_documented() -> None:
    config = parse(RECEIVER)
    settings, receivers = config.alerts, config.notify.receivers
    min_severity: dict[str, dict[str, Any]] = {
        "executions": {"node": "n"},
        "runs": {},
        "metric": {"name": "m", "value": 1.0},
        "process": {},
        "silence": {"match": ["a=b"]},
        "alerts": {"rule": BUILT_IN[0]},
        "message": {"to": "ops"},
        "outage": {"receiver": "ops"},
    }
    load_cases = partial(files.load, settings=settings, receivers=receivers)
    names = known_keys(load_cases, {"test": [{"name": "t", "strange": 1}]})
    assert names >= set(min_severity)
    for key, part in min_severity.items():
        test = {"name": "t", key: [{**part, "strange": 1}]}
        names |= known_keys(load_cases, {"test": [test]})
    flight = {"name": "t", "process": [{"in_flight": [{"strange": 1}]}]}
    names |= known_keys(load_cases, {"test": [flight]})
    loop = {"name": "t", "process": [{"loops": [{"strange": 1}]}]}
    names |= known_keys(load_cases, {"test": [loop]})

    assert documented(names) == set()


def test_the_metrics_are_those_that_there_are() -> None:
    table = WRITTEN.partition("## Metrics")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]

    assert rows == [
        f"| `{name}` | {metric.unit or 'number'} | {', '.join(metric.source.labels)}"
        f" | {metric.help} |"
        for name, metric in METRICS.items()
    ]
    assert documented(set(WAYS)) == set()


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e is not TEST])
def test_an_example_loads(example: str) -> None:
    # The secrets' files are not there.
    example = re.sub(r"webhook_url_file = .*", 'webhook_url = "https://h/x"', example)
    if "[[rule]]" in example or "[alerting" in example or "[[inhibit]]" in example:
        assert parse(example).alerts.rules


def test_the_example_of_a_test_passes(tmp_path: Path) -> None:
    file = tmp_path / "example.test.toml"
    file.write_text(TEST)
    cases, config = rule_tests.read_tests(file)
    verdicts = [run_test(c, config.alerts, config.notify.receivers) for c in cases]

    assert [verdict.differences for verdict in verdicts] == [[], [], []]
    assert verdicts[0].simulation.delivery.messages
