"""`kaywatch alerts` and `kaywatch why`: active alerts, and their explanation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import click

from kaywatch.errors import AgentRefused
from kaywatch.query import fetch
from kaywatch_agent.cli.commands import options, output
from kaywatch_agent.cli.commands.alert_view import show_alert
from kaywatch_agent.cli.commands.output import Json
from kaywatch_agent.cli.help import epilog
from kaywatch_agent.cli.tables import console
from kaywatch_agent.model.alerts import SEVERITIES
from kaywatch_agent.units import duration, quantity

__all__ = ["alerts", "why"]

# Groups of a rule that the agent returns; more than any rule has alerts.
MAX_GROUPS: Final = 1000
MAX_LISTED: Final = 20
MAX_NEAREST: Final = 10
# An agent evaluates its rules every few seconds.
STALE_SECONDS: Final = 60


@click.command(
    epilog=epilog(
        "kaywatch alerts",
        "kaywatch alerts --severity warning --graph SupportDesk",
        "kaywatch alerts --all --limit 5  # include resolved alerts",
    )
)
@click.option("--all", "everything", is_flag=True, help="Include resolved alerts.")
@click.option(
    "--severity",
    type=click.Choice(SEVERITIES),
    help="Include only alerts with this severity.",
)
@options.filters("rule", "service", "graph", "node")
@options.limit(50)
@options.agent
def alerts(
    url: str, as_json: bool, everything: bool, limit: int, **filters: Any
) -> None:
    """List firing and pending alerts, the most severe first.

    The receivers that are not notified are listed below the table, with the reason.
    `kaywatch why` explains one alert.
    """
    state = None if everything else "active"
    query = {"state": state, "limit": limit, **filters}
    answer = fetch("/api/v1/alerts", query, url)
    if as_json:
        output.print_json(answer)
    elif answer["alerts"]:
        _show_alerts(answer)
    elif any(filters.values()):
        click.echo("No alert matches." if everything else "No matching alert fires.")
    else:
        rules = fetch("/api/v1/rules", url=url)
        click.echo(
            f"No alert fires; {output.plural(len(rules['rules']), 'rule')} evaluated."
        )
        if rules["problem"]:
            output.print_wrapped(f"the last evaluation failed: {rules['problem']}")


@click.command(
    epilog=epilog(
        "kaywatch why Draft-is-slow",
        "kaywatch why error_rate_max node=Refund",
        "kaywatch why 5654e8b4  # an id of kaywatch alerts --json",
        exits="1 the alert or rule is unknown, or the agent does not answer.",
    )
)
@click.argument("alert")
@click.argument("labels", nargs=-1, metavar="[LABEL=VALUE]...")
@options.agent
def why(alert: str, labels: tuple[str, ...], url: str, as_json: bool) -> None:
    """Explain why ALERT fires or not, and list its notifications.

    ALERT is the name of a rule, or the id of an alert or its first characters.
    LABEL=VALUE, such as node=pay, selects one of the rule's alerts.
    """
    wanted = dict(_parse_label(text) for text in labels)
    # A text of hexadecimal digits is always an id. To explain a rule with such a name,
    # pass the id of its alert.
    if re.fullmatch(r"[0-9a-f]{4,16}", alert):
        rows = fetch("/api/v1/alerts", {"limit": 10_000}, url)["alerts"]
        ids = [row["id"] for row in rows]
        known = "kaywatch alerts --all --json"
        _explain_alert(options.expand_id(alert, ids, "alert", known), url, as_json)
        return
    answer = _fetch_rule(alert, url)
    matching = [row for row in answer["alerts"] if _matches(row, wanted)]
    active = [row for row in matching if row["state"] != "ok"]
    # Without labels, the question is about the present: resolved alerts are left out.
    candidates = active or (matching if wanted else [])
    if len(candidates) == 1:
        _explain_alert(candidates[0]["id"], url, as_json)
        return
    nearest = [group for group in answer["nearest"] if _matches(group, wanted)]
    if as_json:
        output.print_json({**answer, "alerts": matching, "nearest": nearest})
    elif active:
        _list_active(alert, active)
    else:
        _explain_inactive_rule(answer, nearest[:MAX_NEAREST], wanted)
        _show_past_alerts([row for row in matching if row["ended"]])


# -- inside --------------------------------------------------------------------------


def _list_active(rule: str, alerts: list[Json]) -> None:
    click.echo(f"{rule} has {len(alerts)} alerts; `kaywatch why ID` explains one.\n")
    for row in alerts[:MAX_LISTED]:
        labels = output.format_labels(row["labels"])
        click.echo(f"  {row['id']}  {row['state']:<10}  {labels}")


def _show_alerts(answer: Json) -> None:
    rows, now = answer["alerts"], answer["timestamp"]
    columns: dict[str, output.Column] = {
        "state": output.format_alert_state,
        "severity": lambda row: output.add_colour(row["severity"]),
        "since": lambda row: duration(now - row["since"]) if row["since"] else "-",
        "what": lambda row: f"{row['rule']}: {row['summary']}",
    }
    output.print_table(columns, rows, words=("severity", "what"), wrapped=("what",))
    for row in rows:
        for receiver, reason in row["suppressed"].items():
            place = f"{row['rule']}, {output.format_place(row)}"
            output.print_wrapped(f"{place}: {receiver} is not notified ({reason})")
    if answer["matching"] > len(rows):
        click.echo(f"  and {answer['matching'] - len(rows):,} more: --limit N")
    console().print("\n`kaywatch why RULE` explains one of them.", style="dim")


def _explain_alert(name: str, url: str, as_json: bool) -> None:
    answer = fetch(f"/api/v1/alerts/{name}", url=url)
    if as_json:
        output.print_json(answer)
        return
    try:
        rule = _fetch_rule(answer["alert"]["rule"], url)["rule"]
    except AgentRefused:
        rule = None  # a removed rule, whose alerts are still known
    show_alert(answer, rule)


def _explain_inactive_rule(answer: Json, nearest: Sequence[Json], wanted: Json) -> None:
    rule = answer["rule"]
    selection = f", {output.format_labels(wanted)}" if wanted else ""
    click.echo(f"{click.style(rule['rule'], bold=True)}{selection}: does not fire")
    output.print_wrapped(rule["sentence"])
    elapsed = answer["timestamp"] - answer["evaluated"]
    if answer["problem"]:
        output.print_wrapped(f"the last evaluation failed: {answer['problem']}")
    elif elapsed > STALE_SECONDS:
        output.print_wrapped(f"the last evaluation was {duration(elapsed)} ago")
    if rule["refused"]:
        output.print_wrapped(
            f"{rule['refused']:,} alerts are dropped: the rule has more than"
            " alerting.max_alerts_per_rule"
        )
    if not rule["receivers"]:
        output.print_wrapped("not notified: no receiver is configured")
    if rule["without_data"]:
        few = f"{rule['without_data']:,} of {rule['groups']:,}"
        output.print_wrapped(f"no data, or too little, for {few} of the groups")
    click.echo()
    if nearest:
        _print_nearest(rule, nearest)
    else:
        click.echo("No series of this metric has been seen.")


def _print_nearest(rule: Json, nearest: Sequence[Json]) -> None:
    console().print("Nearest to firing", style="bold")
    columns = {
        "where": lambda group: output.format_labels(group["labels"]),
        "value": lambda group: _format_value(group, rule["unit"]),
        "limit": lambda group: output.format_limit(group, rule["unit"]),
        "count": lambda group: f"{group['executions']:,}",
        "why not": lambda group: group["text"] + _format_other_metrics(group),
    }
    words, ratios = ("why not",), {"where": 2, "why not": 3}
    output.print_table(columns, nearest, words=words, ratios=ratios, wrapped=words)


def _format_value(group: Json, unit: str) -> str:
    return "-" if group["value"] is None else quantity(group["value"], unit)


def _format_other_metrics(group: Json) -> str:
    """Return the other metrics of a rule's expression."""
    others = {k: v for k, v in group["metrics"].items() if v != group["value"]}
    parts = [f"{k} {'-' if v is None else f'{v:.4g}'}" for k, v in others.items()]
    return f" ({', '.join(parts)})" if parts else ""


def _show_past_alerts(rows: list[Json]) -> None:
    if rows:
        console().print("\nFired before (UTC)", style="bold")
    for row in rows[:MAX_NEAREST]:
        fired, ended = map(output.format_utc_time, (row["fired"], row["ended"]))
        period = f"{fired} to {ended}"
        click.echo(f"  {row['id']}  {period}  {output.format_labels(row['labels'])}")


def _fetch_rule(name: str, url: str) -> Any:
    path = f"/api/v1/rules/{quote(name, safe='', errors='surrogateescape')}"
    return fetch(path, {"limit": MAX_GROUPS}, url)


def _parse_label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(
            f'invalid label "{text}": expected LABEL=VALUE, such as node=pay'
        )
    # Matchers have quotes, and so may labels that are copied from one.
    return name, value.strip('"')


def _matches(row: Json, wanted: Json) -> bool:
    labels = row["labels"]
    # A missing label counts as empty, as in matchers.
    return all(labels.get(name, "") == value for name, value in wanted.items())
