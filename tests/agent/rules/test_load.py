"""Rules are loaded from tables, and mistakes are reported."""

from __future__ import annotations

import tomllib

import pytest

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.rules.load import load
from kaywatch_agent.rules.rule import AlertSettings, BurnRate, Threshold


def read(text: str) -> AlertSettings:
    return load(tomllib.loads(text), receivers=["ops", "pd"])


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


SHARE = "[[rule]]\nname='r'\nkind='transition_share'\naction='x'\n"
BURN = "[[rule]]\nname='r'\nkind='burn_rate'\nobjective=0.99\n"
ABSENCE = "[[rule]]\nname='r'\nkind='absence'\nmax_age='1h'\nper=['graph']\n"

RULE = """
[[rule]]
name = "r"
metric = "success_rate"
op = "<"
value = 0.9
"""


def test_without_configuration_the_usual_failures_are_reported() -> None:
    rules = load({}).rules
    result = {
        name: (rule.condition.metric, rule.condition.threshold)
        for name, rule in rules.items()
        if isinstance(rule.condition, Threshold)
    }
    assert result == {
        "success_rate_min": ("success_rate", 0.95),
        "avg_execution_time_max": ("latency_avg", 5.0),
        "error_rate_max": ("error_rate", 0.05),
        "memory_usage_max": ("memory_rss", 1024 * 2**20),
        "low_traffic": ("error_rate", 0.5),
        "process_died": ("processes_died", 0.0),
        "dead_end": ("dead_ends", 0.0),
        "never_reached": ("unreached_runs", 100.0),
        "slow": ("latency_over_usual", 3.0),
        "silent": ("missing_runs", 30.0),
        "unusual_loop": ("visits_over_usual", 1.0),
        "runaway": ("runaway_factor", 3.0),
        "masked_failures": ("masked_rate", 0.2),
        "wasted_spend": ("llm_wasted_share", 0.1),
        "cost_per_run": ("cost_over_usual", 2.0),
        "drift": ("action_drift", 5.0),
        "alerts_refused_max": ("alerts_refused", 0.0),
        "exports_rejected_max": ("export_rejected", 0.0),
    }
    assert rules.keys() - result.keys() == {"stuck"}
    assert {rule.cooldown for rule in rules.values()} == {300.0}
    assert all(rule.built_in for rule in rules.values())


def test_the_page_s_thresholds_can_be_set_and_switched_off() -> None:
    settings = read(
        """
        [alerting.thresholds]
        success_rate_min = 0.8
        memory_usage_max = false
        """
    )
    assert settings.rules["success_rate_min"].condition.threshold == 0.8  # type: ignore[union-attr]
    assert "memory_usage_max" not in settings.rules


def test_a_rule_takes_the_place_of_one_that_is_built_in() -> None:
    settings = read(RULE.replace('"r"', '"success_rate_min"'))
    assert settings.rules["success_rate_min"].condition.threshold == 0.9  # type: ignore[union-attr]


def test_defaults_are_inherited() -> None:
    settings = read('[defaults]\nwindow = "1h"\nfor = "0"\n' + RULE)
    rule = settings.rules["r"]
    assert (rule.window, rule.timing.for_, rule.timing.keep_firing_for) == (
        3600.0,
        0.0,
        120.0,
    )
    assert rule.timing.no_data_after == 7200.0  # twice the window
    assert rule.notify == ("ops", "pd")


