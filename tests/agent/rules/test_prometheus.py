"""Rules as Prometheus alert rules: valid, with the same results on the same data."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from tests.agent.rules.harness import AlertHarness, rule
from tests.servers import require

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.rules.built_in import BUILT_IN
from kaywatch_agent.rules.load import load
from kaywatch_agent.rules.metrics import METRICS, WAYS, MetricSource, find
from kaywatch_agent.rules.prometheus import RuleFile, convert
from kaywatch_agent.rules.promql import CLASSIC_BOUNDS, Histograms
from kaywatch_agent.web.prometheus.exposition import CLASSIC_EXPONENTS

# Each of these looks at what only the agent knows.
HOST_ONLY: Final = {
    *("memory_usage_max", "process_died"),
    *("never_reached", "unusual_loop", "runaway", "stuck"),
    *("silent", "slow", "cost_per_run", "drift"),
    *("alerts_refused_max", "exports_rejected_max"),
}

# Rules of each kind, and what is special about them.
OWN: Final[list[dict[str, Any]]] = [
    {"name": "all-together", "when": "error_rate > 0.1 and runs >= 3", "per": []},
    {"name": "either", "when": "latency_p95 > 2 or not (throughput > 0.5)"},
    {"name": "clears", "when": "retries > 5", "clear_when": "executions == 0"},
    {
        "name": "matched",
        "metric": "run_latency_p50",
        "op": ">",
        "value": 1.5,
        "window": "1h30m",
        "match": ['graph=~"a|b\\\\d"', 'service!="x\\"y"'],
        "summary": "{graph}: {value:.2f} s {{here}}, above {threshold:.1f} in {window}",
        "labels": {"team": "{{ shop }}"},
        "runbook_url": "https://example.org/{{x}}",
    },
    {"name": "counted", "metric": "custom.orders.sum", "op": ">", "value": 4.5},
    {
        "name": "nightly",
        "kind": "absence",
        "max_age": "15m",
        "per": ["graph"],
        "expect": [{"graph": "nightly"}],
    },
    {"name": "budget", "kind": "burn_rate", "objective": 0.99},
    {"name": "fast", "kind": "burn_rate", "objective": 0.95, "latency_le": "4s"},
    {
        "name": "band",
        "kind": "transition_share",
        "action": "retry",
        "above": 0.2,
        "below": 0.01,
    },
]


def export(*rules: dict[str, Any], **options: Any) -> RuleFile:
    settings = load({"rule": list(rules), "alerting": {"labels": {"site": "a"}}})
    return convert(settings, settings.rules.values(), **options)


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        [require("promtool"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("histograms", ["native", "classic"])
def test_promtool_accepts_each_kind_of_rule(
    tmp_path: Path, histograms: Histograms
) -> None:
    result = export(*OWN, histograms=histograms)
    assert set(result.omitted) == HOST_ONLY
    tiers = {
        f"{name}-{long}" for name in ("budget", "fast") for long in ("1h", "6h", "3d")
    }
    own = {rule["name"] for rule in OWN} - {"budget", "fast"}
    assert set(result.exported) == {*BUILT_IN, *own, *tiers} - HOST_ONLY
    file = tmp_path / "rules.yml"
    file.write_text(result.text)
    output = promtool("check", "rules", "--lint-fatal", str(file))
    assert f"{len(result.exported)} rules found" in output


def test_every_metric_is_expressed_or_has_a_reason() -> None:
    names = [*METRICS, *(f"custom.orders.{how}" for how in WAYS)]
    expressed = set()
    for name in names:
        value = 0.5 if find(name).unit == "ratio" else 2.0
        result = export({"name": "r", "metric": name, "op": ">", "value": value})
        assert ("r" in result.exported) is not ("r" in result.omitted)
        expressed |= {name} if "r" in result.exported else set()
    # What is a process's or the agent's own is on no server.
    sources = {find(name).source for name in expressed}
    assert sources == set(MetricSource) - {
        *(MetricSource.PROCESSES, MetricSource.RULES, MetricSource.EXPORTS)
    }


def test_omitted_rules_are_listed_with_the_reason_in_comments() -> None:
    result = export()
    comments = [line for line in result.text.splitlines() if line.startswith("#")]
    for name, reason in result.omitted.items():
        assert f"#   {name}: {reason}." in comments
    for name, note in result.notes.items():
        assert f"# {name}: {note}." in comments


def test_durations_and_options_of_a_rule() -> None:
    text = export(rule(**{"for": "90s", "keep_firing_for": "1h"})).text
    assert "for: 1m30s\n" in text
    assert "keep_firing_for: 1h\n" in text
    assert "keep_firing_for" not in export(rule(), keep_firing_for=False).text


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"on_no_data": "alert"}, "absence"),
        ({"match": ['host="a"'], "metric": "custom.x.sum"}, ""),
        ({"match": ['metric="a"'], "metric": "custom.x.sum"}, '"metric"'),
        ({"match": ['a.b="a"'], "metric": "custom.x.sum"}, '"a.b"'),
        ({"metric": "exhausted_rate"}, "no samples"),
    ],
)
def test_what_has_no_equivalent(keys: dict[str, Any], reason: str) -> None:
    result = export(rule(**keys))
    assert reason in result.omitted.get("success", "")
    assert bool(reason) is ("success" in result.omitted)


def test_classic_histograms_lack_some_bounds() -> None:
    assert tuple(2.0**n for n in CLASSIC_EXPONENTS) == CLASSIC_BOUNDS
    burn = {"name": "b", "kind": "burn_rate", "objective": 0.95, "latency_le": "3s"}
    assert "b-1h" in export(burn).exported
    assert "power of two" in export(burn, histograms="classic").omitted["b-1h"]


# -- who evaluates a rule ------------------------------------------------------------


def test_a_fleet_rule_is_exported_and_not_evaluated() -> None:
    fleet = rule(name="success_rate_min", where="fleet")
    settings = load({"rule": [fleet, rule()]})
    assert "success" in settings.rules
    # It replaces the built-in rule of its name.
    assert "success_rate_min" not in settings.rules
    assert list(settings.fleet_rules) == ["success_rate_min"]
    result = convert(settings, settings.fleet_rules.values())
    assert result.exported == ("success_rate_min",)


def test_a_fleet_rule_that_nothing_could_evaluate_is_refused() -> None:
    stuck = {"name": "s", "kind": "stuck", "where": "fleet"}
    with pytest.raises(ConfigError, match=r"rule\[0\]\.where: .*runs in progress"):
        load({"rule": [stuck]})


# -- the same data in both -----------------------------------------------------------

MINUTE: Final = 60.0
# Executions and errors in each minute: healthy, failing, almost recovered, healthy.
TRAFFIC: Final = [
    *[(100, 0)] * 6,
    *[(100, 10)] * 8,
    *[(200, 9)] * 8,
    *[(100, 0)] * 12,
]
RULES: Final = [
    # Its band from 0.95 to 0.96 contains the third part of the traffic.
    {"name": "failing", "metric": "success_rate", "op": "<", "value": 0.95}
    | {"clear": 0.96, "window": "5m", "for": "1m", "keep_firing_for": "2m"},
    {"name": "busy", "metric": "executions", "op": ">", "value": 850}
    | {"window": "5m", "for": "0", "keep_firing_for": "0"},
]


def states_of_engine() -> dict[str, list[int]]:
    """Return whether each rule fires, by minute, for the engine."""
    harness = AlertHarness(*RULES)
    harness.tables["alerting"]["evaluation_interval"] = "1m"
    harness.reload(*RULES)
    harness.evaluate()
    states: dict[str, list[int]] = {str(rule["name"]): [] for rule in RULES}
    for executions, errors in TRAFFIC:
        harness.ran(executions, errors, ago=-MINUTE / 2)
        harness.wait(MINUTE, step=MINUTE)
        firing = {a.rule for a in harness.engine.alerts if a.lifecycle.is_firing}
        for name, values in states.items():
            values.append(int(name in firing))
    return states


def write_promtool_test(folder: Path, states: dict[str, list[int]]) -> Path:
    """Write a test that each rule fires at the given minutes."""
    off = dict.fromkeys(BUILT_IN, False)
    settings = load({"rule": RULES, "alerting": {"thresholds": off}})
    result = convert(settings, settings.rules.values())
    assert not result.omitted
    (folder / "rules.yml").write_text(result.text)
    executions = [sum(n for n, _ in TRAFFIC[:k]) for k in range(len(TRAFFIC) + 1)]
    errors = [sum(e for _, e in TRAFFIC[:k]) for k in range(len(TRAFFIC) + 1)]
    good = [n - e for n, e in zip(executions, errors, strict=True)]
    place = 'service="web",graph="shop",node="pay"'
    outcomes = f"kaygraph_node_outcomes_total{{{place},outcome="
    series = {
        f"kaygraph_node_executions_total{{{place}}}": executions,
        f'{outcomes}"ok"}}': good,
        f'{outcomes}"error"}}': errors,
        f'{outcomes}"cancelled"}}': [0] * len(executions),
    }
    expected = [
        {
            "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
            " or vector(0)",
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": "{}", "value": state}],
        }
        for name, values in states.items()
        for minute, state in enumerate(values, 1)
    ]
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": " ".join(map(str, values))}
                    for name, values in series.items()
                ],
                "promql_expr_test": expected,
            }
        ],
    }
    file = folder / "test.yml"
    file.write_text(json.dumps(test))
    return file


def test_prometheus_fires_in_the_same_minutes_as_the_engine(tmp_path: Path) -> None:
    states = states_of_engine()
    # The data has what the rules are about: a fault, its band, and its end.
    for values in states.values():
        assert re.fullmatch("0+1+0+", "".join(map(str, values)))
    promtool("test", "rules", str(write_promtool_test(tmp_path, states)))
