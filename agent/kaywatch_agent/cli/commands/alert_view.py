"""Shows one alert for `kaywatch why`: timeline, notifications and context."""

from __future__ import annotations

import itertools
from typing import Any

from rich.text import Text

from kaywatch_agent.cli.commands import output
from kaywatch_agent.cli.commands.output import Json
from kaywatch_agent.cli.tables import console
from kaywatch_agent.units import duration, quantity, sparkline

__all__ = ["show_alert"]


def show_alert(answer: Json, rule: Json | None) -> None:
    """Show an alert.

    Args:
        answer: of `/api/v1/alerts/{id}`.
        rule: the alert's rule; None if it was removed.
    """
    _show_state(answer, rule)
    _show_timeline(answer)
    _show_notifications(answer, rule)
    _show_context(answer)


def _show_heading(text: str) -> None:
    out = console()
    out.print()
    out.print(text, style="bold")


# -- state ---------------------------------------------------------------------------


def _show_state(answer: Json, rule: Json | None) -> None:
    alert, now = answer["alert"], answer["timestamp"]
    line = Text.assemble(
        (alert["rule"], "bold"),
        f"  {output.format_place(alert)}: ",
        output.format_alert_state(alert),
    )
    if alert["since"]:
        line.append(f" since {output.format_utc_time(alert['since'])} UTC,")
        line.append(f" {duration(now - alert['since'])}")
    console().print(line)
    if rule is not None:
        output.print_wrapped(rule["sentence"])
    output.print_wrapped(alert["summary"])
    output.print_wrapped(_format_values(alert))
    output.print_wrapped(_format_outlook(alert, rule))
    output.print_wrapped(f"id {alert['id']}, severity {alert['severity']}")
    if alert["note"]:
        output.print_wrapped(alert["note"])
    if alert["cost"]:
        output.print_wrapped(f"cost: {alert['cost']}")
    if alert["next_step"]:
        output.print_wrapped(f"next step: {alert['next_step']}")


def _format_values(alert: Json) -> str:
    unit = alert["unit"]
    text = f"value {quantity(alert['value'], unit)}"
    for name in ("threshold", "clear"):
        if alert[name] is not None:
            text += f", {name} {quantity(alert[name], unit)}"
    # Completeness is shown only if events are missing: the value may then be wrong.
    if alert["completeness"] is not None and alert["completeness"] < 1:
        text += f"; {100 * alert['completeness']:.1f} % of the events arrived"
    return text


def _format_outlook(alert: Json, rule: Json | None) -> str:
    """Return which change of state comes next, and when."""
    if rule is None:
        return "its rule was removed"
    # Missing data comes first: while it lasts, no other timer advances.
    if alert["no_data_for"] and alert["reason"] != "no_data":
        text = f"no data, or too little, for {duration(alert['no_data_for'])}"
        if alert["state"] == "ok":
            return text
        change = "fires" if rule["on_no_data"] == "alert" else "resolves"
        remaining = duration(rule["no_data_after"] - alert["no_data_for"])
        return f"{text}; {change} in {remaining}"
    match alert["state"]:
        case "pending":
            remaining = duration(rule["for"] - alert["progress"])
            return f"fires in {remaining} if the condition still holds"
        case "recovering":
            remaining = duration(rule["keep_firing_for"] - alert["progress"])
            return f"resolves in {remaining} if the value stays clear"
        case "ok":
            reason = f" ({alert['reason']})" if alert["reason"] else ""
            if alert["reason"] == "no_data":
                return "the data stopped, so recovery is not confirmed"
            times = output.plural(alert["episode"], "time")
            return f"resolved{reason}; fired {times} so far"
    reason = " without data" if alert["reason"] == "no_data" else ""
    flapping = ", flapping" if alert["flapping"] else ""
    return f"firing: episode {alert['episode']}{reason}{flapping}"


# -- timeline ------------------------------------------------------------------------


def _show_timeline(answer: Json) -> None:
    unit = answer["alert"]["unit"]
    _show_heading("Timeline (UTC)")
    if answer["left_out"]:
        output.print_wrapped(
            f"({answer['left_out']} earlier entries are no longer stored)"
        )
    for entry in answer["timeline"]:
        text = f"{output.format_utc_time(entry['time'])}  {entry['text']}"
        if entry["after"]:
            text = f"{text:<36}{_format_evaluation(entry, unit)}"
        output.print_wrapped(text)
    if not answer["timeline"]:
        output.print_wrapped("Nothing has happened yet.")
    worst = answer["worst"]
    if worst:
        value = _format_evaluation(worst, unit)
        output.print_wrapped(
            f"worst: {value}, at {output.format_utc_time(worst['time'])}"
        )


