"""docs/receivers.md shows the real messages, and documents every key.

`python -m tests.agent.notify.test_documentation` updates the examples.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.docs.slack_images import NOON, fact

from kaywatch_agent.model.alerts import AlertDetails, Notification, NotificationKind
from kaywatch_agent.notify import formatting
from kaywatch_agent.notify.config import (
    TYPES,
    HeartbeatConfig,
    parse,
    parse_heartbeat,
)
from kaywatch_agent.notify.receivers import alertmanager, pagerduty, slack, webhook
from kaywatch_agent.notify.sample import resolve
from kaywatch_agent.rules.rule import Grouping

PAGE = Path(__file__).parents[3] / "docs" / "receivers.md"
EXAMPLE = re.compile(r"<!-- example: (\w+) -->\n```\w+\n(.*?)```\n", re.DOTALL)


def message(
    alert: AlertDetails, kind: NotificationKind = NotificationKind.FIRING
) -> Notification:
    return Notification(
        id="msg_01KZ9V5VE0ABCDEFGHJKMNPQRS",
        receiver="ops",
        kind=kind,
        alerts=(alert,),
        group={"alertname": alert.rule, "graph": "checkout"},
        created=NOON,
        due=NOON,
    )


def examples() -> dict[str, str]:
    firing = message(fact())
    late = message(resolve(fact(), NOON + 360), NotificationKind.RESOLVED)
    bodies: dict[str, Any] = {
        "slack": slack.render(firing, NOON + 5),
        "pagerduty": {
            "routing_key": "R0123...",
            **pagerduty.render(firing, NOON + 5),
        },
        "native": webhook.native_body(firing, NOON + 5),
        "alertmanager_body": webhook.alertmanager_body(firing, ""),
        "alertmanager": [alertmanager.render(fact(), NOON + 5, 60.0)],
    }
    result = {
        name: json.dumps(body, indent=2, ensure_ascii=False) + "\n"
        for name, body in bodies.items()
    }
    return result | {
        "plain": formatting.plain_text(firing, NOON + 5) + "\n",
        "late": formatting.plain_text(late, NOON + 720) + "\n",
    }


def test_the_documented_examples_match_sent_messages() -> None:
    shown = dict(EXAMPLE.findall(PAGE.read_text()))
    assert shown == examples()


@pytest.mark.parametrize("name", sorted(TYPES))
def test_every_key_is_documented(name: str) -> None:
    text = PAGE.read_text()
    for field in dataclasses.fields(TYPES[name]):
        stem = re.sub(r"_(file|env|credential)?$", "", field.name)
        assert field.name == "name" or f"`{stem}`" in text, field.name
    for field in dataclasses.fields(HeartbeatConfig):
        assert f"`{re.sub(r'_(file|env|credential)$', '', field.name)}`" in text


def test_the_documented_configurations_are_valid() -> None:
    import tomllib

    blocks = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        document = tomllib.loads(block)
        for config in parse(document.get("receiver", {})).values():
            config.policy(Grouping())
        if "heartbeat" in document:
            parse_heartbeat(document["heartbeat"])


if __name__ == "__main__":
    made = examples()
    PAGE.write_text(
        EXAMPLE.sub(
            lambda match: match[0].replace(match[2], made[match[1]]), PAGE.read_text()
        )
    )
