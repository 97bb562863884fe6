"""Renders a report as one HTML page, which needs no script and no other file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from kaywatch._version import __version__
from kaywatch_agent.cli.report.content import Content, GraphContent
from kaywatch_agent.cli.report.markup import Markup, chart, element, join, table
from kaywatch_agent.units import duration, money, percent, plural, quantity, rfc3339

__all__ = ["render"]

Json = dict[str, Any]

_STYLE: Final = Markup("""
:root { color-scheme: light dark; --line: light-dark(#dde1e7, #2a303a);
  --soft: light-dark(#555d6a, #a2abb9); --bad: light-dark(#b83800, #ff7a4d);
  --good: light-dark(#007a5a, #2cc295); --accent: light-dark(#3457d5, #8aa4ff);
  font: 14px/1.45 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
body { max-width: 1080px; margin: 0 auto; padding: 24px 16px;
  color: light-dark(#1b1f26, #e7eaef); background: light-dark(#fff, #0e1014); }
h1 { margin: 0; font-size: 22px; } h2 { margin: 34px 0 8px; font-size: 17px; }
h3 { margin: 22px 0 4px; font-size: 14px; } p { margin: 4px 0; }
h1, h2, h3, p, td, li { overflow-wrap: anywhere; }
.soft, th { color: var(--soft); } .bad { color: var(--bad); font-weight: 600; }
.good { color: var(--good); font-weight: 600; }
.scroll { overflow-x: auto; } table { width: 100%; border-collapse: collapse; }
th, td { padding: 4px 10px 4px 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); } th { font-size: 12px; font-weight: 500; }
.number { text-align: right; white-space: nowrap; }
.number + .text { padding-left: 14px; } td:first-child { min-width: 9em; }
.chart { width: 120px; height: 24px; vertical-align: middle; }
.chart path { fill: none; stroke: var(--accent); stroke-width: 1.5; }
pre { padding: 8px; overflow-x: auto; font-size: 12px; border: 1px solid var(--line); }
ul { margin: 4px 0; padding-left: 20px; }
@media print { .scroll { overflow: visible; } }
""")

# The page may run no script and request no other content.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def render(content: Content) -> str:
    """Return the page."""
    period = f"{rfc3339(content.time - content.since)} to {rfc3339(content.time)}"
    title = f"kaywatch report, {duration(content.since)} until {rfc3339(content.time)}"
    head = join(
        (
            Markup('<meta charset="utf-8">'),
            Markup('<meta name="viewport" content="width=device-width">'),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
            element("title", title),
            element("style", _STYLE),
        )
    )
    body = (
        element("h1", "kaywatch report"),
        element("p", f"{period}, by the agent at {content.url}", class_="soft"),
        *_render_health(content),
        *_render_alerts(content),
        *_render_graphs(content),
        *_render_failures(content),
        *_render_cost(content.llm),
        *_render_processes(content),
        element("p", f"kaywatch {__version__}", class_="soft"),
    )
    page = element("html", element("head", head), element("body", *body), lang="en")
    return f"<!doctype html>\n{page}\n"


# -- inside --------------------------------------------------------------------------


def _format_rate(value: float | None) -> str | None:
    return None if value is None else percent(value)


def _format_seconds(value: float | None) -> str | None:
    return None if value is None else quantity(value, "seconds")


def _format_time(value: float | None) -> str | None:
    return rfc3339(value) if value else None


def _render_health(content: Content) -> Iterator[Markup]:
    health, account = content.health, content.completeness["total"]
    status = health["status"]
    level = "good" if status == "healthy" else "bad"
    yield element("h2", "Health and completeness")
    problems = "; ".join(
        f"{name}: {stage['problem']}"
        for name, stage in health["stages"].items()
        if stage["problem"]
    )
    text = f": {problems}." if problems else "."
    yield element("p", "The agent is ", element("span", status, class_=level), text)
    dropped = sum(account["dropped"].values())
    text = f"{plural(account['received'], 'event')} arrived, {dropped:,} were lost"
    if account["deaths"]:
        text += f", at most {duration(account['unknown_seconds'])} unknown"
    reasons = ", ".join(f"{why}: {n}" for why, n in account["dropped"].items())
    share = "no events" if account["ratio"] is None else percent(account["ratio"])
    yield element(
        "p", f"Completeness: {share} ({text}{f'; {reasons}' if reasons else ''})."
    )
    if account["late"]:
        late = plural(account["late"], "event")
        yield element("p", f"{late} arrived too late, and are in totals only.")
    if account["overflow"]:
        overflow = plural(account["overflow"], "event")
        yield element("p", f"{overflow} are counted in __other__: too many series.")


def _render_alerts(content: Content) -> Iterator[Markup]:
    yield element("h2", "Alerts")
    if content.since > 86_400:
        yield element(
            "p",
            "Alerts that ended more than 24 hours ago are no longer kept.",
            class_="soft",
        )
    if not content.alerts:
        yield element("p", "No alert was active.")
    for each in content.alerts:
        yield from _render_alert(each)
    if content.alerts_left_out:
        yield element(
            "p", f"Left out: {plural(content.alerts_left_out, 'more alert')}."
        )


def _render_alert(each: Json) -> Iterator[Markup]:
    alert, context = each["alert"], each["context"]
    level = "soft" if alert["state"] == "ok" else "bad"
    state = element("span", alert["state"], class_=level)
    yield element("h3", alert["rule"], " · ", state, " · ", alert["severity"])
    yield element("p", alert["summary"])
    fired, ended = _format_time(alert["fired"]), _format_time(alert["ended"])
    started = f"Fired at {fired}" if fired else "Has not fired"
    end = f", ended at {ended} ({alert['reason']})" if ended else ""
    condition = f" Condition: {alert['condition']}."
    yield element("p", f"{started}{end}.{condition}", class_="soft")
    classes = context["error_classes"] if context else []
    if classes:
        text = ", ".join(f"{name} ({count})" for name, count in classes)
        yield element("p", f"Errors when it fired: {text}")
    entries = [
        (_format_time(entry["time"]), entry["text"]) for entry in each["timeline"]
    ]
    yield element("ul", *(element("li", f"{at} {text}") for at, text in entries))


def _render_graphs(content: Content) -> Iterator[Markup]:
    yield element("h2", "Graphs and nodes")
    if not content.graphs:
        yield element("p", "Nothing was executed in this period.")
    for each in content.graphs:
        yield from _render_graph(each)
    if content.graphs_left_out:
        yield element(
            "p", f"Left out: {plural(content.graphs_left_out, 'more graph')}."
        )


def _render_graph(each: GraphContent) -> Iterator[Markup]:
    services = ", ".join(sorted({name for n in each.nodes for name in n["services"]}))
    yield element("h3", each.graph or "Outside any graph", " · ", services)
    if each.stats:
        figures = (
            plural(each.stats["total_executions"], "run"),
            f"success {_format_rate(each.stats['success_rate']) or '-'}",
            f"p95 {_format_seconds(each.stats['p95_execution_time']) or '-'}",
        )
        line = chart("Runs over time", each.runs)
        yield element("p", ", ".join(figures), " ", line)
    head = ("Node", "#Executions", "#Success", "#p50", "#p95", "#Retries")
    yield table(
        (*head, "Executions over time", "p95 over time"),
        (_render_node(each, node) for node in each.nodes),
    )


def _render_node(graph: GraphContent, node: Json) -> tuple[object, ...]:
    name = node["node"]
    return (
        name,
        node["total_executions"],
        _format_rate(node["success_rate"]),
        _format_seconds(node["p50_execution_time"]),
        _format_seconds(node["p95_execution_time"]),
        node["total_retries"],
        chart(f"Executions of {name} over time", graph.executions.get(name, ())),
        chart(f"p95 of {name} over time", graph.p95.get(name, ())),
    )


def _render_failures(content: Content) -> Iterator[Markup]:
    failures, matching = content.failures["failures"], content.failures["matching"]
    yield element("h2", "Failures")
    if not failures:
        yield element("p", "No failure is kept from this period.")
        return
    yield element("p", f"The latest {len(failures)} of {matching} that are kept.")
    head = ("Time", "Service", "Graph", "Node", "Type", "Message", "Outcome", "Run")
    yield table(
        head,
        (
            (_format_time(each["time"]), *(each[key.lower()] for key in head[1:]))
            for each in failures
        ),
    )
    for each in failures:
        if each["traceback"]:
            yield element("h3", f"{each['type']} in {each['node']}, run {each['run']}")
            yield element("pre", each["traceback"])


def _render_cost(llm: Json) -> Iterator[Markup]:
    totals = llm["totals"]
    yield element("h2", "Cost")
    if not totals["calls"]:
        yield element("p", "No model was called.")
        return
    cost, wasted = money(totals["cost_usd"]), money(totals["wasted_cost_usd"])
    text = f"{cost} for {plural(totals['calls'], 'call')}, of which {wasted} was wasted"
    yield element("p", f"{text} on attempts that failed.")
    if totals["unpriced_calls"]:
        yield element(
            "p", f"Without a known price: {plural(totals['unpriced_calls'], 'call')}."
        )
    head = ("Calls", "Errors", "Rate limited", "Input tokens", "Output tokens")
    keys = ("calls", "errors", "rate_limited", "input_tokens", "output_tokens")
    for name, labels, rows in (
        ("Model", ("model",), llm["models"]),
        ("Node", ("service", "graph", "node"), llm["nodes"]),
    ):
        yield table(
            (name, *(f"#{each}" for each in head), "#Cost", "#Wasted"),
            (
                (
                    " / ".join(row[label] for label in labels if row[label]),
                    *(row[key] for key in keys),
                    money(row["cost_usd"]),
                    money(row["wasted_cost_usd"]),
                )
                for row in rows
            ),
        )


def _render_processes(content: Content) -> Iterator[Markup]:
    yield element("h2", "Processes")
    if not content.clients:
        yield element("p", "No process sent data within the last hour.")
        return
    yield element("p", "Processes that send now, or left within the last hour.")
    yield table(
        ("Service", "Host", "#PID", "State", "Since", "#Memory (MiB)", "#Lost"),
        (
            (
                each["service"],
                each["host"],
                str(each["pid"]),
                element(
                    "span",
                    each["state"],
                    class_="bad" if each["state"] == "died" else "",
                ),
                _format_time(each["since"]),
                None if each["memory_mb"] is None else f"{each['memory_mb']:.0f}",
                sum(each["dropped"].values()),
            )
            for each in content.clients
        ),
    )