def _format_evaluation(entry: Json, unit: str) -> str:
    text = quantity(entry["value"], unit)
    if entry.get("threshold") is not None:
        text += f", limit {output.format_limit(entry, unit)}"
    if entry["executions"]:
        # The number of failures explains a share, but not a duration.
        failed = f"{entry['errors']:,}/{entry['executions']:,} failed"
        executions = output.plural(entry["executions"], "execution")
        text += f"; {failed if unit == 'ratio' else executions}"
    return text


# -- notifications -------------------------------------------------------------------


def _show_notifications(answer: Json, rule: Json | None) -> None:
    """Show the state of each receiver, and the episode's messages to it."""
    _show_heading("Notifications (UTC)")
    alert, now = answer["alert"], answer["timestamp"]
    for receiver in answer["receivers"]:
        last, messages = receiver["notified"], receiver["messages"]
        output.print_wrapped(
            f"{receiver['receiver']}: {_format_receiver(receiver, rule, now)}"
        )
        episodes = {alert["episode"], last["episode"] if last else None}
        for message in messages:
            if message["subject"]["episode"] in episodes:
                output.print_wrapped(_format_message(**message), "    ")
        # An Alertmanager is sent all firing alerts at an interval, without messages in
        # the outbox.
        if last and not messages and receiver["type"] != "alertmanager":
            output.print_wrapped("its messages are no longer stored", "    ")
    if not answer["receivers"]:
        output.print_wrapped(
            "None sent: no receiver is configured; see docs/receivers.md"
        )
    for silence in alert["silenced_by"]:
        output.print_wrapped(f"silence {silence}")


def _format_receiver(receiver: Json, rule: Json | None, now: float) -> str:
    """Return a receiver's last notification, and why it is not notified."""
    last, suppression = receiver["notified"], receiver["suppressed"]
    if last is not None:
        text = f"notified ({last['last']}) {duration(now - last['at'])} ago"
        if receiver["type"] == "alertmanager":
            text += ", and repeatedly while it fires"
    # A fallback delivers messages of another receiver, and need not be one of the rule.
    elif receiver["messages"]:
        text = "notified as a fallback"
    else:
        text = "not notified"
    if not receiver["type"]:
        text += " (no longer configured)"
    if suppression:
        again = "; not notified again" if last else ""
        text += f"{again}, {_format_suppression(suppression)}"
    elif last and last["last"] == "firing" and rule and rule["repeat_interval"]:
        text += f"; repeated every {duration(rule['repeat_interval'])}"
    return text


def _format_suppression(suppression: Json) -> str:
    text = f"{suppression['reason']}: {suppression['text']}"
    if suppression["until"] and suppression["reason"] == "silenced":
        text += f"; until {output.format_utc_time(suppression['until'])}"
    if suppression["by"] and suppression["reason"] == "inhibited":
        text += f" (alert {suppression['by']})"
    elif suppression["by"]:
        text += f" (silence {suppression['by'][:8]})"
    return text


def _format_message(subject: Json, message: Json) -> str:
    """Return the part of a message about an alert, and the message's status."""
    kind = subject["kind"] + (" and resolved" if subject["resolved"] else "")
    created = output.format_utc_time(message["created"])
    text = f"{created}  {kind}: {output.format_delivery(message)}"
    # `kaywatch outbox retry` needs the id.
    if message["status"] == "dead":
        text += f"; {message['id']}"
    others = len(message["alerts"]) - 1
    if others:
        group = ", ".join(f"{k}={v}" for k, v in message["group"].items())
        text += f"; grouped with {others} more" + (f" by {group}" if group else "")
    if message["fallback_for"]:
        text += f"; in place of {message['fallback_for']}"
    if message["failed_over"]:
        text += "; sent to its fallback"
    return text


# -- context -------------------------------------------------------------------------


def _show_context(answer: Json) -> None:
    context = answer["context"]
    values = [value for value in context["history"] if value is not None]
    if not (values or context["error_classes"] or context["evidence"]):
        return
    alert = answer["alert"]
    _show_heading("When it fired")
    if values:
        line, last = sparkline(context["history"]), quantity(values[-1], alert["unit"])
        output.print_wrapped(
            f"{line}  {last}, one bar per {duration(alert['window_seconds'])}"
        )
    if context["error_classes"]:
        counts = [f"{name} {count:,}" for name, count in context["error_classes"]]
        output.print_wrapped(f"errors: {', '.join(counts)}")
    if context["transition"]:
        output.print_wrapped(f"action {context['transition']}")
    # The failures of an outage are alike, so equal ones share a line.
    for text, group in itertools.groupby(context["evidence"], _format_failure):
        first, *more = group
        # Clients of other languages may report failures without a time.
        at = output.format_utc_time(first["time"]) if first["time"] else "-"
        repeats = f" (and {len(more)} alike)" if more else ""
        output.print_wrapped(f"{at}  {text}"[:300] + repeats)


def _format_failure(failure: Any) -> str:
    # The lines of a message would look like further entries.
    message = " ".join(failure["message"].split())
    return f"{failure['node']}  {failure['type']}" + (f": {message}" if message else "")