def test_a_burn_rate_has_a_rule_for_each_tier() -> None:
    settings = read('[[rule]]\nname = "slo"\nkind = "burn_rate"\nobjective = 0.99\n')
    tiers = {
        name: (rule.condition.factor, rule.severity)
        for name, rule in settings.rules.items()
        if isinstance(rule.condition, BurnRate)
    }
    assert tiers == {
        "slo-1h": (14.4, "critical"),
        "slo-6h": (6.0, "critical"),
        "slo-3d": (1.0, "warning"),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[rule]]\nmetric = 'x'", "rule[0].name: missing"),
        (
            RULE.replace('"r"', '"a b"'),
            'rule[0].name: invalid name "a b": expected up to 100 letters',
        ),
        (RULE + RULE, 'rule[1].name: "r" is defined twice'),
        (RULE.replace("success_rate", "sucess_rate"), "did you mean success_rate?"),
        (
            RULE.replace("success_rate", "custom.queue"),
            "add a statistic: custom.queue.last",
        ),
        (RULE.replace('"<"', '"="'), "rule[0].op:"),
        (RULE.replace("value = 0.9", ""), "rule[0].value: missing"),
        (RULE.replace("value = 0.9", "value = true"), "value: expected a number"),
        (RULE + "clear = 0.8", "clear: 0.8 can never clear the alert: expected"),
        (RULE + "clear = nan", "rule[0].clear: expected a finite number, got nan"),
        (RULE.replace("0.9", "nan"), "rule[0].value: expected a finite number"),
        (
            "[alerting.thresholds]\navg_execution_time_max=inf",
            "alerting.thresholds.avg_execution_time_max: expected a finite number",
        ),
        (
            "[alerting.thresholds]\ndead_end=-1",
            "thresholds.dead_end: dead_ends > -1 is always true: dead_ends is never",
        ),
        (
            "[alerting.thresholds]\nunusual_loop=0.5",
            "alerting.thresholds.unusual_loop: 0.5: visits_over_usual is usually about",
        ),
        (
            "[alerting.thresholds]\nstuck=0.5",
            "alerting.thresholds.stuck: 0.5: expected more than 1",
        ),
        (
            "[[rule]]\nname='r'\nmetric='latency_p95'\nop='<'\nvalue=0",
            "rule[0].value: latency_p95 < 0 is never true: latency_p95 is never",
        ),
        (
            RULE + "summary = '{node} {vlaue:.1%}'",
            "rule[0].summary: unknown field {vlaue}; did you mean value? (known:",
        ),
        (
            RULE + "labels = {graph = 'x'}",
            "rule[0].labels.graph: the alerts have this label from their series",
        ),
        (
            "[[rule]]\nname='r'\nmetric='dead_ends'\nop='>'\nvalue=5\nclear=-1",
            "rule[0].clear: -1: dead_ends is never negative",
        ),
        (
            "[[rule]]\nname='r'\nwhen='error_rate > 0.1'\nclear_when='error_rate < 0'",
            "rule[0].clear_when: error_rate < 0 is never true",
        ),
        (RULE + "clear_when = 'error_rate < 1'", "clear_when: requires when"),
        (RULE + "windw = '5m'", "windw: unknown key; did you mean window?"),
        (RULE + "window = '5x'", 'invalid duration "5x"'),
        (RULE + "window = '1s'", 'window: 1s: expected at least "10s"'),
        (RULE + "window = '90d'", "only 30d are stored"),
        (RULE + "per = ['nod']", "this rule has service, graph, node"),
        (RULE + "per = ['node', 'node']", 'per: "node" is listed twice'),
        (RULE + "match = ['graph']", "invalid matcher graph: expected"),
        (RULE + "match = ['graph=~\"(\"']", "rule[0].match"),
        (RULE + "notify = ['op']", 'unknown receiver "op"; add [receiver.op]'),
        (RULE + "severity = 'bad'", "is not one of 'info'"),
        (RULE + "on_no_data = 'x'", "on_no_data"),
        (RULE + "summary = '{node'", "summary"),
        (RULE + "summary = '{node.x}'", "expected a plain name"),
        (RULE + "summary = '{value:zz}'", "summary"),
        (RULE + "labels = { severity = 'x' }", "labels.severity"),
        (RULE + "labels = { 'a b' = 'x' }", "labels.a b: invalid label name: expected"),
        (RULE + "when = 'executions > 1'", "metric: cannot be combined with when"),
        (RULE + "min_executions = -1", "min_executions: -1: expected at least 0"),
        ("[[rule]]\nname = 'r'\nwhen = 'execution > 1'", "did you mean executions?"),
        ("[[rule]]\nname = 'r'\nwhen = 'executions'", "not a comparison"),
        ("[[rule]]\nname = 'r'\nkind = 'x'", "is not one of threshold"),
        ("[[rule]]\nname = 'r'\nkind = ['x']", "['x'] is not one of threshold"),
        ("[[rule]]\nname = 'r'\nkind = 'absence'", "max_age: missing"),
        (
            "[[rule]]\nname='r'\nkind='absence'\nmax_age='5m'\nexpect=['x']",
            "expect[0]: expected a table",
        ),
        ("[[rule]]\nname='r'\nkind='burn_rate'", "objective"),
        ("[[rule]]\nname='r'\nkind='burn_rate'\nobjective=0.9", "can never be reached"),
        (
            (
                "[[rule]]\nname='r'\nkind='burn_rate'\nobjective=0.99\n"
                "tiers=[{factor=2, long='5m', short='1h'}]"
            ),
            'tiers[0].long: "5m": expected short < long <= slo_window, which are "1h"',
        ),
        (
            "[[rule]]\nname='r'\nkind='transition_share'\naction='x'",
            "with above = 0.3",
        ),
        ("[[rule]]\nname='r'\nkind='stuck'\nfactor=1", "1: expected more than 1"),
        ("[[rule]]\nname='r'\nkind='stuck'\nfactor=1e308", "at most 1,000,000"),
        (
            "[[rule]]\nname='r'\nkind='stuck'\nfactor=nan",
            "expected a finite number",
        ),
        ("[[rule]]\nname='r'\nkind='runaway'", "max_visits: missing"),
        (
            "[[rule]]\nname='r'\nkind='runaway'\nmax_visits=9\nmax_node_visits=3",
            "max_node_visits: cannot be combined with max_visits; write two rules",
        ),
        (
            "[[rule]]\nname='r'\nkind='runaway'\nmax_visits=9\nper=['node']",
            'per: unknown label "node"; this rule has service, graph',
        ),
        ("[rule]\nname='r'", "write [[rule]]"),
        ("[[inhibit]]\nsource=['a=\"b\"']", "target: missing"),
        ("[[silence]]\nmatch=['a=\"b\"']", "silence[0].starts: missing"),
        (
            (
                "[[silence]]\nmatch=['a=\"b\"']\nstarts=2026-01-02T00:00:00\n"
                "ends=2026-01-03T00:00:00Z"
            ),
            "starts: needs a time zone",
        ),
        (
            "[[silence]]\nstarts=2026-01-02T00:00:00Z\nends=2026-01-03T00:00:00Z",
            "silence[0].match: missing",
        ),
        (
            "[alerting]\nevaluation_interval='10ms'",
            'evaluation_interval: "10ms": expected a duration from "1s" to "5m"',
        ),
        ("[alerting]\nintervall='10s'", "unknown key"),
        ("[alerting.thresholds]\nx=1", "alerting.thresholds.x: unknown key"),
        ("[defaults]\nmetric='x'", "defaults.metric: unknown key"),
        (
            RULE.replace("0.9", "90"),
            "rule[0].value: 90: success_rate is between 0 and 1; write 0.9 for 90 %",
        ),
        (RULE.replace("0.9", "-1"), "rule[0].value: -1: success_rate is between"),
        (RULE.replace("0.9", "0"), "rule[0].value: success_rate < 0 is never true"),
        (RULE + "clear = 95", "rule[0].clear: 95: success_rate is between 0 and 1"),
        (
            "[[rule]]\nname='r'\nwhen='executions > 1 and not error_rate >= 0'",
            "rule[0].when: error_rate >= 0 is always true",
        ),
        (
            "[alerting.thresholds]\nsuccess_rate_min=95",
            "alerting.thresholds.success_rate_min: 95: success_rate is between",
        ),
        (
            RULE + "match = ['node=\"a\"', 'nod=\"b\"']",
            'rule[0].match[1]: unknown label "nod"; this rule has service, graph, node',
        ),
        ("[alerting]\nexternal_url='a.b'", 'external_url: "a.b": expected a URL such'),
        (RULE + "runbook_url = 'wiki/x'", '.runbook_url: "wiki/x": expected a URL'),
        (
            "[alerting]\nexternal_url='https://x/?a=1'",
            'external_url: "https://x/?a=1": expected a URL without ? and #',
        ),
        (
            "[alerting]\nexternal_url='https://x/50%'",
            "expected two hexadecimal digits after %",
        ),
        (
            RULE + "runbook_url='https://me:sosecret@x/'",
            "rule[0].runbook_url: contains a password, which each message would show",
        ),
        (
            "[alerting.thresholds]\nmemory_usage_max=0",
            "memory_usage_max: 0: every process uses more; write false to disable",
        ),
        (
            "[alerting.thresholds]\nmemory_usage_max=1.5",
            "1.5: in MiB, every process uses more; write 1536 for 1.5 GiB",
        ),
        (
            "[alerting.thresholds]\nmemory_usage_max=1_073_741_824",
            "in MiB, no process uses as much; write 1024 for 1.07374e+09 bytes",
        ),
        (
            "[alerting.thresholds]\navg_execution_time_max=0",
            "avg_execution_time_max: 0: every execution takes longer; write false",
        ),
        (SHARE + "above=95", "above: 95: the share is between 0 and 1; write 0.95"),
        (SHARE + "below=40", "below: 40: the share is between 0 and 1; write 0.4"),
        (SHARE + "above=-0.1", "above: -0.1: the share is between 0 and 1"),
        (SHARE + "above=1", "rule[0].above: the share > 1 is never true"),
        (SHARE + "below=0", "rule[0].below: the share < 0 is never true"),
        (SHARE + "above=0.1\nbelow=0.4", "below: 0.4: expected less than above = 0.1"),
        (SHARE + "change='new'\nabove=0.4", 'above: change = "new" has no limit'),
        (BURN + "tiers=[]", "rule[0].tiers: the list is empty"),
        (BURN + "latency_le='0'", 'rule[0].latency_le: "0": expected more than 0'),
        (
            BURN + "tiers=[{factor=0, long='1h', short='5m'}]",
            "rule[0].tiers[0].factor: 0: expected more than 0",
        ),
        (
            BURN + "tiers=[{factor=2, long='1h', short='1s'}]",
            'rule[0].tiers[0].short: "1s": expected at least "10s"',
        ),
        (
            BURN + "tiers=[{factor=2, long='1h', short='5m', notify=['op']}]",
            'rule[0].tiers[0].notify: unknown receiver "op"',
        ),
        (
            "[[rule]]\nname='r'\nkind='stuck'\nmax_age='0'",
            'rule[0].max_age: "0": expected more than 0',
        ),
        (ABSENCE + "expect=[{nod='x'}]", "expect[0].nod: unknown label; per is graph"),
        (ABSENCE + "expect=[{}]", "expect[0]: expected labels such as"),
        (
            ABSENCE.replace("'graph'", "'service', 'graph'") + "expect=[{graph='x'}]",
            "rule[0].expect[0]: without service: add it, or remove it from per",
        ),
        (
            ABSENCE + "match=['graph!=\"x\"']\nexpect=[{graph='y'}, {graph='x'}]",
            'rule[0].expect[1]: does not match graph!="x", so it is never seen',
        ),
        (
            "[[rule]]\nname='r'\nwhen='error_rate > 0.5 and error_rate < 0.2'",
            "rule[0].when: error_rate > 0.5 and error_rate < 0.2 is never true",
        ),
        (
            "[[rule]]\nname='r'\nwhen='not (runs > 5 and runs <= 5)'",
            "rule[0].when: not (runs > 5 and runs <= 5) is always true",
        ),
        (
            "[[rule]]\nname='r'\nwhen='runs > 9'\nclear_when='runs > 20'",
            "rule[0].clear_when: runs > 20 can never clear the alert",
        ),
        (
            "[[rule]]\nname='r'\nwhen='runs > 9'\nclear_when='runs < 5 and runs > 7'",
            "rule[0].clear_when: runs < 5 and runs > 7 is never true",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_key_and_the_fix(text: str, words: str) -> None:
    assert words in complaint(text)


@pytest.mark.parametrize(
    "when",
    [
        "error_rate > 0 and error_rate < 1",
        "success_rate < 1 or error_rate > 0.5",
        "custom.balance.last < 0 and custom.balance.last > -5",
        "executions == 0",
        "not executions == 0",
        "latency_p95 > 2.5 and latency_p95 < 1e9 and throughput >= 1.0",
        # Too many metrics for all combinations.
        " and ".join(f"custom.m{n}.last > {n}" for n in range(15)),
    ],
)
def test_an_expression_that_some_values_make_true_is_accepted(when: str) -> None:
    settings = read(f"[[rule]]\nname='r'\nwhen='{when}'")
    assert "r" in settings.rules
    assert settings.warnings == ()


def test_a_clear_when_that_overlaps_when_is_warned_of() -> None:
    text = "[[rule]]\nname='r'\nwhen='error_rate > 0.05'\nclear_when='error_rate < 0.5'"
    (warning,) = read(text).warnings
    assert warning.startswith(
        "rule[0].clear_when: error_rate < 0.5 can be true while error_rate > 0.05 is"
    )


def test_keys_without_effect_are_warned_of() -> None:
    burn = BURN + "window='1h'"
    (warning,) = read(burn).warnings
    assert warning.startswith("rule[0].window: without effect: a rule of the kind burn")
    # As a default, it applies to other rules.
    assert read("[defaults]\nwindow='1h'\n" + BURN).warnings == ()

    (warning,) = read("[defaults]\nseverity='critical'").warnings
    assert (
        warning == "defaults: without effect: it applies to [[rule]], and there is none"
    )


def test_all_errors_of_an_inhibition_are_reported() -> None:
    keys = keys_of_errors("[[inhibit]]\nsource=[]\ntarget=['x']\nequl=[]")
    assert sorted(keys) == [
        "inhibit[0].equl",
        "inhibit[0].source",
        "inhibit[0].target[0]",
    ]


def test_a_percentile_of_few_executions_is_warned_of() -> None:
    text = RULE.replace("success_rate", "latency_p99").replace('"<"', '">"')
    (warning,) = read(text).warnings
    assert "latency_p99 is meaningless for fewer than 100 executions" in warning
    assert "rule[0].min_executions: 20 is too few" in warning
    assert not read(text + "min_executions = 100").warnings


@pytest.mark.parametrize(
    ("keys", "level"),
    [
        ("metric='success_rate'\nop='<'\nvalue=0.99\nclear=0.9999", "0.992"),
        ("metric='success_rate'\nop='<'\nvalue=0.95\nclear=1.0", "0.96"),
        ("metric='error_rate'\nop='>'\nvalue=0.05\nclear=0.0", "0.04"),
        ("metric='latency_p99'\nop='>'\nvalue=5\nclear=0\nmin_executions=100", "4"),
        ("when='error_rate > 0.2'\nclear_when='error_rate <= 0.0001'", "0.16"),
    ],
)
def test_a_level_that_is_practically_never_reached_is_warned_of(
    keys: str, level: str
) -> None:
    (warning,) = read(f"[[rule]]\nname='r'\n{keys}").warnings
    key = "clear_when" if "clear_when" in keys else "clear"
    assert warning.startswith(f"rule[0].{key}: ")
    assert warning.endswith(f"choose a level such as {level}")


@pytest.mark.parametrize(
    "keys",
    [
        "metric='success_rate'\nop='<'\nvalue=0.99\nclear=0.995",
        "metric='success_rate'\nop='<'\nvalue=0.99\nclear=0.999",
        "metric='success_rate'\nop='<'\nvalue=0.9999\nclear=0.99995",
        "metric='success_rate'\nop='<'\nvalue=0.99",
        "metric='error_rate'\nop='>'\nvalue=0.5\nclear=0.01",
        "metric='dead_ends'\nop='>'\nvalue=5\nclear=0",
        "when='error_rate > 0.2 and executions > 5'\nclear_when='error_rate < 0.1'",
    ],
)
def test_a_level_that_can_be_reached_is_not_warned_of(keys: str) -> None:
    assert read(f"[[rule]]\nname='r'\n{keys}").warnings == ()


def test_only_a_rule_s_input_changes_its_fingerprint() -> None:
    def fingerprint(extra: str) -> str:
        return read(RULE + extra).rules["r"].fingerprint

    same = ["", "summary = 'x'", "for = '1h'", "cooldown = '1h'", "notify = ['pd']"]
    other = [
        "window = '1h'",
        "per = ['node']",
        "clear = 0.95",
        "match = ['node=\"a\"']",
    ]
    assert len({fingerprint(extra) for extra in same}) == 1
    assert len({fingerprint(extra) for extra in ["", *other]}) == 5


def test_all_invalid_rules_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"rule": [{"name": "a"}, {"name": "b", "metric": "nope"}, {"nam": "c"}]})

    wrong = [str(error) for error in (caught.value, *caught.value.others)]
    assert [text.partition(":")[0] for text in wrong] == [
        *("rule[0].metric", "rule[1].metric", "rule[1].op", "rule[1].value"),
        *("rule[2].nam", "rule[2].name"),
    ]


