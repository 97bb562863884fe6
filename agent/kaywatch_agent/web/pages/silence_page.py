"""The page that links in notifications lead to: the command that silences an alert.

It has no form: silences are added by programs and by the agent's own pages only, and
this page is opened from other sites.
"""

from __future__ import annotations

import shlex
from html import escape
from typing import Annotated

from msgspec import Meta, Struct

from kaywatch_agent.model.bounds import Name
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.matchers import Matcher
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.web.api.alerts import find_alert
from kaywatch_agent.web.responses import EncodedResponse, html_response
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["silence_page"]

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Silence {rule}</title>
<link rel="stylesheet" href="assets/main.css">
</head>
<body class="document">
<h1>{rule}: {state}</h1>
<p>{summary}</p>
{silences}
<p>To mute its notifications for two hours, run on the agent's host:</p>
<pre>{command}</pre>
<p>The alert stays active meanwhile. A receiver that was notified of it is still
notified when it is resolved. With fewer labels, a silence covers more alerts.
<a href="api/v1/alerts/{id}">All details of this alert</a></p>
</body>
</html>
"""


class SilencePageQuery(Struct, frozen=True):
    """The alert to silence."""

    alert: Annotated[Name, Meta(min_length=1, description="The alert's id.")]


def silence_page(snapshot: AgentSnapshot, query: SilencePageQuery) -> EncodedResponse:
    """Return a page with the command that silences an alert.

    Raises:
        Problem: 404 for an unknown alert.
    """
    alerts = snapshot.alerts()
    alert = find_alert(alerts, query.alert)
    return html_response(
        _PAGE.format(
            rule=escape(alert.rule),
            state=escape(alert.lifecycle.state),
            summary=escape(alerts.describe(alert).summary),
            silences=_silences(alerts, alert),
            command=escape(_command(alert)),
            id=alert.id,
        )
    )


def _command(alert: Alert) -> str:
    labels = {name: value for name, value in alert.labels.items() if value}
    matchers = [
        shlex.quote(str(Matcher(name, value)))
        for name, value in {"alertname": alert.rule, **labels}.items()
    ]
    return f'kaywatch silence add {" ".join(matchers)} --for 2h --comment "why"'


def _silences(alerts: AlertsSnapshot, alert: Alert) -> str:
    return "\n".join(
        f"<p>It is silenced until {silence.ends_at:%Y-%m-%d %H:%M} UTC by"
        f" {escape(silence.created_by or silence.id)}: {escape(silence.comment)}</p>"
        for silence in alerts.active_silences(alert)
    )
