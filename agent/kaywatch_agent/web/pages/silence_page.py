"""Where the link in a message leads to: what to type to silence an alert.

It is no form: there is no access control, and what changes something has to be sent by
a program or by this agent's own page under its own address.
"""

from __future__ import annotations

import shlex
from html import escape

from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.matchers import Matcher
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.web.api.alerts import find
from kaywatch_agent.web.api.parameters import SilencePageQuery
from kaywatch_agent.web.reading import Reading
from kaywatch_agent.web.reply import Reply

__all__ = ["silence_page"]

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Silence {rule}</title>
<style>
body {{ font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 46rem;
  padding: 0 1rem; line-height: 1.5; color-scheme: light dark; }}
pre {{ border: 1px solid; padding: .7rem; white-space: pre-wrap; }}
</style>
</head>
<body>
<h1>{rule}: {state}</h1>
<p>{summary}</p>
{held}
<p>To keep its messages back for two hours, on the agent's host:</p>
<pre>{command}</pre>
<p>The alert goes on meanwhile, and its end is told to those who know of it. With fewer
labels a silence covers more. <a href="api/v1/alerts/{id}">All about this alert</a></p>
</body>
</html>
"""


def silence_page(reading: Reading, query: SilencePageQuery) -> Reply:
    """Return a page that says how an alert is silenced.

    Raises:
        Problem: 404.
    """
    picture = reading.picture()
    instance = find(picture, query.alert)
    shown = _PAGE.format(
        rule=escape(instance.rule),
        state=escape(instance.lifecycle.state),
        summary=escape(picture.describe(instance).summary),
        held=_held(picture, instance),
        command=escape(_command(instance)),
        id=instance.id,
    )
    return Reply("text/html; charset=utf-8", [shown.encode()])


# -- inside --------------------------------------------------------------------------


def _command(instance: Alert) -> str:
    own = {name: value for name, value in instance.labels.items() if value}
    matchers = [
        shlex.quote(str(Matcher(name, value, False, True)))
        for name, value in {"alertname": instance.rule, **own}.items()
    ]
    return f'kaywatch silence add {" ".join(matchers)} --for 2h --comment "why"'


def _held(picture: AlertsSnapshot, instance: Alert) -> str:
    return "\n".join(
        f"<p>It is silenced until {silence.ends_at:%Y-%m-%d %H:%M} UTC by"
        f" {escape(silence.created_by or silence.id)}: {escape(silence.comment)}</p>"
        for silence in picture.silencing(instance)
    )