BAD_KEYS = {
    "metric": "runs",
    "op": ">",
    "value": 1,
    "per": ["nod"],
    "match": ['nod="x"'],
    "runbook_url": "x",
    "min_executions": -1,
}


def test_a_name_that_is_used_twice_is_reported_with_all_other_errors() -> None:
    rules = [
        {"name": "a", "metric": "nope"},
        {"name": "a", "metric": "runs", "op": ">", "value": 1, "notify": ["x"]},
        {"name": "b", **BAD_KEYS},
        {"name": "slo", "kind": "burn_rate", "objective": 0.99},
        {"name": "slo-1h", "metric": "runs", "op": ">", "value": 1},
        {"name": "slo", "metric": "runs", "op": ">", "value": 1, "enabled": False},
    ]
    with pytest.raises(ConfigError) as caught:
        load({"rule": rules, "alerting": {"namespac": "x"}})

    wrong = [str(error) for error in (caught.value, *caught.value.others)]
    assert [text.partition(":")[0] for text in wrong] == [
        *("alerting.namespac", "rule[0].metric", "rule[0].op", "rule[0].value"),
        *("rule[1].name", "rule[1].notify"),
        *("rule[2].min_executions", "rule[2].runbook_url", "rule[2].match[0]"),
        *("rule[2].per", "rule[4].name"),
    ]


