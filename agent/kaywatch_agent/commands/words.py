"""What commands about alerts show of them: lines that read well at 80 columns."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from kaywatch_agent.quantities import quantity, span, sparkline
from kaywatch_agent.screens import plain_table

__all__ = ["moment", "show_alerts", "show_quiet", "show_story", "where"]

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
    table = plain_table("state", "severity", "rule", "where", "value", "limit", "since")
    for column in table.columns[1:4]:
        column.justify = "left"
    for column in table.columns[2:4]:
        column.ratio = 1
    now = time.time()
    for alert in alerts:
        table.add_row(
            _coloured(alert["state"]),
            _coloured(alert["severity"]),
            alert["rule"],
            where(_own(alert)),
            quantity(alert["value"], alert["unit"]),
            quantity(alert["threshold"], alert["unit"])
            if alert["threshold"] is not None
            else "-",
            span(now - alert["since"]) if alert["since"] else "-",
        )
    out.print(table)
    for alert in alerts:
        for receiver, text in alert["held_back"].items():
            place = f"{alert['rule']}, {where(_own(alert))}"
            _wrapped(out, f"{place}: {receiver} is not told, {text}")
    if matching > len(alerts):
        out.print(f"  and {matching - len(alerts)} more: kaywatch alerts --limit N")


def show_story(out: Console, found: Json, rule: Json | None) -> None:
    """Show all about one alert: what it is, what happened, who knows."""
    alert, now = found["alert"], found["timestamp"]
    line = Text.assemble(
        (alert["rule"], "bold"), f"  {where(_own(alert))}: ", _coloured(alert["state"])
    )
    if alert["since"]:
        line.append(f" since {moment(alert['since'])} UTC,")
        line.append(f" {span(now - alert['since'])}")
    out.print(line)
    if rule is not None:
        _wrapped(out, rule["sentence"])
    _wrapped(out, _values(alert))
    _wrapped(out, _next(alert, rule))
    out.print(f"  id {alert['id']}, severity {alert['severity']}")
    if alert["note"]:
        _wrapped(out, alert["note"])
    out.print()
    out.print("What happened (UTC)", style="bold")
    for entry in found["story"]:
        value = entry["value"]
        shown = "" if value is None else quantity(value, alert["unit"])
        _wrapped(out, f"{moment(entry['time'])}  {entry['text']:<28} {shown}")
    if not found["story"]:
        out.print("  Nothing yet.")
    _show_told(out, alert, rule, now)
    _show_witness(out, found)


def show_quiet(
    out: Console, found: Json, groups: Sequence[Json], asked: Json, elapsed: float
) -> None:
    """Show why a rule doesn't fire: what is nearest to it."""
    rule = found["rule"]
    of = f", {where(asked)}" if asked else ""
    line = Text.assemble((rule["rule"], "bold"), f"{of}: does not fire")
    out.print(line)
    _wrapped(out, rule["sentence"])
    if found["problem"]:
        _wrapped(out, f"the last evaluation failed: {found['problem']}")
    elif elapsed > 60:
        _wrapped(out, f"rules were looked at last {span(elapsed)} ago")
    if rule["refused"]:
        _wrapped(out, f"{rule['refused']} alerts are too many, and are refused")
    if not rule["receivers"]:
        _wrapped(out, "nobody would be told: there is no receiver")
    out.print()
    if not groups:
        out.print("Nothing to look at: no such series has been seen.")
        return
    out.print("Nearest to firing", style="bold")
    table = plain_table("where", "value", "limit", "count", "why not")
    table.columns[0].ratio = 2
    table.columns[4].ratio = 3
    table.columns[4].justify = "left"
    table.columns[4].no_wrap = False
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


# -- inside --------------------------------------------------------------------------


def _own(alert: Json) -> dict[str, str]:
    """Return the labels that tell where: without those that only sort."""
    known = ("service", "host", "pid", "graph", "node", "action", "model")
    labels = alert["labels"]
    return {name: labels[name] for name in known if name in labels} or labels


def _values(alert: Json) -> str:
    unit = alert["unit"]
    parts = [f"value {quantity(alert['value'], unit)}"]
    parts += [
        f"{name} {quantity(alert[name], unit)}"
        for name in ("threshold", "clear")
        if alert[name] is not None
    ]
    text = ", ".join(parts)
    if alert["executions"]:
        text += f"; {alert['errors']:,} of {alert['executions']:,} failed"
        text += f" in {span(alert['window'])}"
    if alert["completeness"] is not None and alert["completeness"] < 1:
        text += f"; {alert['completeness']:.1%} of the events arrived"
    return text


