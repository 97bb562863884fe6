"""Shows one alert for `kaywatch why`: its history, notifications and context."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Final

from rich.console import Console
from rich.text import Text

from kaywatch_agent.cli.commands.formatting import (
    Json,
    coloured,
    moment,
    own,
    where,
    wrapped,
)
from kaywatch_agent.units import duration, quantity, sparkline

__all__ = ["show_alert"]

# Why a message was superseded.
_UNSENT: Final = {
    "resolved": "it was over before anybody had been told",
    "replaced": "a later message says the same, and more",
    "overflow": "too many messages were waiting",
}


def show_alert(out: Console, found: Json, rule: Json | None) -> None:
    """Show all about one alert: what it is, what happened, who knows."""
    alert, now = found["alert"], found["timestamp"]
    line = Text.assemble(
        (alert["rule"], "bold"), f"  {where(own(alert))}: ", coloured(alert["state"])
    )
    if alert["since"]:
        line.append(f" since {moment(alert['since'])} UTC,")
        line.append(f" {duration(now - alert['since'])}")
    out.print(line)
    if rule is not None:
        wrapped(out, rule["sentence"])
    wrapped(out, _values(alert))
    wrapped(out, _next(alert, rule))
    out.print(f"  id {alert['id']}, severity {alert['severity']}")
    if alert["note"]:
        wrapped(out, alert["note"])
    out.print()
    _show_happened(out, found)
    _show_receivers(out, found, rule)
    _show_witness(out, found)


# -- inside --------------------------------------------------------------------------


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
        text += f" in {duration(alert['window'])}"
    if alert["completeness"] is not None and alert["completeness"] < 1:
        text += f"; {alert['completeness']:.1%} of the events arrived"
    return text


def _next(alert: Json, rule: Json | None) -> str:
    """Return what comes next, and when."""
    if rule is None:
        return "its rule is gone"
    if alert["blind"] and alert["reason"] != "no_data":
        text = f"no data, or too little of it, for {duration(alert['blind'])}"
        left = duration(rule["no_data_after"] - alert["blind"])
        then = "fires" if rule["on_no_data"] == "alert" else "ends"
        return text if alert["state"] == "ok" else f"{text}; {then} in {left}"
    match alert["state"]:
        case "pending":
            left = duration(rule["hold"] - alert["held"])
            return f"fires in {left}, if it stays so"
        case "recovering":
            left = duration(rule["keep_firing_for"] - alert["held"])
            return f"ends in {left}, if it stays well"
        case "ok":
            reason = f": {alert['reason']}" if alert["reason"] else ""
            return f"over{reason}; fired {alert['episode']} times so far"
    reason = " without data" if alert["reason"] == "no_data" else ""
    flapping = ", flapping" if alert["flapping"] else ""
    return f"fires{reason}, for the {_nth(alert['episode'])} time{flapping}"


def _show_happened(out: Console, found: Json) -> None:
    unit = found["alert"]["unit"]
    out.print("What happened (UTC)", style="bold")
    if found["left_out"]:
        out.print(f"  (without {found['left_out']} lines that are no longer kept)")
    for line, what in _together(found["story"]):
        text = f"{moment(line['time'])}  {what}"
        if line["after"]:
            text = f"{text:<36}{_found(line, unit)}"
        wrapped(out, text)
    if not found["story"]:
        out.print("  Nothing yet.")
    worst = found["worst"]
    if worst:
        at = "worst since it fired" if found["alert"]["ended"] is None else "worst"
        wrapped(out, f"{at}: {_found(worst, unit)}, at {moment(worst['time'])}")


def _together(story: Iterable[Json]) -> Iterator[tuple[Json, str]]:
    """Yield lines; receivers of which the same is said at once share one."""

    def alike(line: Json) -> tuple[object, ...]:
        about = line["after"] or line["text"].partition(" is ")[2]
        return line["time"], line["after"], about

    for _, same in itertools.groupby(story, alike):
        first, *more = same
        who, is_, what = first["text"].partition(" is ")
        if more and is_ and not first["after"]:
            names = [who, *(line["text"].partition(" is ")[0] for line in more)]
            yield first, f"{', '.join(names)} are {what}"
        else:
            yield from ((line, line["text"]) for line in (first, *more))


def _found(line: Json, unit: str) -> str:
    """Return what an evaluation found."""
    text = quantity(line["value"], unit)
    if line.get("threshold") is not None:
        text += f", limit {quantity(line['threshold'], unit)}"
    if line["executions"]:
        text += f"; {line['errors']:,}/{line['executions']:,} failed"
    return text


def _show_receivers(out: Console, found: Json, rule: Json | None) -> None:
    """Show who was told, who wasn't, and what became of the episode's messages."""
    out.print()
    out.print("Who knows (UTC)", style="bold")
    alert, now = found["alert"], found["timestamp"]
    for one in found["receivers"]:
        wrapped(out, f"{one['receiver']}: {_knows(one, rule, now)}")
        last = one["told"]["episode"] if one["told"] else None
        for message in one["messages"]:
            if message["subject"]["episode"] in (alert["episode"], last):
                wrapped(out, _fate(**message), "    ")
        if one["told"] and not one["messages"] and one["type"] != "alertmanager":
            out.print("    its messages are no longer kept")
    if not found["receivers"]:
        out.print("  Nobody: there is no receiver. See docs/receivers.md")
    for silence in alert["silenced_by"]:
        out.print(f"  silence {silence}")


def _knows(one: Json, rule: Json | None, now: float) -> str:
    """Return what one receiver knows, and why it doesn't."""
    told, held = one["told"], one["held_back"]
    if told is not None:
        text = f"told {told['last']} {duration(now - told['at'])} ago"
    else:
        text = "told in another's place" if one["messages"] else "not told"
    if one["type"] == "alertmanager":
        text += ", and again and again while it fires"
    elif not one["type"]:
        text += " (it is not configured any more)"
    if held:
        why = f"{held['reason']}: {held['text']}"
        text += f", and not again: {why}" if told else f", {why}"
        if held["until"] and held["reason"] == "silenced":
            text += f"; until {moment(held['until'])}"
        if held["by"] and held["reason"] == "inhibited":
            text += f" (alert {held['by']})"
        elif held["by"]:
            text += f" (silence {held['by'][:8]})"
    elif told and told["last"] == "firing" and rule and rule["repeat_interval"]:
        text += f"; told again every {duration(rule['repeat_interval'])}"
    return text


