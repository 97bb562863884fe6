"""Receivers get messages within their limits, and their responses are understood."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook as Verifier
from tests.agent.notify.alerts import NOON, alert, outbox, put, resolve_alert
from tests.receivers import RESET, Receivers, Reply

from kaywatch_agent.model.alerts import (
    AlertDetails,
    Evidence,
    Notification,
    NotificationKind,
)
from kaywatch_agent.notify import appearance, formatting, signing
from kaywatch_agent.notify.config import TYPES, AlertmanagerConfig, parse
from kaywatch_agent.notify.http import HttpClient, Response
from kaywatch_agent.notify.policy import Policy
from kaywatch_agent.notify.receivers import CLASSES, build, pagerduty, slack, webhook
from kaywatch_agent.notify.receivers.apprise import render as render_apprise
from kaywatch_agent.notify.result import DeliveryOutcome, DeliveryResult
from kaywatch_agent.notify.worker import attempt

FIGURES = {"Value", "Now", "Worst", "Trend"}
STRANGE = "<!channel> & 💥 <b>é</b> \u202e" * 200
KEY = "R" * 32


def message(*alerts: AlertDetails, kind: str = "firing", **fields: Any) -> Notification:
    value: dict[str, Any] = {
        "id": "msg_01M8999830ABCDEFGHJKMNPQRS",
        "receiver": "ops",
        "group": {"alertname": "node-success-rate", "graph": "checkout"},
        "created": NOON,
        "due": NOON,
    }
    return Notification(
        alerts=alerts or (alert(),), kind=NotificationKind(kind), **{**value, **fields}
    )


async def send(
    receivers: Receivers,
    http: HttpClient,
    table: dict[str, Any],
    notification: Notification | None = None,
) -> DeliveryResult:
    for key in ("url", "webhook_url"):
        if str(table.get(key, "")).startswith("/"):
            table[key] = receivers.url + table[key]
    receiver = build(parse({"ops": table}), http)["ops"]
    return await attempt(receiver, notification or message(), NOON + 5)


@pytest.mark.parametrize(
    ("keys", "action"),
    [({}, "trigger"), ({"resolve_on_no_data": True}, "resolve")],
)
async def test_an_alert_whose_data_stopped_keeps_its_incident_open(
    http: HttpClient, keys: dict[str, bool], action: str
) -> None:
    silent = message(resolve_alert(alert(), reason="no_data"), kind="resolved")
    table = {"type": "pagerduty", "routing_key": KEY, **keys}
    event = build(parse({"pd": table}), http)["pd"].render(silent, NOON)

    assert event["event_action"] == action
    over = message(resolve_alert(alert()), kind="resolved")
    event = build(parse({"pd": table}), http)["pd"].render(over, NOON)
    assert event["event_action"] == "resolve"


async def test_an_alert_whose_data_stopped_is_grey_in_slack(http: HttpClient) -> None:
    silent = message(resolve_alert(alert(), reason="no_data"), kind="resolved")
    table = {"type": "slack", "webhook_url": "http://127.0.0.1/x"}
    payload = build(parse({"ops": table}), http)["ops"].render(silent, NOON)

    assert payload["text"].startswith(":white_circle: *[NO DATA]")
    assert payload["attachments"][0]["color"] == "#9e9e9e"


@pytest.mark.parametrize(
    "table",
    [
        {"type": "slack", "webhook_url": "/services/T/B/x"},
        {"type": "slack", "bot_token": "xoxb-1", "channel": "#ops", "url": "/api"},
        {"type": "pagerduty", "routing_key": KEY, "url": "/"},
        {"type": "webhook", "url": "/hook"},
        {"type": "webhook", "url": "/hook", "format": "alertmanager"},
        {"type": "teams", "webhook_url": "/workflows/1"},
        {"type": "discord", "webhook_url": "/api/webhooks/1/x"},
    ],
)
async def test_the_rendered_body_is_sent_with_secrets_added(
    receivers: Receivers, http: HttpClient, table: dict[str, Any]
) -> None:
    result = await send(receivers, http, table)
    rendered = build(parse({"ops": table}), http)["ops"].render(message(), NOON + 5)

    assert result.outcome is DeliveryOutcome.SENT
    (request,) = receivers.requests
    body = request.json
    assert body.pop("routing_key", KEY) == KEY
    assert body == json.loads(msgspec.json.encode(rendered))


def test_each_type_but_alertmanager_has_a_receiver() -> None:
    assert set(TYPES.values()) == {*CLASSES, AlertmanagerConfig}


# -- texts ---------------------------------------------------------------------------


def test_a_message_shows_the_facts_and_links_of_its_alert() -> None:
    assert formatting.plain_text(message(), NOON + 5).splitlines() == [
        "[FIRING] node-success-rate: checkout / pay",
        "",
        "pay: success 84.2 % < 95.0 % (32 of 203 failed in 5m)",
        "  Value: 84.2 %, threshold 95.0 %, clears at 97.0 %",
        "  Since: 11:59 UTC (2m 5s)",
        "  Failed: 32 of 203 in 5m",
        "  Errors: TimeoutError 21, ValueError 9, KeyError 2",
        "  Worst transition: pay -> retry: 41 %",
        "  Trend: ███·▇▅▃▁ 99.0 % → 84.2 %",
        "  Host: worker-3",
        "  Alert: critical · episode 1",
        "  Dashboard: https://kaywatch.example/#/graphs/checkout",
        "  Runbook: https://runbooks.example/checkout",
        "  Silence: https://kaywatch.example/#/silence/abc",
    ]


def test_a_late_resolve_shows_its_delay_times_and_reason() -> None:
    ended = resolve_alert(alert(completeness=0.93, flapping=True), reason="no_data")
    lines = formatting.plain_text(
        message(ended, kind="resolved"), NOON + 720
    ).splitlines()

    assert lines[:2] == ["[NO DATA] node-success-rate: checkout / pay", "delayed 12m"]
    assert "flapping: fires and resolves repeatedly" in lines
    assert "pay: success 98.5 %, limit 95.0 %" in lines
    assert "  Fired: 12:01 UTC" in lines
    assert "  Ended: 12:07 UTC, after 6m; data stopped, not confirmed healthy" in lines
    assert "  Completeness: 93.0 % of the events arrived" in lines


@pytest.mark.parametrize(
    ("fields", "alerts", "expected"),
    [
        ({"kind": "repeat"}, 1, "[STILL FIRING] node-success-rate: checkout / pay"),
        ({"kind": "test"}, 1, "[TEST, FIRING] node-success-rate: checkout / pay"),
        ({"kind": "summary"}, 1, "[SUMMARY] node-success-rate: checkout / pay"),
        ({}, 3, "[FIRING: 3] node-success-rate: checkout"),
        ({"left_out": 9}, 3, "[FIRING: 3 (+9 more)] node-success-rate: checkout"),
        ({"group": {}, "kind": "repeat"}, 2, "[STILL FIRING, FIRING: 2] alerts"),
    ],
)
def test_titles(fields: dict[str, Any], alerts: int, expected: str) -> None:
    assert formatting.title(message(*[alert()] * alerts, **fields)) == expected


def test_a_value_that_rounds_to_its_threshold_shows_its_side() -> None:
    assert formatting.value_and_threshold(alert(value=0.9496, clear=None)) == (
        "95.0 % (just below), threshold 95.0 %"
    )
    assert formatting.value_and_threshold(alert(value=None, threshold=None)) == ""


def test_an_alert_without_graph_and_node_is_located_by_its_labels() -> None:
    assert formatting.location(alert(labels={"model": "large", "env": "prod"})) == (
        "model=large, env=prod"
    )
    assert formatting.location(alert(labels={})) == "all"


def test_group_wait_does_not_count_as_delay() -> None:
    gathered = message(due=NOON + 600)
    assert formatting.remarks(gathered, NOON + 650) == []
    assert formatting.remarks(message(), NOON + 121) == ["delayed 2m 1s"]


# -- Slack ---------------------------------------------------------------------------


def check_slack_limits(payload: dict[str, Any]) -> None:
    """Check a payload against Slack's limits."""
    (attachment,) = payload["attachments"]
    blocks = attachment["blocks"]
    assert 0 < len(payload["text"]) < 40_000
    assert 0 < len(blocks) <= 50
    texts = []
    for block in blocks:
        if block["type"] == "section" and "text" in block:
            assert 0 < len(block["text"]["text"]) <= 3000
            texts.append(block["text"]["text"])
        fields = block.get("fields", []) + block.get("elements", [])
        assert len(fields) <= 10
        for field in fields:
            assert 0 < len(field["text"]) <= 2000
            texts.append(field["text"])
    assert sum(map(len, texts)) < 13_200


