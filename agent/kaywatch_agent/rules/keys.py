"""The keys of the tables about alerts: what each takes, its default, what it is for.

The loader takes the names of COMMON from here; the pages of docs/ show all of it, and
their tests hold it to what the loader takes.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from kaywatch_agent.rules.rule import AlertSettings, Grouping
from kaywatch_agent.units import duration

__all__ = [
    "ALERTING",
    "COMMON",
    "INHIBIT",
    "KIND_KEYS",
    "SILENCE",
    "THRESHOLDS",
    "TIERS",
    "defaults",
    "Key",
]


class Key(NamedTuple):
    """One key of a table.

    Attributes:
        name: as it is written.
        takes: what its value is.
        default: as it would be written; empty for none, or where `what` says it.
        what: what it is for, in Markdown.
    """

    name: str
    takes: str
    default: str
    what: str


def _written(seconds: float) -> str:
    return f'"{duration(seconds)}"'


def defaults(keys: Iterable[Key]) -> dict[str, Any]:
    """Return the defaults of those keys that have one, as TOML has them."""
    return {
        key.name: tomllib.loads(f"value = {key.default}")["value"]
        for key in keys
        if key.default
    }


_TEXT: Final = "string"
_LENGTH: Final = "duration"
_WHOLE: Final = "whole number"
_NUMBER: Final = "number"
_LIST: Final = "list of strings"
_LABELS: Final = "table of strings"
_SWITCH: Final = "`true`, `false`"
_SEVERITY: Final = "`info`, `warning`, `error`, `critical`"

ALERTING: Final = (
    Key(
        "evaluation_interval",
        _LENGTH,
        _written(AlertSettings.interval),
        "how often rules are looked at, up to `5m`; rules take at most a twentieth of a"
        " core, so a large agent looks less often",
    ),
    Key(
        "startup_grace",
        _LENGTH,
        _written(AlertSettings.startup_grace),
        "nothing is absent so soon after the start",
    ),
    Key("labels", _LABELS, "{}", "on every alert"),
    Key(
        "namespace",
        _TEXT,
        '""',
        "part of the key that receivers know an alert by: the same on replicas",
    ),
    Key("external_url", _TEXT, '""', "where links in messages lead"),
    Key(
        "max_instances_per_rule",
        _WHOLE,
        str(AlertSettings.max_instances),
        "more alerts of one rule are refused, counted in `kaywatch_alerts_refused`, and"
        " an alert themselves: `kaywatch-alerts-refused`",
    ),
    Key(
        "default_notify",
        _LIST,
        "",
        "the receivers of rules without `notify`; by default all",
    ),
    Key(
        "group_by",
        _LIST,
        json.dumps(Grouping.group_by),
        "alerts with the same of these share a message, where the receiver groups",
    ),
    Key(
        "group_wait",
        _LENGTH,
        _written(Grouping.group_wait),
        "how long to wait before the first notification of a group",
    ),
    Key(
        "group_interval",
        _LENGTH,
        _written(Grouping.group_interval),
        "least time between two messages of a group",
    ),
    Key(
        "thresholds",
        "table",
        "{}",
        "the rules that are [there without any](alerts.md#without-configuration)",
    ),
)

THRESHOLDS: Final = (
    Key(
        "success_rate_min",
        "number or `false`",
        "0.95",
        "the least share of executions that has to succeed, per graph and node",
    ),
    Key(
        "avg_execution_time_max",
        "number or `false`",
        "5.0",
        "the most seconds that executions may take on average, per graph and node",
    ),
    Key(
        "error_rate_max",
        "number or `false`",
        "0.05",
        "the largest share of executions that may fail, per graph and node",
    ),
    Key(
        "memory_usage_max",
        "number or `false`",
        "1024.0",
        "the most MiB of memory that a process may have",
    ),
    Key(
        "kaywatch-alerts-refused",
        "number or `false`",
        "0.0",
        "how many alerts of a rule may be refused, per rule",
    ),
)

# Of every rule; those of [defaults] are all but the first three.
COMMON: Final = (
    Key(
        "name",
        _TEXT,
        "",
        "needed; what it is known by, also as `alertname`: letters, digits, `_`, `.`,"
        " `-`",
    ),
    Key(
        "kind",
        "`threshold`, `absence`, `burn_rate`, `transition_share`, `stuck`,"
        " `process_died`, `runaway`",
        '"threshold"',
        "what it looks for; see [Kinds](alerts.md#kinds)",
    ),
    Key("enabled", _SWITCH, "true", "`false`: it is as if it weren't there"),
    Key(
        "match",
        _LIST,
        "[]",
        'which series it is about: matchers `graph="checkout"`, `node!="x"`,'
        ' `node=~"a.*"`, `node!~"b.*"`; all have to hold, regular expressions as a'
        " whole",
    ),
    Key(
        "per",
        _LIST,
        "",
        "one alert for each combination of these labels; `[]` for one in all; by"
        ' default `["graph", "node"]`, of runs `["graph"]`, of processes `["service"]`,'
        ' of rules `["rule"]`',
    ),
    Key(
        "window",
        _LENGTH,
        '"5m"',
        'how far back it looks, at least `"10s"`, at most what is kept',
    ),
    Key(
        "min_executions",
        _WHOLE,
        "",
        "fewer executions in the window say nothing; counts, such as `executions`, are"
        " known without any; by default `20`, and `0` of `absence` and `process_died`",
    ),
    Key(
        "for",
        _LENGTH,
        '"1m"',
        'the condition has to be met for so long; `"0"` fires at once',
    ),
    Key(
        "keep_firing_for",
        _LENGTH,
        '"2m"',
        'it has to be clear for so long; `"0"` ends at once',
    ),
    Key(
        "cooldown",
        _LENGTH,
        '"5m"',
        "the least time between two messages that an alert fires",
    ),
    Key(
        "repeat_interval",
        _LENGTH,
        '"4h"',
        'what still fires is told again so often; `"0"` for never',
    ),
    Key(
        "on_no_data",
        "`keep`, `ok`, `alert`",
        '"keep"',
        "when nothing is known any more: `keep` or `ok`: it ends after"
        " `no_data_after`, saying so; `alert`: it fires then",
    ),
    Key(
        "no_data_after",
        _LENGTH,
        "",
        'how long nothing may be known; by default twice the window, at least `"10m"`',
    ),
    Key("severity", _SEVERITY, '"warning"', "how bad it is; receivers may look at it"),
    Key("labels", _LABELS, "{}", "on its alerts, beside those of `per`"),
    Key(
        "notify",
        _LIST,
        "",
        "the receivers, by name; `[]` for nobody; by default `default_notify`",
    ),
    Key(
        "summary",
        _TEXT,
        '""',
        'one sentence, such as `"{node}: {value:.1%} fail ({errors}/{executions} in'
        ' {window})"`; with the names of labels, `rule`, `metric`, `value`,'
        " `threshold`, `clear`, `window`, `executions`, `errors`; by default the usual"
        " words, as for the end of a threshold",
    ),
    Key("runbook_url", _TEXT, '""', "a link in messages"),
)

TIERS: Final = (
    Key("factor", _NUMBER, "", "needed; how many times faster than allowed it is used"),
    Key("long", _LENGTH, "", "needed; the window that has to show it"),
    Key("short", _LENGTH, "", "needed; the window that has to show it as well"),
    Key("severity", _SEVERITY, '"critical"', "as of the rule"),
    Key("notify", _LIST, "", "as of the rule, whose receivers are the default"),
)

KIND_KEYS: Final[Mapping[str, tuple[Key, ...]]] = {
    "threshold": (
        Key(
            "metric",
            _TEXT,
            "",
            "what is compared: one of the [metrics](alerts.md#metrics)",
        ),
        Key("op", "`<`, `<=`, `>`, `>=`", "", "how it is compared"),
        Key("value", _NUMBER, "", "with what"),
        Key(
            "clear",
            _NUMBER,
            "",
            "how far it has to come back before the alert ends; by default `value`",
        ),
        Key(
            "when",
            _TEXT,
            "",
            "instead of these four: conditions with `and`, `or`, `not` and parentheses",
        ),
        Key(
            "clear_when",
            _TEXT,
            "",
            "when it is well again; by default when `when` is false",
        ),
    ),
    "absence": (
        Key("max_age", _LENGTH, "", "needed; nothing has ended for so long"),
        Key(
            "expect",
            "list of tables",
            "[]",
            "label sets that have to be there even if they were never seen",
        ),
        Key(
            "forget_after",
            _LENGTH,
            '"1d"',
            "what was not seen for so long, and isn't expected, is forgotten",
        ),
    ),
    "burn_rate": (
        Key("objective", _NUMBER, "", "needed; the share that has to be good: `0.99`"),
        Key(
            "sli",
            '`success`, or `{ latency_le = "2s" }`',
            '"success"',
            "what is good: what succeeded, or took at most so long",
        ),
        Key("slo_window", _LENGTH, '"30d"', "what the objective is of"),
        Key("min_events", _WHOLE, "50", "fewer in the long window say nothing"),
        Key(
            "tiers",
            "list of tables",
            "",
            "each becomes a rule of its own; by default 14.4 over 1h and 5m, 6 over 6h"
            " and 30m, both critical, and 1 over 3d and 6h, a warning",
        ),
    ),
    "transition_share": (
        Key(
            "change",
            "`share`, `new`, `vanished`",
            '"share"',
            "an action left its band, was never taken before, is no longer taken",
        ),
        Key(
            "action",
            _TEXT,
            '""',
            "which; needed for `share`, of the others any by default",
        ),
        Key("above", _NUMBER, "", "it fires above this share"),
        Key("below", _NUMBER, "", "it fires below this share"),
    ),
    "stuck": (
        Key(
            "factor",
            _NUMBER,
            "10.0",
            "at work for more than so many times the 99th percentile",
        ),
        Key("at_least", _LENGTH, '"30s"', "whatever that is, not before"),
        Key("max_age", _LENGTH, "", "in any case after so long; by default never"),
    ),
    "process_died": (),
    "runaway": (
        Key("max_visits", _WHOLE, "", "how many nodes a run may visit"),
        Key(
            "max_node_visits",
            _WHOLE,
            "",
            "instead: how often a run may visit one of them",
        ),
    ),
}

INHIBIT: Final = (
    Key("source", _LIST, "", "needed; while an alert fires that matches these"),
    Key("target", _LIST, "", "needed; those that match these are not told"),
    Key("equal", _LIST, "[]", "if they have the same of these labels"),
)

SILENCE: Final = (
    Key("match", _LIST, "", "needed; which alerts are not told"),
    Key("starts", "time", "", "needed; from when: `2026-12-01T22:00:00Z`"),
    Key("ends", "time", "", "needed; until when"),
    Key("comment", _TEXT, '""', "why"),
)
