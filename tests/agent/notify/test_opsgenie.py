"""Opsgenie gets an alert for each of ours, within its limits, and closes it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.agent.notify.alerts import NOON, alert, resolve_alert
from tests.agent.notify.test_receivers import STRANGE, message, send
from tests.agent.notify.test_worker import run_worker, until
from tests.receivers import RESET, Receivers, Reply

from kaywatch_agent.model.alerts import MessageStatus, NotificationKind
from kaywatch_agent.notify.config import OpsgenieConfig, parse
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.notify.receivers import opsgenie
from kaywatch_agent.notify.result import DeliveryOutcome

KEY = "0a1b2c3d-secret-key"
TABLE = {"type": "opsgenie", "api_key": KEY, "url": "/"}
ALIAS = alert().dedup_key

# The limits of a new alert, in characters.
LIMITS = {"message": 130, "alias": 512, "description": 15_000, "entity": 512}


def created(**fields: Any) -> dict[str, Any]:
    """Return the body of the request that creates an alert, checked."""
    tags = fields.pop("tags", ())
    request = opsgenie.render(message(alert(**fields)), NOON + 5, tags=tags)
    assert (request.method, request.path) == ("POST", "/v2/alerts")
    body = request.body
    assert set(body) <= {
        *("message", "alias", "description", "priority", "entity", "source", "tags"),
        "details",
    }
    for name, limit in LIMITS.items():
        assert 0 < len(body[name]) <= limit
    assert len(body["source"]) <= 100
    assert len(body["tags"]) <= 20
    assert all(0 < len(tag) <= 50 for tag in body["tags"])
    assert sum(len(k) + len(v) for k, v in body["details"].items()) <= 8_000
    return body


def test_an_alert_has_what_a_responder_needs() -> None:
    body = created()

    description = body.pop("description")
    details = body.pop("details")
    assert body == {
        "message": "pay: success 84.2 % < 95.0 % (32 of 203 failed in 5m)",
        "alias": ALIAS,
        "priority": "P1",
        "entity": "checkout / pay",
        "source": "kaywatch on worker-3",
        "tags": ["kaywatch", "critical", "graph:checkout", "node:pay"],
    }
    assert description.startswith("[FIRING] node-success-rate: checkout / pay\n")
    assert "  Errors: TimeoutError 21, ValueError 9, KeyError 2\n" in description
    assert details["Dashboard"] == "https://kaywatch.example/#/graphs/checkout"
    assert (details["Rule"], details["graph"]) == ("node-success-rate", "checkout")


@pytest.mark.parametrize(
    ("severity", "priority"),
    [("critical", "P1"), ("error", "P2"), ("warning", "P3"), ("info", "P5")],
)
def test_the_priority_follows_from_the_severity(severity: str, priority: str) -> None:
    assert created(severity=severity)["priority"] == priority


def test_an_alert_with_long_unusual_texts_is_within_the_limits() -> None:
    labels = {f"{number}{STRANGE[:60]}": STRANGE for number in range(30)}
    body = created(
        labels=labels,
        summary=STRANGE,
        host=STRANGE,
        note="x" * 20_000,
        runbook_url="https://x/" + "a" * 5_000,
        tags=("team:search",) * 30,
    )

    for text in (body["message"], body["description"], *body["details"].values()):
        assert "<b" not in text
    assert len(body["tags"]) == 20


def test_configured_tags_come_after_those_of_the_alert() -> None:
    assert created(tags=("team:search",))["tags"][-1] == "team:search"


def test_the_end_of_an_alert_closes_it_with_the_reason() -> None:
    over = message(resolve_alert(alert()), kind="resolved")
    request = opsgenie.render(over, NOON + 400)

    assert request.method == "POST"
    assert request.path == f"/v2/alerts/{ALIAS}/close?identifierType=alias"
    assert set(request.body) == {"source", "note"}
    assert "Resolved: 12:07 UTC, after 6m" in request.body["note"]


def test_an_alert_whose_data_stopped_stays_open_unless_configured_otherwise() -> None:
    silent = message(resolve_alert(alert(), reason="no_data"), kind="resolved")
    request = opsgenie.render(silent, NOON + 400)
    assert request.method == "PUT"
    assert request.path == f"/v2/alerts/{ALIAS}/message?identifierType=alias"
    assert request.body == {"message": "[NO DATA] pay: success 98.5 %, limit 95.0 %"}

    request = opsgenie.render(silent, NOON + 400, close_on_no_data=True)
    assert request.path.endswith("/close?identifierType=alias")
    assert "data stopped, not confirmed healthy" in request.body["note"]


def test_a_test_is_marked_as_one() -> None:
    request = opsgenie.render(message(kind="test"), NOON)
    assert request.body["message"].startswith("[TEST] pay: success")
    assert "This is a test; nothing is wrong." in request.body["description"]


@pytest.mark.parametrize(
    ("keys", "url"),
    [
        ({}, "https://api.opsgenie.com"),
        ({"region": "eu"}, "https://api.eu.opsgenie.com"),
        (
            {"url": "https://api.eu.opsgenie.com/v2/alerts"},
            "https://api.eu.opsgenie.com",
        ),
        (
            {"url": "https://api.atlassian.com/jsm/ops/integration/v2/alerts/"},
            "https://api.atlassian.com/jsm/ops/integration",
        ),
    ],
)
def test_a_url_may_be_pasted_in_full(keys: dict[str, str], url: str) -> None:
    config = parse({"ops": {"type": "opsgenie", "api_key": KEY, **keys}})["ops"]
    assert isinstance(config, OpsgenieConfig)
    assert config.base_url == url


@pytest.mark.parametrize(
    ("reply", "outcome", "after"),
    [
        (Reply(202, '{"result":"ok"}'), DeliveryOutcome.SENT, None),
        (Reply(429, '{"message":"limit"}'), DeliveryOutcome.RETRY, 5.0),
        (Reply(429, "", {"Retry-After": "60"}), DeliveryOutcome.RETRY, 60.0),
        (Reply(401, '{"message":"Key"}'), DeliveryOutcome.REFUSED, None),
        (Reply(403, f'{{"message":"{KEY}"}}'), DeliveryOutcome.REFUSED, None),
        (Reply(503, ""), DeliveryOutcome.RETRY, None),
        (RESET, DeliveryOutcome.RETRY, None),
    ],
)
async def test_results_of_opsgenies_responses(
    receivers: Receivers,
    http: HttpClient,
    reply: Reply,
    outcome: DeliveryOutcome,
    after: float | None,
) -> None:
    receivers.answer("/v2/alerts", reply)
    result = await send(receivers, http, {**TABLE})

    assert (result.outcome, result.after) == (outcome, after)
    assert KEY not in result.error
    (request,) = receivers.requests
    assert request.headers["authorization"] == f"GenieKey {KEY}"


@pytest.mark.parametrize("reply", [Reply(503, ""), Reply(401, "")])
async def test_a_priority_that_is_not_accepted_is_sent_again_before_the_repeat(
    receivers: Receivers, http: HttpClient, reply: Reply
) -> None:
    receivers.answer(f"/v2/alerts/{ALIAS}/priority", reply)
    results = [
        await send(receivers, http, {**TABLE}, message(kind="repeat")) for _ in range(2)
    ]

    assert [result.outcome is DeliveryOutcome.SENT for result in results] == [
        False,
        True,
    ]
    methods = [request.method for request in receivers.requests]
    assert methods == ["PUT", "PUT", "POST"]


async def test_the_fields_that_opsgenie_rejects_are_named(
    receivers: Receivers, http: HttpClient
) -> None:
    body = '{"message":"Request body is not processable.","errors":{"tags":"too many"}}'
    receivers.answer("/v2/alerts", Reply(422, body))
    result = await send(receivers, http, {**TABLE})

    assert result.error == (
        "HTTP 422: Request body is not processable.; tags: too many"
    )


async def test_alerts_are_created_counted_and_closed_at_the_same_account(
    receivers: Receivers, tmp_path: Any
) -> None:
    key = tmp_path / "key"
    key.write_text("old-key-1")
    table = {
        "type": "opsgenie",
        "api_key_file": str(key),
        "url": receivers.url,
        "timeout": "60s",
    }
    async with run_worker(receivers, ops=table) as run:
        run.put("ops", NotificationKind.FIRING, alert())
        await until(lambda: run.count(MessageStatus.SENT) == 1)
        run.put("ops", NotificationKind.REPEAT, alert(severity="error"))
        await until(lambda: run.count(MessageStatus.SENT) == 2)
        key.write_text("new-key-2")
        run.put("ops", NotificationKind.RESOLVED, resolve_alert(alert()))
        await until(lambda: run.count(MessageStatus.SENT) == 3)

    first, priority, repeat, end = receivers.requests
    # The severity was changed, and a repeat alone does not change an open alert.
    assert (priority.method, priority.path, priority.query) == (
        "PUT",
        f"/v2/alerts/{ALIAS}/priority",
        "identifierType=alias",
    )
    assert priority.json == {"priority": "P2"}
    assert first.json["priority"] == "P1"
    assert first.json["alias"] == repeat.json["alias"] == ALIAS
    assert (end.path, end.query) == (
        f"/v2/alerts/{ALIAS}/close",
        "identifierType=alias",
    )
    keys = [request.headers["authorization"] for request in receivers.requests]
    assert keys == ["GenieKey old-key-1"] * 4