def keys_of_errors(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [error.key for error in (caught.value, *caught.value.others)]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (
            (
                "[alerting]\nnamespac='x'\nevaluation_interval='9h'\n"
                "[alerting.thresholds]\nlow_trafic=0.5\nsuccess_rate_min=95\n"
                "stuck='x'\nerror_rate_max=-1"
            ),
            [
                "alerting.namespac",
                "alerting.thresholds.low_trafic",
                "alerting.thresholds.stuck",
                "alerting.thresholds.success_rate_min",
                "alerting.thresholds.error_rate_max",
                "alerting.evaluation_interval",
            ],
        ),
        (
            (
                "[[rule]]\nname='a'\nmetric='error_rate'\nop='=>'\nvalue=20\n"
                "windo='5m'\nrunbook_url='x'\nnotify=['nobody']"
            ),
            [
                *("rule[0].op", "rule[0].windo", "rule[0].runbook_url"),
                *("rule[0].value", "rule[0].notify"),
            ],
        ),
        (
            "[[rule]]\nname='a b'\nmetric='error_rat'\nop='=>'",
            ["rule[0].name", "rule[0].op", "rule[0].metric", "rule[0].value"],
        ),
        (
            "[[rule]]\nname='a'\nkind='stuck'\nmax_agee='5m'\nfactor=0.5",
            ["rule[0].max_agee", "rule[0].factor"],
        ),
    ],
)
def test_an_unknown_key_does_not_hide_other_errors(text: str, keys: list[str]) -> None:
    assert sorted(keys_of_errors(text)) == sorted(keys)


