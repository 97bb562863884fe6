"""Formats alerts for the terminal: lines that read well at 80 columns."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from kaywatch_agent.cli.tables import plain_table
from kaywatch_agent.units import duration, quantity

__all__ = [
    "Json",
    "coloured",
    "moment",
    "own",
    "show_alerts",
    "show_quiet",
    "where",
    "wrapped",
]

Json = Mapping[str, Any]

WIDTH: Final = 80

COLOURS: Final = {
    "firing": "red", "pending": "yellow", "recovering": "yellow", "ok": "green",
    "critical": "red", "error": "red",
}  # fmt: skip

# Labels that are said by their values alone.
PLAIN: Final = ("service", "graph", "node", "action", "host")


def where(labels: Json) -> str:
    """Return what an alert is about: `checkout / pay`."""
    parts = [str(v) if k in PLAIN else f"{k} {v}" for k, v in labels.items() if v]
    return " / ".join(parts) or "all"


def moment(at: float) -> str:
    """Return a time in UTC, with the date if it isn't today's."""
    then = datetime.fromtimestamp(at, UTC)
    today = datetime.fromtimestamp(time.time(), UTC).date()
    return f"{then:%H:%M:%S}" if then.date() == today else f"{then:%m-%d %H:%M:%S}"


def show_alerts(out: Console, alerts: Sequence[Json], matching: int) -> None:
    """Show a line for each alert, and who isn't told of it, and why."""
    table = plain_table(
        *("state", "severity", "rule", "where", "value", "limit", "since"),
        words=("severity", "rule", "where"),
        ratios={"rule": 1, "where": 1},
    )
    now = time.time()
    for alert in alerts:
        table.add_row(
            coloured(alert["state"]),
            coloured(alert["severity"]),
            alert["rule"],
            where(own(alert)),
            quantity(alert["value"], alert["unit"]),
            quantity(alert["threshold"], alert["unit"])
            if alert["threshold"] is not None
            else "-",
            duration(now - alert["since"]) if alert["since"] else "-",
        )
    out.print(table)
    for alert in alerts:
        for receiver, text in alert["held_back"].items():
            place = f"{alert['rule']}, {where(own(alert))}"
            wrapped(out, f"{place}: {receiver} is not told, {text}")
    if matching > len(alerts):
        out.print(f"  and {matching - len(alerts)} more: kaywatch alerts --limit N")


def show_quiet(
    out: Console, found: Json, groups: Sequence[Json], asked: Json, elapsed: float
) -> None:
    """Show why a rule doesn't fire: what is nearest to it."""
    rule = found["rule"]
    of = f", {where(asked)}" if asked else ""
    line = Text.assemble((rule["rule"], "bold"), f"{of}: does not fire")
    out.print(line)
    wrapped(out, rule["sentence"])
    if found["problem"]:
        wrapped(out, f"the last evaluation failed: {found['problem']}")
    elif elapsed > 60:
        wrapped(out, f"rules were looked at last {duration(elapsed)} ago")
    if rule["refused"]:
        wrapped(out, f"{rule['refused']} alerts are too many, and are refused")
    if not rule["receivers"]:
        wrapped(out, "nobody would be told: there is no receiver")
    out.print()
    if not groups:
        out.print("Nothing to look at: no such series has been seen.")
        return
    out.print("Nearest to firing", style="bold")
    table = plain_table(
        *("where", "value", "limit", "count", "why not"),
        words=("why not",),
        ratios={"where": 2, "why not": 3},
        wrapped=("why not",),
    )
    for group in groups:
        unit = rule["unit"]
        table.add_row(
            where(group["labels"]),
            quantity(group["value"], unit) if group["value"] is not None else "-",
            quantity(group["threshold"], unit)
            if group["threshold"] is not None
            else "-",
            f"{group['executions']:,}",
            group["text"] + _others(group),
        )
    out.print(table)


def own(alert: Json) -> dict[str, str]:
    """Return the labels that tell where: without those that only sort."""
    known = ("service", "host", "pid", "graph", "node", "action", "model")
    labels = alert["labels"]
    return {name: labels[name] for name in known if name in labels} or labels


def wrapped(out: Console, text: str, indent: str = "  ") -> None:
    """Show a text, indented, in lines that go on further in."""
    wide = min(out.width, WIDTH) if out.is_terminal else WIDTH
    lines = textwrap.wrap(
        text.rstrip(), wide, initial_indent=indent, subsequent_indent=f"{indent}  "
    )
    for line in _kept(f"{indent}{text.rstrip()}", lines):
        out.print(line, soft_wrap=True)


def coloured(word: str) -> Text:
    """Return a word in its colour."""
    return Text(word, COLOURS.get(word, ""))


# -- inside --------------------------------------------------------------------------


def _kept(text: str, lines: list[str]) -> Iterable[str]:
    """Yield a line with its columns, where it needn't be wrapped."""
    return lines if len(lines) > 1 else [text]


def _others(group: Json) -> str:
    """Return the values besides the one that is shown."""
    others = {k: v for k, v in group["metrics"].items() if v != group["value"]}
    if not others:
        return ""
    parts = [f"{k} {'-' if v is None else f'{v:.4g}'}" for k, v in others.items()]
    return f" ({', '.join(parts)})"