@pytest.mark.parametrize("count", [1, 2, 10])
def test_a_slack_message_with_long_unusual_texts_is_within_limits(count: int) -> None:
    strange = alert(
        STRANGE,
        summary=STRANGE,
        transition=STRANGE,
        note=STRANGE,
        host=STRANGE,
        error_classes=((STRANGE, 1),) * 3,
        runbook_url="https://x/" + "a" * 5000,
        dashboard_url="https://x/?a=1&b=<|>",
    )
    payload = slack.render(message(*[strange] * count, left_out=490), NOON + 5)

    check_slack_limits(payload)
    text = json.dumps(payload)
    assert "<!channel>" not in text
    assert "<https://x/?a=1&amp;b=%3C%7C%3E|Dashboard>" in text
    text.encode()
    assert slack.text_only(payload)["text"]


@pytest.mark.parametrize("limit", range(1, 12))
def test_text_is_cut_between_characters_but_not_within_an_escape(limit: int) -> None:
    result = slack.escape("a<💥&b>", limit)

    assert len(result) <= limit
    assert result.replace("&lt;", "").replace("&amp;", "").count("&") == 0
    assert slack.escape("a<b", 100) == "a&lt;b"


@pytest.mark.parametrize(
    ("alerts", "colour"),
    [
        ([alert()], appearance.RED),
        ([alert(severity="warning")], appearance.ORANGE),
        ([alert(severity="info")], appearance.BLUE),
        ([resolve_alert(alert())], appearance.GREEN),
    ],
)
def test_slacks_colour_shows_the_severity(
    alerts: list[AlertDetails], colour: str
) -> None:
    assert slack.render(message(*alerts), NOON)["attachments"][0]["color"] == colour


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply(200, "ok"), DeliveryOutcome.SENT),
        (Reply(200, '{"success":true}'), DeliveryOutcome.SENT),
        (Reply(200, "<html>welcome"), DeliveryOutcome.SENT),
        (Reply(200, ""), DeliveryOutcome.SENT),
        (Reply(204, ""), DeliveryOutcome.SENT),
        (Reply(200, '{"ok":false,"error":"no_team"}'), DeliveryOutcome.REFUSED),
        (Reply(403, "invalid_token"), DeliveryOutcome.REFUSED),
        (Reply(404, "no_service"), DeliveryOutcome.REFUSED),
        (Reply(410, "channel_is_archived"), DeliveryOutcome.REFUSED),
        (Reply(429, '{"retry_after":1,"ok":false}'), DeliveryOutcome.RETRY),
        (Reply(500, "rollup_error"), DeliveryOutcome.RETRY),
        (Reply(302, ""), DeliveryOutcome.REFUSED),
        (RESET, DeliveryOutcome.RETRY),
    ],
)
async def test_results_of_slacks_responses(
    receivers: Receivers, http: HttpClient, reply: Reply, outcome: DeliveryOutcome
) -> None:
    receivers.answer("/services/T/B/x", reply)
    table = {"type": "slack", "webhook_url": "/services/T/B/x"}

    assert (await send(receivers, http, table)).outcome is outcome
    check_slack_limits(receivers.requests[0].json)


