"""`kaywatch alerts` and `kaywatch why`: what fires, and why or why not."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import click

from kaywatch.errors import AgentRefused
from kaywatch.query import fetch
from kaywatch_agent.cli.commands import alert_view, formatting
from kaywatch_agent.cli.commands.options import one_of, reading
from kaywatch_agent.cli.help import manual
from kaywatch_agent.cli.tables import console
from kaywatch_agent.model.alerts import SEVERITIES

__all__ = ["alerts", "why"]

MANY = 1000


@click.command(
    epilog=manual(
        "kaywatch alerts",
        "kaywatch alerts --severity critical --graph checkout",
        "kaywatch alerts --all --limit 5  # and what was",
    )
)
@click.option("--all", "everything", is_flag=True, help="Show those that ended, too.")
@click.option("--rule", metavar="NAME", help="Only of this rule.")
@click.option(
    "--severity", type=click.Choice(SEVERITIES), help="Only of this severity."
)
@click.option("--service", metavar="NAME", help="Only of this service.")
@click.option("--graph", metavar="NAME", help="Only within this graph.")
@click.option("--node", metavar="NAME", help="Only of this node.")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    help="So many at most.",
)
@reading
def alerts(url: str, as_json: bool, everything: bool, **asked: Any) -> None:
    """Show what fires, or may soon, the worst first.

    Below the table it says who isn't told of an alert, and why. `kaywatch why` says
    more of one.
    """
    state = None if everything else "active"
    found = fetch("/api/v1/alerts", {"state": state, **asked}, url)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    out = console()
    if found["alerts"]:
        formatting.show_alerts(out, found["alerts"], found["matching"])
        out.print("\nkaywatch why RULE says more of one.", style="dim")
        return
    if any(asked[name] for name in ("rule", "severity", "service", "graph", "node")):
        out.print("No such alert." if everything else "No such alert fires.")
        return
    rules = fetch("/api/v1/rules", url=url)
    out.print(f"Nothing fires. {len(rules['rules'])} rules are looked at.")
    if rules["problem"]:
        out.print(f"The last evaluation failed: {rules['problem']}")


@click.command(
    epilog=manual(
        "kaywatch why success_rate_min",
        "kaywatch why checkout-fails node=pay",
        "kaywatch why 0f892b48",
        exits="1 no such alert or rule, or the agent doesn't answer.",
    )
)
@click.argument("alert")
@click.argument("labels", nargs=-1, metavar="[LABEL=VALUE]...")
@reading
def why(alert: str, labels: tuple[str, ...], url: str, as_json: bool) -> None:
    """Say why ALERT fires, or why it doesn't, and who was told.

    ALERT is an alert's id, or the first digits of it, or the name of a rule; with
    LABEL=VALUE, such as node=pay, that alert of the rule.
    """
    asked = dict(_label(text) for text in labels)
    rule = None if _is_id(alert) else _rule(alert, url)
    if rule is None:
        _show_alert(_identified(alert, url), url, as_json)
        return
    mine = [a for a in rule["alerts"] if _fits(a["labels"], asked)]
    active = [a for a in mine if a["state"] != "ok"]
    if len(active) == 1 or (asked and len(mine) == 1):
        _show_alert((active or mine)[0]["id"], url, as_json)
        return
    near = [g for g in rule["nearest"] if _fits(g["labels"], asked)]
    if as_json:
        click.echo(json.dumps({**rule, "alerts": mine, "nearest": near}, indent=2))
    elif active:
        out = console()
        out.print(f"{alert} has {len(active)} alerts; kaywatch why ID says more.\n")
        for one in active[:20]:
            out.print(
                f"  {one['id']}  {one['state']:<10}  {formatting.where(one['labels'])}"
            )
    else:
        elapsed = rule["timestamp"] - rule["evaluated"]
        formatting.show_quiet(console(), rule, near[:10], asked, elapsed)
        _show_past(mine)


# -- inside --------------------------------------------------------------------------


def _is_id(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{4,16}", text) is not None


def _identified(wanted: str, url: str) -> str:
    known = fetch("/api/v1/alerts", {"limit": 10_000}, url)["alerts"]
    return one_of(wanted, [a["id"] for a in known], "alert", "kaywatch alerts --all")


def _rule(name: str, url: str) -> Any:
    return fetch(f"/api/v1/rules/{quote(name, safe='')}", {"limit": MANY}, url)


def _show_alert(name: str, url: str, as_json: bool) -> None:
    found = fetch(f"/api/v1/alerts/{name}", url=url)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    try:
        rule = _rule(found["alert"]["rule"], url)["rule"]
    except AgentRefused:
        rule = None  # it is gone, and its alert is remembered
    alert_view.show_alert(console(), found, rule)


def _show_past(past: list[Any]) -> None:
    """Show the alerts that ended lately."""
    out = console()
    ended = [a for a in past if a["ended"]]
    if ended:
        out.print()
        out.print("Fired before (UTC)", style="bold")
    for one in ended[:10]:
        text = f"{formatting.moment(one['fired'])} to {formatting.moment(one['ended'])}"
        out.print(f"  {one['id']}  {text}  {formatting.where(one['labels'])}")


def _label(text: str) -> tuple[str, str]:
    name, is_, value = text.partition("=")
    if not is_ or not name:
        raise click.UsageError(f"{text}: expected a label such as node=pay")
    return name, value.strip('"')


def _fits(labels: Any, asked: dict[str, str]) -> bool:
    return all(labels.get(name, "") == value for name, value in asked.items())