@pytest.mark.parametrize(
    ("keys", "warning"),
    [
        (
            "metric='memory_rss'\nop='>'\nvalue=1024",
            (
                "rule[0].value: memory_rss > 1024 is always true: the metric is in"
                " bytes; write 1073741824 for 1024 MiB"
            ),
        ),
        (
            "when='memory_rss < 512 and cpu_percent > 5'",
            (
                "rule[0].when: memory_rss < 512 is never true: the metric is in bytes;"
                " write 536870912 for 512 MiB"
            ),
        ),
    ],
)
def test_a_size_that_was_meant_in_mib_is_warned_of(keys: str, warning: str) -> None:
    assert read(f"[[rule]]\nname='r'\n{keys}").warnings == (warning,)


def test_a_size_in_bytes_is_not_warned_of() -> None:
    rule = "[[rule]]\nname='r'\nmetric='memory_rss'\nop='>'\nvalue=5e8"
    assert read(rule).warnings == ()


def test_a_label_that_no_alert_has_is_warned_of() -> None:
    text = """
[alerting]
group_by = ["alertname", "grapf", "team", "kind"]
labels = {team = "a"}
[[inhibit]]
source = ['naod="x"']
target = ['severity="info"']
equal = ["grap", "node"]
"""
    warnings = read(text + RULE + "labels = {kind = 'x'}").warnings

    assert [warning.split(" (known: ")[0] for warning in warnings] == [
        'alerting.group_by: no alert has the label "grapf"; did you mean graph?',
        'inhibit[0].equal: no alert has the label "grap"; did you mean graph?',
        'inhibit[0].source[0]: no alert has the label "naod"; did you mean node?',
    ]