async def test_plain_text_is_sent_if_slack_rejects_the_blocks(
    receivers: Receivers, http: HttpClient
) -> None:
    receivers.answer("/services/T/B/x", Reply(400, "invalid_blocks"))
    table = {"type": "slack", "webhook_url": "/services/T/B/x"}

    assert (await send(receivers, http, table)).outcome is DeliveryOutcome.SENT
    again = receivers.requests[1].json
    assert "attachments" not in again
    assert "[FIRING]" in again["text"]


BOT = {"type": "slack", "bot_token": "xoxb-secret", "channel": "#ops"}


async def test_a_bot_posts_and_returns_the_message_id(
    receivers: Receivers, http: HttpClient
) -> None:
    result = await send(receivers, http, {**BOT, "url": "/api"})

    assert result.ref == "C0123 1700000000.000001"
    (request,) = receivers.to("/api/chat.postMessage")
    assert request.headers["authorization"] == "Bearer xoxb-secret"
    assert request.json["channel"] == "#ops"


async def test_a_bot_updates_its_message_or_posts_a_new_one(
    receivers: Receivers, http: HttpClient
) -> None:
    ended = message(
        resolve_alert(alert()), kind="resolved", ref="C0123 17.5", update=True
    )
    await send(receivers, http, {**BOT, "url": "/api"}, ended)
    (update,) = receivers.to("/api/chat.update")
    assert (update.json["channel"], update.json["ts"]) == ("C0123", "17.5")

    receivers.answer(
        "/api/chat.update", Reply(200, '{"ok":false,"error":"message_not_found"}')
    )
    result = await send(receivers, http, {**BOT, "url": "/api"}, ended)
    assert result.outcome is DeliveryOutcome.SENT
    (post,) = receivers.to("/api/chat.postMessage")
    assert (post.json["channel"], "thread_ts" in post.json) == ("#ops", False)