def _fate(subject: Json, message: Json) -> str:
    """Return what a message says of an alert, and what became of it."""
    what = subject["kind"] + (", and over" if subject["over"] else "")
    text = f"{moment(message['created'])}  {what}: {_became(message)}"
    others = len(message["alerts"]) - 1
    if others:
        group = ", ".join(f"{k}={v}" for k, v in message["group"].items())
        many = "another alert" if others == 1 else "other alerts"
        number = "" if others == 1 else f"{others} "
        text += f"; with {number}{many}" + (f" of {group}" if group else "")
    if message["fallback_for"]:
        text += f"; in place of {message['fallback_for']}"
    if message["fell_back"]:
        text += "; its fallback was told"
    return text


def _became(message: Json) -> str:
    tries = message["attempts"]
    failed = f" after {tries} failed attempt{'' if tries == 1 else 's'}" * bool(tries)
    error = f": {message['error']}" if message["error"] else ""
    match message["status"]:
        case "sent":
            code = f" (HTTP {message['code']})" if message["code"] else ""
            return f"delivered at {moment(message['settled'])}{code}{failed}"
        case "pending":
            if message["behind"]:
                return f"waits behind {message['behind']}{failed}{error}"
            at = message["next_attempt"]
            when = f", next attempt at {moment(at)}" if at else ""
            return f"waits{when}{failed}{error}"
        case "dead":
            at = f"given up at {moment(message['settled'])}"
            return f"{at}, {message['reason']}{failed}{error}; {message['id']}"
    return f"not sent, {_UNSENT.get(message['reason'], message['reason'])}"


def _show_witness(out: Console, found: Json) -> None:
    known = [value for value in found["history"] if value is not None]
    if not (known or found["error_classes"] or found["evidence"]):
        return
    alert = found["alert"]
    out.print()
    out.print("When it fired", style="bold")
    if known:
        line, last = sparkline(found["history"]), quantity(known[-1], alert["unit"])
        out.print(f"  {line}  {last}, a bar for each {duration(alert['window'])}")
    if found["error_classes"]:
        counts = [f"{c['type']} {c['count']:,}" for c in found["error_classes"]]
        wrapped(out, f"errors: {', '.join(counts)}")
    if found["transition"]:
        wrapped(out, f"action {found['transition']}")
    for (node, name, message), alike in itertools.groupby(found["evidence"], _failure):
        first, *more = alike
        at = moment(first["time"]) if first["time"] else "-"
        text = f"{at}  {node}  {name}" + (f": {message}" if message else "")
        wrapped(out, text[:300] + (f" (and {len(more)} alike)" if more else ""))


def _failure(seen: Json) -> tuple[str, str, str]:
    return seen["node"], seen["type"], " ".join(seen["message"].split())


def _nth(number: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    end = "th" if number % 100 in (11, 12, 13) else ends.get(number % 10, "th")
    return f"{number}{end}"
