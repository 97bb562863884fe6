"""Writes the dashboards of deploy/grafana from one table of their panels.

`python scripts/build_dashboards.py` writes the JSON files. Every query sums up over the
chosen agents, so that the dashboards are the same for one agent and for thousands.
Counts subtract the value at the start of the window, because `increase` would
extrapolate. Quantiles use native histograms, or classic ones where there are no native
ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["DASHBOARDS", "FOLDER", "build"]

FOLDER: Final = Path(__file__).parents[1] / "deploy" / "grafana"

# The version of Grafana 10, which later versions migrate.
SCHEMA_VERSION: Final = 38

COLUMNS: Final = 24
STAT_HEIGHT: Final = 4
CHART_HEIGHT: Final = 8
CHARTS_PER_ROW: Final = 2

SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

AGENT: Final = 'instance=~"$instance"'
SERVICE: Final = f'{AGENT},service=~"$service"'
GRAPH: Final = f'{SERVICE},graph=~"$graph"'
NODE: Final = f'{GRAPH},node=~"$node"'


class Panel(NamedTuple):
    """One panel.

    Attributes:
        title: what it shows.
        expression: in PromQL.
        unit: of Grafana's.
        legend: of each series; empty for a panel with one number.
        description: shown when the pointer is on the title.
    """

    title: str
    expression: str
    unit: str = "short"
    legend: str = ""
    description: str = ""


class Dashboard(NamedTuple):
    """One dashboard.

    Attributes:
        name: of its file; `kaywatch-NAME` is its uid.
        variables: those that its queries use, each narrowing the next.
        panels: single numbers first.
    """

    name: str
    variables: Sequence[str]
    panels: Sequence[Panel]


# -- expressions -----------------------------------------------------------------------


def grown(family: str, labels: str, by: str = "") -> str:
    """Return by how much counters have grown in the window."""
    series = f"{family}{{{labels}}}"
    total = f"({series} - ({series} offset $window or {series} * 0))"
    return f"sum by ({by}) {total}" if by else f"sum{total}"


def share(family: str, labels: str, part: str, by: str = "") -> str:
    """Return the share of finished executions whose outcome matches."""
    finished = grown(family, f'{labels},outcome!="cancelled"', by)
    return f"{grown(family, f'{labels},{part}', by)} / {finished}"


def quantile(q: float, family: str, labels: str, by: str) -> str:
    """Return a quantile of a histogram in the window."""
    native = f"sum by ({by}) (rate({family}{{{labels}}}[$window]))"
    classic = f"sum by ({by}, le) (rate({family}_bucket{{{labels}}}[$window]))"
    return f"histogram_quantile({q}, {native}) or histogram_quantile({q}, {classic})"


def completeness(labels: str, by: str = "") -> str:
    """Return the share of recorded events that arrived in the window."""
    received = grown("kaywatch_series_received_total", labels, by)
    dropped = grown("kaywatch_series_dropped_total", labels, by)
    deaths = grown("kaywatch_series_deaths_total", labels, by)
    # Without a lost event, there is no series of them.
    lost = f"({dropped} or {deaths} * 0)"
    return f"{received} / ({received} + {lost} + {deaths})"


GOOD: Final = 'outcome!~"error|cancelled"'
NODES: Final = "kaygraph_node"
GRAPHS: Final = "kaygraph_graph"
LLM: Final = "kaygraph_llm"

DEAD_END: Final = 'reason="unmatched_action"'

COMPLETENESS: Final = Panel(
    "Completeness",
    completeness(SERVICE),
    "percentunit",
    description="The share of the recorded events that arrived in the window. A death"
    " of a process counts as one lost event. All other numbers are as complete.",
)
FIRING: Final = Panel(
    "Firing alerts",
    f'sum(kaywatch_alerts{{{AGENT},state=~"firing|recovering"}})',
    description="Alerts of the agents, on all services.",
)


# -- panels of several dashboards ------------------------------------------------------


def runs(labels: str) -> list[Panel]:
    """Return single numbers on runs of graphs."""
    ok = share(f"{GRAPHS}_outcomes_total", labels, GOOD)
    return [
        Panel("Runs", grown(f"{GRAPHS}_executions_total", labels)),
        Panel("Runs that succeed", ok, "percentunit"),
    ]


def runs_by(labels: str, by: str, legend: str) -> list[Panel]:
    """Return charts of runs of graphs."""
    ok = share(f"{GRAPHS}_outcomes_total", labels, GOOD, by)
    durations = f"{GRAPHS}_duration_seconds"
    return [
        Panel("Runs", grown(f"{GRAPHS}_executions_total", labels, by), legend=legend),
        Panel("Runs that succeed", ok, "percentunit", legend),
        Panel("Runs, median", quantile(0.5, durations, labels, by), "s", legend),
        Panel("Runs, p95", quantile(0.95, durations, labels, by), "s", legend),
    ]


def nodes_by(labels: str, by: str, legend: str) -> list[Panel]:
    """Return charts of executions of nodes."""
    ok = share(f"{NODES}_outcomes_total", labels, GOOD, by)
    durations = f"{NODES}_duration_seconds"
    count = grown(f"{NODES}_executions_total", labels, by)
    retries = grown(f"{NODES}_retries_total", labels, by)
    return [
        Panel("Executions", count, legend=legend),
        Panel("Executions that succeed", ok, "percentunit", legend),
        Panel("Executions, median", quantile(0.5, durations, labels, by), "s", legend),
        Panel("Executions, p95", quantile(0.95, durations, labels, by), "s", legend),
        Panel("Retries", retries, legend=legend),
    ]


# -- the dashboards --------------------------------------------------------------------


def overview() -> Dashboard:
    """Return the dashboard of all graphs."""
    failed = grown(f"{NODES}_outcomes_total", f'{SERVICE},outcome="error"')
    cost = f"{LLM}_cost_usd_total"
    errors = grown("kaygraph_errors_total", SERVICE, "type")
    return Dashboard(
        "overview",
        ("instance", "service"),
        (
            COMPLETENESS,
            *runs(SERVICE),
            Panel("Failed executions", failed),
            Panel("Cost of models", grown(cost, SERVICE), "currencyUSD"),
            FIRING,
            *runs_by(SERVICE, "service, graph", "{{service}} / {{graph}}"),
            Panel("Errors by type", errors, legend="{{type}}"),
            Panel(
                "Cost of models",
                grown(cost, SERVICE, "service"),
                "currencyUSD",
                "{{service}}",
            ),
        ),
    )


def graph() -> Dashboard:
    """Return the dashboard of a graph and its nodes."""
    ends = f"{GRAPHS}_ends_total"
    dead = grown(ends, f"{GRAPH},{DEAD_END}", "node, action")
    return Dashboard(
        "graph",
        ("instance", "service", "graph"),
        (
            COMPLETENESS,
            *runs(GRAPH),
            *runs_by(GRAPH, "service, graph", "{{service}} / {{graph}}"),
            Panel("Ends of runs", grown(ends, GRAPH, "reason"), legend="{{reason}}"),
            Panel("Dead ends", dead, legend="{{node}}: {{action}}"),
            *nodes_by(GRAPH, "graph, node", "{{graph}} / {{node}}"),
            Panel(
                "Actions",
                grown("kaygraph_transitions_total", GRAPH, "node, action"),
                legend="{{node}}: {{action}}",
            ),
        ),
    )


def node() -> Dashboard:
    """Return the dashboard of a node."""
    outcomes = f"{NODES}_outcomes_total"
    latest = f"{NODES}_last_execution_timestamp_seconds{{{NODE}}}"
    phases = grown(f"{NODES}_phase_seconds_total", NODE, "phase")
    errors = grown("kaygraph_errors_total", NODE, "type, phase")
    return Dashboard(
        "node",
        ("instance", "service", "graph", "node"),
        (
            COMPLETENESS,
            Panel("Executions", grown(f"{NODES}_executions_total", NODE)),
            Panel(
                "Executions that succeed", share(outcomes, NODE, GOOD), "percentunit"
            ),
            Panel("Since the last execution", f"time() - max({latest})", "s"),
            *nodes_by(NODE, "graph, node", "{{graph}} / {{node}}"),
            Panel("Outcomes", grown(outcomes, NODE, "outcome"), legend="{{outcome}}"),
            Panel("Errors", errors, legend="{{type}} in {{phase}}"),
            Panel("Time by phase", phases, "s", "{{phase}}"),
        ),
    )


def models() -> Dashboard:
    """Return the dashboard of calls of language models."""

    def by_model(title: str, count: str, unit: str = "short") -> Panel:
        total = grown(f"{LLM}_{count}_total", NODE, "model")
        return Panel(title, total, unit, "{{model}}")

    def p95(title: str, family: str) -> Panel:
        value = quantile(0.95, f"{LLM}_{family}_seconds", NODE, "model")
        return Panel(title, value, "s", "{{model}}")

    cost, wasted = f"{LLM}_cost_usd_total", f"{LLM}_wasted_cost_usd_total"
    errors = grown(f"{LLM}_errors_total", NODE, "model, type")
    return Dashboard(
        "models",
        ("instance", "service", "graph", "node"),
        (
            COMPLETENESS,
            Panel("Calls", grown(f"{LLM}_calls_total", NODE)),
            Panel("Cost", grown(cost, NODE), "currencyUSD"),
            Panel("Cost of failed attempts", grown(wasted, NODE), "currencyUSD"),
            by_model("Calls", "calls"),
            Panel("Errors", errors, legend="{{model}}: {{type}}"),
            by_model("Cost", "cost_usd", "currencyUSD"),
            by_model("Input tokens", "input_tokens"),
            by_model("Output tokens", "output_tokens"),
            p95("Calls, p95", "duration"),
            p95("First token, p95", "first_token"),
        ),
    )


def fleet() -> Dashboard:
    """Return the dashboard of the agents."""

    def worst(title: str, value: str, unit: str = "short") -> Panel:
        return Panel(title, f"topk(20, {value})", unit, "{{instance}}")

    received = grown("kaywatch_series_received_total", AGENT, "instance")
    dropped = grown("kaywatch_series_dropped_total", AGENT, "reason")
    failures = grown("kaywatch_commit_failures_total", AGENT)
    return Dashboard(
        "fleet",
        ("instance",),
        (
            Panel("Completeness", completeness(AGENT), "percentunit"),
            Panel("Agents", f"count(kaywatch_build_info{{{AGENT}}})"),
            FIRING,
            Panel("Failed commits", failures),
            Panel(
                "Agents by version",
                f"count by (version) (kaywatch_build_info{{{AGENT}}})",
                legend="{{version}}",
            ),
            worst("Incomplete agents", f"1 - {completeness(AGENT, 'instance')}"),
            Panel("Lost events by reason", dropped, legend="{{reason}}"),
            worst("Events by agent", received),
            worst("Store by agent", f"kaywatch_store_bytes{{{AGENT}}}", "bytes"),
            worst("Series by agent", f"kaywatch_series{{{AGENT}}}"),
            worst(
                "Lag of remote write by agent",
                f"max by (instance) (kaywatch_remote_write_lag_seconds{{{AGENT}}})",
                "s",
            ),
            worst(
                "Restarts by agent",
                grown("kaywatch_restarts_total", AGENT, "instance"),
            ),
        ),
    )


DASHBOARDS: Final = (overview(), graph(), node(), models(), fleet())


# -- JSON ------------------------------------------------------------------------------

# The series with the values of each variable, and the label that narrows the next.
_VARIABLES: Final = {
    "instance": "kaywatch_build_info",
    "service": f"kaygraph_node_executions_total{{{AGENT}}}",
    "graph": f"kaygraph_node_executions_total{{{SERVICE}}}",
    "node": f"kaygraph_node_executions_total{{{GRAPH}}}",
}

_CHART: Final = {
    "legend": {
        "displayMode": "list",
        "placement": "bottom",
        "showLegend": True,
        "calcs": [],
    },
    "tooltip": {"mode": "multi", "sort": "desc"},
}
_STAT: Final = {
    "graphMode": "none",
    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
}


def build(dashboard: Dashboard) -> dict[str, Any]:
    """Return a dashboard as Grafana imports it."""
    return {
        "uid": f"kaywatch-{dashboard.name}",
        "title": f"kaywatch: {dashboard.name}",
        "tags": ["kaywatch"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "title": "kaywatch",
                "tags": ["kaywatch"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
            }
        ],
        "templating": {"list": [*_variables(dashboard.variables)]},
        "panels": [*_panels(dashboard.panels)],
    }


def _variables(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }
    for name in names:
        yield {
            "name": name,
            "type": "query",
            "datasource": SOURCE,
            "query": f"label_values({_VARIABLES[name]}, {name})",
            "refresh": 2,  # when the time range changes
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }
    yield {
        "name": "window",
        "type": "interval",
        "query": "1m,5m,15m,1h,6h,1d",
        "current": {"text": "5m", "value": "5m"},
    }


def _panels(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    stats = [panel for panel in panels if not panel.legend]
    width = COLUMNS // len(stats)
    for number, panel in enumerate(stats):
        place = {"x": number * width, "y": 0, "w": width, "h": STAT_HEIGHT}
        yield _panel(panel, number + 1, place)
    width = COLUMNS // CHARTS_PER_ROW
    charts = [panel for panel in panels if panel.legend]
    for number, panel in enumerate(charts):
        row, column = divmod(number, CHARTS_PER_ROW)
        y = STAT_HEIGHT + row * CHART_HEIGHT
        place = {"x": column * width, "y": y, "w": width, "h": CHART_HEIGHT}
        yield _panel(panel, len(stats) + number + 1, place)


def _panel(panel: Panel, number: int, place: Mapping[str, int]) -> dict[str, Any]:
    target = {"refId": "A", "datasource": SOURCE, "expr": panel.expression}
    target |= {"legendFormat": panel.legend} if panel.legend else {"instant": True}
    return {
        "id": number,
        "type": "timeseries" if panel.legend else "stat",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": dict(place),
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": _CHART if panel.legend else _STAT,
        "targets": [target],
    }


def _write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        text = json.dumps(build(dashboard), indent=1, ensure_ascii=False)
        (FOLDER / f"{dashboard.name}.json").write_text(f"{text}\n")


if __name__ == "__main__":
    _write()