async def test_a_bot_replies_in_the_thread_and_broadcasts_repeats(
    receivers: Receivers, http: HttpClient
) -> None:
    again = message(kind="repeat", ref="C0123 17.5")
    await send(receivers, http, {**BOT, "url": "/api"}, again)

    (post,) = receivers.to("/api/chat.postMessage")
    assert (post.json["thread_ts"], post.json["reply_broadcast"]) == ("17.5", True)


@pytest.mark.parametrize(
    ("body", "outcome", "pause"),
    [
        ('{"ok":false,"error":"ratelimited"}', DeliveryOutcome.RETRY, True),
        ('{"ok":false,"error":"internal_error"}', DeliveryOutcome.RETRY, False),
        ('{"ok":false,"error":"invalid_auth"}', DeliveryOutcome.REFUSED, False),
        ('{"ok":false,"error":"msg_too_long"}', DeliveryOutcome.DEAD, False),
        ('{"ok":tr', DeliveryOutcome.SENT, False),
        ("not json", DeliveryOutcome.SENT, False),
    ],
)
def test_results_of_the_web_apis_responses(
    body: str, outcome: DeliveryOutcome, pause: bool
) -> None:
    result = slack.judge_api(Response(200, {}, body.encode()), NOON)
    assert (result.outcome, result.pause) == (outcome, pause)


# -- PagerDuty -----------------------------------------------------------------------


def test_trigger_and_resolve_have_the_fields_that_pagerduty_routes_by() -> None:
    trigger = pagerduty.render(message(), NOON + 5)
    resolve = pagerduty.render(
        message(resolve_alert(alert()), kind="resolved"), NOON + 400
    )

    assert trigger["event_action"] == "trigger"
    assert trigger["payload"] | {"custom_details": None} == {
        "summary": "pay: success 84.2 % < 95.0 % (32 of 203 failed in 5m)",
        "source": "checkout on worker-3",
        "severity": "critical",
        "timestamp": "2026-11-25T12:01:00.000Z",
        "component": "pay",
        "group": "checkout",
        "class": "node-success-rate",
        "custom_details": None,
    }
    assert resolve["event_action"] == "resolve"
    assert resolve["dedup_key"] == trigger["dedup_key"]
    same = ("source", "severity", "timestamp", "component", "group", "class")
    assert [resolve["payload"][k] for k in same] == [
        trigger["payload"][k] for k in same
    ]


def test_an_event_is_within_pagerdutys_limits() -> None:
    huge = alert(STRANGE, summary=STRANGE, rule="r" * 300, note="x" * 600_000)
    event = pagerduty.render(message(huge), NOON)
    body = pagerduty.encode(event)

    assert len(body) < 512_000
    assert json.loads(body)["payload"]["custom_details"]["note"].startswith("left out")
    assert len(event["payload"]["summary"]) == 1024
    assert all(len(event["payload"][k]) <= 255 for k in ("component", "group", "class"))
    assert len(event["dedup_key"]) <= 255