def test_a_matcher_that_no_alert_can_match_is_warned_of() -> None:
    text = """
[[inhibit]]
source = ['severity="crit"', 'alertname=~"r|x.*"']
target = ['severity=~"info|warn"', 'alertname!="rr"']
[[silence]]
match = ['node="a"', 'nod="b"']
starts = 2026-01-02T00:00:00Z
ends = 2026-01-03T00:00:00Z
[[mute]]
name = "nights"
match = ['sevrity="info"']
times = ["22:00-06:00"]
"""
    warnings = read(text + RULE).warnings

    assert [warning.split(" (known: ")[0] for warning in warnings] == [
        'inhibit[0].source[0]: no alert has severity = "crit"; did you mean critical?',
        'inhibit[0].target[0]: no alert has severity = "warn"; did you mean warning?',
        'inhibit[0].target[1]: no alert has alertname = "rr"; did you mean r?',
        'silence[0].match[1]: no alert has the label "nod"; did you mean node?',
        'mute[0].match[0]: no alert has the label "sevrity"; did you mean severity?',
    ]


def test_a_summary_may_name_every_label_of_its_alerts() -> None:
    text = "[alerting]\nlabels = {team = 'a'}\n" + RULE
    rest = "labels = {kind = 'x'}\nsummary = '{team} {kind} {graph} {value} {errors}'"
    assert "r" in read(text + rest).rules