def _next(alert: Json, rule: Json | None) -> str:
    """Return what comes next, and when."""
    if rule is None:
        return "its rule is gone"
    if alert["blind"] and alert["reason"] != "no_data":
        text = f"no data, or too little of it, for {span(alert['blind'])}"
        left = span(rule["no_data_after"] - alert["blind"])
        then = "fires" if rule["on_no_data"] == "alert" else "ends"
        return text if alert["state"] == "ok" else f"{text}; {then} in {left}"
    match alert["state"]:
        case "pending":
            left = span(rule["hold"] - alert["held"])
            return f"fires in {left}, if it stays so"
        case "recovering":
            left = span(rule["keep_firing_for"] - alert["held"])
            return f"ends in {left}, if it stays well"
        case "ok":
            reason = f": {alert['reason']}" if alert["reason"] else ""
            return f"over{reason}; fired {alert['episode']} times so far"
    reason = " without data" if alert["reason"] == "no_data" else ""
    flapping = ", flapping" if alert["flapping"] else ""
    return f"fires{reason}, for the {_nth(alert['episode'])} time{flapping}"


def _show_told(out: Console, alert: Json, rule: Json | None, now: float) -> None:
    out.print()
    out.print("Who knows", style="bold")
    names = {**dict.fromkeys(alert["receivers"]), **dict.fromkeys(alert["told"])}
    for name in names:
        told, held = alert["told"].get(name), alert["held_back"].get(name)
        text = f"{name}: "
        if told is not None:
            text += f"told {told['last']} {span(now - told['at'])} ago"
        else:
            text += "not told"
        if held:
            text += f", and not again: {held}" if told else f", {held}"
        elif told and told["last"] == "firing" and rule and rule["repeat_interval"]:
            text += f"; told again every {span(rule['repeat_interval'])}"
        _wrapped(out, text)
    if not names:
        out.print("  Nobody: there is no receiver. See docs/receivers.md")
    for silence in alert["silenced_by"]:
        out.print(f"  silence {silence}")


def _show_witness(out: Console, found: Json) -> None:
    known = [value for value in found["history"] if value is not None]
    if not (known or found["error_classes"] or found["evidence"]):
        return
    alert = found["alert"]
    out.print()
    out.print("When it fired", style="bold")
    if known:
        line, last = sparkline(found["history"]), quantity(known[-1], alert["unit"])
        out.print(f"  {line}  {last}, a bar for each {span(alert['window'])}")
    if found["error_classes"]:
        counts = [f"{c['type']} {c['count']:,}" for c in found["error_classes"]]
        _wrapped(out, f"errors: {', '.join(counts)}")
    if found["transition"]:
        _wrapped(out, f"action {found['transition']}")
    for seen in found["evidence"]:
        at = moment(seen["time"]) if seen["time"] else "-"
        text = f"{at}  {seen['node']}  {seen['type']}"
        message = " ".join(seen["message"].split())
        _wrapped(out, f"{text}: {message}"[:300] if message else text)


def _wrapped(out: Console, text: str) -> None:
    wide = min(out.width, WIDTH) if out.is_terminal else WIDTH
    lines = textwrap.wrap(
        text.rstrip(), wide, initial_indent="  ", subsequent_indent="    "
    )
    for line in _kept(text, lines):
        out.print(line, soft_wrap=True)


def _kept(text: str, lines: list[str]) -> Iterable[str]:
    """Yield a line with its columns, where it needn't be wrapped."""
    return lines if len(lines) > 1 else [f"  {text.rstrip()}"]


def _others(group: Json) -> str:
    """Return the values besides the one that is shown."""
    others = {k: v for k, v in group["metrics"].items() if v != group["value"]}
    if not others:
        return ""
    parts = [f"{k} {'-' if v is None else f'{v:.4g}'}" for k, v in others.items()]
    return f" ({', '.join(parts)})"


def _nth(number: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    end = "th" if number % 100 in (11, 12, 13) else ends.get(number % 10, "th")
    return f"{number}{end}"


def _coloured(word: str) -> Text:
    return Text(word, COLOURS.get(word, ""))