@pytest.mark.parametrize(
    ("reply", "outcome", "after"),
    [
        (Reply(202, '{"status":"success"}'), DeliveryOutcome.SENT, None),
        (Reply(429, ""), DeliveryOutcome.RETRY, 30.0),
        (Reply(429, "", {"Retry-After": "90"}), DeliveryOutcome.RETRY, 90.0),
        (Reply(500, "<html>"), DeliveryOutcome.RETRY, None),
        (Reply(400, '{"errors":["a","b"]}'), DeliveryOutcome.REFUSED, None),
    ],
)
async def test_results_of_pagerdutys_responses(
    receivers: Receivers,
    http: HttpClient,
    reply: Reply,
    outcome: DeliveryOutcome,
    after: float | None,
) -> None:
    receivers.answer("/v2/enqueue", reply)
    table = {"type": "pagerduty", "routing_key": KEY, "url": "/"}

    result = await send(receivers, http, table)
    assert (result.outcome, result.after) == (outcome, after)
    assert KEY not in result.error


def test_a_test_is_marked_as_one() -> None:
    event = pagerduty.render(message(kind="test"), NOON)
    assert event["payload"]["summary"].startswith("[TEST] ")
    assert "This is a test; nothing is wrong." in event["payload"]["summary"]


# -- webhooks ------------------------------------------------------------------------


def test_signatures_match_published_vectors() -> None:
    body = b'{"event_type":"ping","data":{"success":true}}'
    headers = signing.sign_standard(
        "whsec_plJ3nmyCDGBKInavdOK15jsl", "msg_loFOjxBNrRLzqYUf", 1731705121, body
    )
    assert headers["webhook-signature"] == (
        "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="
    )
    assert signing.sign_github("It's a Secret to Everybody", b"Hello, World!") == (
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    )


async def test_standardwebhooks_verifies_signatures_during_key_rotation(
    receivers: Receivers, http: HttpClient
) -> None:
    import time

    old, new = "whsec_" + "b2xk" * 8, "whsec_" + "bmV3" * 8
    table = {
        "type": "webhook",
        "url": "/hook",
        "signature": "standard",
        "secret": f"{new} {old}",
    }
    receiver = build(parse({"ops": {**table, "url": receivers.url + "/hook"}}), http)[
        "ops"
    ]
    await receiver.send(message(), time.time())

    (request,) = receivers.requests
    for secret in (old, new):
        Verifier(secret).verify(request.body, request.headers)
    assert request.headers["webhook-id"] == "msg_01M8999830ABCDEFGHJKMNPQRS"
    assert request.headers["idempotency-key"] == '"msg_01M8999830ABCDEFGHJKMNPQRS"'


async def test_an_invalid_signature_key_is_reported_by_its_config_key(
    receivers: Receivers, http: HttpClient
) -> None:
    table = {"type": "webhook", "url": "/h", "signature": "standard", "secret": "hä?"}
    result = await send(receivers, http, table)

    assert result.error == (
        "receiver.ops.secret: invalid secret: expected whsec_ followed by base64"
    )


def test_the_alertmanager_body_has_exactly_alertmanagers_fields() -> None:
    both = message(alert(), resolve_alert(alert("ship")))
    body = webhook.alertmanager_body(both, "https://kaywatch.example")

    assert set(body) == {
        *("receiver", "status", "alerts", "groupLabels", "commonLabels"),
        *("commonAnnotations", "externalURL", "version", "groupKey", "truncatedAlerts"),
    }
    assert body["status"] == "firing"
    assert body["groupKey"] == '{}:{alertname="node-success-rate", graph="checkout"}'
    assert body["commonLabels"] == {
        "graph": "checkout",
        "alertname": "node-success-rate",
        "severity": "critical",
    }
    firing, ended = body["alerts"]
    assert set(firing) == {
        *("status", "labels", "annotations", "startsAt", "endsAt"),
        *("generatorURL", "fingerprint"),
    }
    assert firing["endsAt"] == "0001-01-01T00:00:00Z"
    assert ended["endsAt"] == "2026-11-25T12:07:00.000Z"


SEEN = Evidence(
    time=NOON - 2,
    node="pay",
    type="TimeoutError",
    message="the *bank*\nsent :fire: to <http://x|y>" + "!" * 400,
    phase="exec",
    outcome="error",
    run="7f3a",
    attempts=3,
)


def test_a_message_shows_the_last_error_in_one_short_line() -> None:
    older = msgspec.structs.replace(SEEN, time=NOON - 9, message="older")
    sent = message(alert(evidence=(SEEN, older)))
    text = formatting.plain_text(sent, NOON)

    (line,) = (line for line in text.splitlines() if "Last error" in line)
    assert line.startswith("  Last error: TimeoutError: the *bank* sent :fire: to")
    assert line.endswith("!…") and len(line) < 320
    (report,) = webhook.native_body(message(alert(evidence=(SEEN,))), NOON)["alerts"]
    assert report["evidence"][0]["message"] == SEEN.message
    # What an alert began with is no news once it is over.
    over = message(resolve_alert(alert(evidence=(SEEN,))))
    assert "Last error" not in formatting.plain_text(over, NOON)


def test_the_texts_of_errors_can_be_left_out() -> None:
    box = outbox({"ops": Policy(error_text=False), "all": Policy()})
    for name in ("ops", "all"):
        put(box, name, NotificationKind.FIRING, alert(evidence=(SEEN,)), NOON)
    bodies = {
        sent.receiver: webhook.native_body(box.notification(sent), NOON)
        for sent in box.messages()
    }

    assert "bank" in json.dumps(bodies["all"])
    assert "bank" not in json.dumps(bodies["ops"])
    assert bodies["ops"]["alerts"][0]["evidence"][0]["type"] == "TimeoutError"


def test_a_message_names_the_other_receivers() -> None:
    policies = {name: Policy(grouped=name != "pd") for name in ("ops", "pd", "none")}
    box = outbox(policies)
    for name in ("ops", "pd"):
        put(box, name, NotificationKind.FIRING, alert(), NOON)
    (to_ops,) = (m for m in box.messages() if m.receiver == "ops")
    (to_pd,) = (m for m in box.messages() if m.receiver == "pd")

    assert box.notification(to_ops).also == ("pd",)
    text = formatting.plain_text(box.notification(to_ops), NOON)
    assert text.endswith("\n\nAlso notified: pd")
    payload = slack.render(box.notification(to_ops), NOON)
    assert "Also notified: pd" in json.dumps(payload)
    event = pagerduty.render(box.notification(to_pd), NOON)
    assert event["payload"]["custom_details"]["also notified"] == "ops"


def test_times_are_also_in_the_zone_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        monkeypatch.setenv("TZ", "UTC-5:30")
        time.tzset()
        text = formatting.plain_text(message(alert()), NOON)
        assert "  Since: 11:59 UTC = 17:29 UTC (2m)" in text
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("success_rate_min", "success_rate_min"),
        ("_pay_", "\u200b_\u200bpay\u200b_\u200b"),
        ("a *b* c", "a \u200b*\u200bb\u200b*\u200b c"),
        ("`x`", "\u200b`\u200bx\u200b`\u200b"),
        (":fire:", ":\u200bfire:"),
        ("12:01:30 UTC", "12:01:30 UTC"),
        ("<http://x|y>", "&lt;http://x|y&gt;"),
    ],
)
def test_names_are_shown_literally_in_slack(name: str, shown: str) -> None:
    assert slack.escape(name, 100) == shown


def test_a_resolve_shows_the_current_and_the_worst_value() -> None:
    ended = resolve_alert(alert(worst=0.612, worst_at=NOON + 60))
    lines = formatting.plain_text(
        message(ended, kind="resolved"), NOON + 361
    ).splitlines()
    assert "  Now: 98.5 %, threshold 95.0 %, clears at 97.0 %" in lines
    assert "  Worst: 61.2 % at 12:02 UTC" in lines
    assert not [line for line in lines if line.startswith(("  Trend", "  Failed"))]
    firing = formatting.plain_text(message(alert(worst=0.8424, worst_at=NOON)), NOON)
    assert "Worst:" not in firing


def test_slacks_fallback_text_summarizes_the_message() -> None:
    default = (
        "checkout / pay: success rate 84.2 %, below 95.0 % (32 of 203 failed in 5m)"
    )
    payload = slack.render(message(alert(summary=default)), NOON + 5)
    assert payload["text"].split("\n") == [
        ":red_circle: *[FIRING] node-success-rate: checkout / pay*",
        "success rate 84.2 %, below 95.0 % (32 of 203 failed in 5m)",
        "since 11:59 UTC (2m 5s)",
    ]
    links, *_ = payload["attachments"][0]["blocks"]
    assert links["text"]["text"].startswith("<https://kaywatch.example/")


def test_links_shared_by_all_alerts_are_shown_once() -> None:
    alerts = [alert(node, silence_url=f"https://k/{node}") for node in ("pay", "ship")]
    payload = slack.render(message(*alerts), NOON + 5)
    shared, first, second = [
        block["text"]["text"] for block in payload["attachments"][0]["blocks"]
    ]
    assert "Dashboard" in shared
    assert "Runbook" in shared
    assert "Silence" not in shared
    for text, node in ((first, "pay"), (second, "ship")):
        assert f"<https://k/{node}|Silence>" in text
        assert "Dashboard" not in text
        assert text.count("\n") == 1


# -- apprise -------------------------------------------------------------------------


# Apprise imports deprecated modules.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_apprise_sends_to_its_services(
    receivers: Receivers, http: HttpClient
) -> None:
    pytest.importorskip("apprise")
    host = receivers.url.removeprefix("http://")
    table = {"type": "apprise", "urls": f"json://{host}/apprise"}

    result = await send(receivers, http, table)
    assert result.outcome is DeliveryOutcome.SENT
    (request,) = receivers.to("/apprise")
    assert request.json["title"] == "[FIRING] node-success-rate: checkout / pay"
    assert request.json["type"] == "failure"

    receivers.answer("/apprise", Reply(500))
    assert (await send(receivers, http, table)).outcome is DeliveryOutcome.RETRY
    wrong = {"type": "apprise", "urls": "nonsense://secret"}
    result = await send(receivers, http, wrong)
    assert result.error == "1 of the URLs are not valid Apprise URLs"


def test_apprise_gets_the_notification_type() -> None:
    assert (
        render_apprise(message(resolve_alert(alert())), NOON)["notify_type"]
        == "success"
    )
    assert (
        render_apprise(message(alert(severity="warning")), NOON)["notify_type"]
        == "warning"
    )


# -- secrets -------------------------------------------------------------------------


async def test_a_secret_file_is_read_at_each_use(
    receivers: Receivers, http: HttpClient, tmp_path: Any
) -> None:
    path = tmp_path / "hook"
    table = {"type": "webhook", "url_file": str(path)}
    receiver = build(parse({"ops": table}), http)["ops"]

    result = await attempt(receiver, message(), NOON)
    assert result.outcome is DeliveryOutcome.RETRY
    assert result.error == (
        f"receiver.ops.url_file: cannot read {path}: no such file or directory"
    )
    path.write_text(receivers.url + "/one\n")
    await receiver.send(message(), NOON)
    path.write_text(receivers.url + "/two\n")
    await receiver.send(message(), NOON)
    assert [r.path for r in receivers.requests] == ["/one", "/two"]


@pytest.mark.parametrize("resolved", [False, True])
def test_a_value_that_the_summary_has_in_words_is_not_repeated(resolved: bool) -> None:
    history = (0.0, 1.0)
    shown = msgspec.structs.replace(alert(), history=history, resolved=resolved)
    assert FIGURES & dict(formatting.facts(shown, NOON)).keys()
    in_words = msgspec.structs.replace(shown, in_words=True)
    rest = dict(formatting.facts(in_words, NOON))
    assert not FIGURES & rest.keys()
    assert rest == {k: v for k, v in formatting.facts(shown, NOON) if k not in FIGURES}
