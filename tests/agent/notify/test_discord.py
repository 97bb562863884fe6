"""Discord gets messages within its limits, which mention nobody; it updates them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.agent.notify.alerts import NOON, alert, resolve_alert
from tests.agent.notify.test_receivers import STRANGE, message, send
from tests.agent.notify.test_worker import run_worker, until
from tests.receivers import RESET, Receivers, Reply

from kaywatch_agent.model.alerts import MessageStatus, Notification, NotificationKind
from kaywatch_agent.notify import appearance
from kaywatch_agent.notify.config import parse
from kaywatch_agent.notify.http import HttpClient, Response
from kaywatch_agent.notify.receivers import build, discord
from kaywatch_agent.notify.result import DeliveryOutcome
from kaywatch_agent.notify.truncation import utf16_length

HOOK = "/api/webhooks/1234/very-secret-token"
TABLE = {"type": "discord", "webhook_url": HOOK}


def embed_of(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a payload's embed, checked against Discord's limits."""
    assert set(payload) == {"content", "embeds", "allowed_mentions"}
    assert payload["allowed_mentions"] == {"parse": []}
    assert 0 < utf16_length(payload["content"]) <= 2_000
    (embed,) = payload["embeds"]
    assert 0 <= embed["color"] <= 0xFFFFFF
    fields = embed.get("fields", [])
    texts = [embed["description"], embed.get("footer", {}).get("text", "")]
    assert 0 < utf16_length(texts[0]) <= 4_096
    assert utf16_length(texts[1]) <= 2_048
    assert len(fields) <= 25
    for field in fields:
        assert set(field) == {"name", "value", "inline"}
        assert 0 < utf16_length(field["name"]) <= 256
        assert 0 < utf16_length(field["value"]) <= 1_024
        texts += [field["name"], field["value"]]
    assert sum(map(utf16_length, texts)) <= 6_000
    return dict(embed)


def test_a_message_shows_the_alert_its_facts_and_its_links() -> None:
    payload = discord.render(message(), NOON + 5)
    embed = embed_of(payload)

    assert payload["content"] == "🔴 **[FIRING] node-success-rate: checkout / pay**"
    condition, times, links = embed["description"].split("\n")
    assert condition == r"pay: success 84.2 % \< 95.0 % (32 of 203 failed in 5m)"
    assert times == "since 11:59 UTC (2m 5s)"
    assert links.split(" · ") == [
        "[Dashboard](<https://kaywatch.example/#/graphs/checkout>)",
        "[Runbook](<https://runbooks.example/checkout>)",
        "[Silence](<https://kaywatch.example/#/silence/abc>)",
    ]
    assert {field["name"]: field["value"] for field in embed["fields"]} == {
        "Value": "84.2 %, threshold 95.0 %, clears at 97.0 %",
        "Failed": "32 of 203 in 5m",
        "Errors": "TimeoutError 21, ValueError 9, KeyError 2",
        "Worst transition": "pay -> retry: 41 %",
        "Trend": "███·▇▅▃▁ 99.0 % → 84.2 %",
    }
    assert embed["footer"] == {"text": "critical · episode 1 · worker-3"}
    assert embed["timestamp"] == "2026-11-25T12:01:00.000Z"


@pytest.mark.parametrize(
    ("notification", "beginning", "colour"),
    [
        (message(alert()), "🔴 **[FIRING]", appearance.RED),
        (message(alert(severity="warning")), "🟠 **[FIRING]", appearance.ORANGE),
        (message(alert(severity="info")), "🔵 **[FIRING]", appearance.BLUE),
        (message(alert(), kind="repeat"), "🔴 **[STILL FIRING]", appearance.RED),
        (message(alert(), kind="test"), "🔴 **[TEST, FIRING]", appearance.RED),
        (message(resolve_alert(alert())), "✅ **[RESOLVED]", appearance.GREEN),
        (
            message(resolve_alert(alert(), reason="no_data")),
            "⚪ **[NO DATA]",
            appearance.GREY,
        ),
    ],
)
def test_the_status_comes_first_and_has_a_colour(
    notification: Notification, beginning: str, colour: str
) -> None:
    payload = discord.render(notification, NOON)

    assert payload["content"].startswith(beginning)
    assert f"#{embed_of(payload)['color']:06x}" == colour


@pytest.mark.parametrize("count", [1, 2, 10])
def test_a_message_with_long_unusual_texts_is_within_the_limits(count: int) -> None:
    strange = alert(
        STRANGE,
        summary=STRANGE,
        note="💥" * 5_000,
        host=STRANGE,
        transition=STRANGE,
        error_classes=((STRANGE, 1),) * 3,
        runbook_url="https://x/" + "a" * 5_000,
        silence_url="https://x/" + "*" * 400,
    )
    payload = discord.render(message(*[strange] * count, left_out=490), NOON + 5)

    embed = embed_of(payload)
    assert "Runbook" not in json.dumps(payload)
    if count > 1:
        shown = embed["description"].count("🔴")
        assert embed["footer"]["text"] == f"+{490 + count - shown} more"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("success_rate_min", "success_rate_min"),
        ("_pay_", r"\_pay\_"),
        ("a *b* ~~c~~ `d` ||e||", r"a \*b\* \~\~c\~\~ \`d\` \|\|e\|\|"),
        ("@everyone <@1> <#2> <:x:3>", r"\@everyone \<\@1> \<#2> \<\:x:3>"),
        (":fire: 12:01:30 UTC", r"\:fire: 12:01:30 UTC"),
        ("[a](https://x)", r"\[a](https\://x)"),
        ("[a] (b)", "[a] (b)"),
        (r"\*", r"\\\*"),
        ("# a", r"\# a"),
        ("- a", r"\- a"),
        ("1. a", r"1\. a"),
        ("84.2 %", "84.2 %"),
        ("> a -> b", r"\> a -> b"),
        ("a\n# b", "a # b"),
    ],
)
def test_names_are_shown_literally(name: str, shown: str) -> None:
    assert discord.escape(name, 100) == shown


@pytest.mark.parametrize("limit", range(1, 14))
def test_a_text_is_not_cut_within_an_escape(limit: int) -> None:
    result = discord.escape("a*💥`b*", limit)

    assert utf16_length(result) <= limit
    assert not result.removesuffix("…").endswith("\\")


@pytest.mark.parametrize(
    ("url", "message_id", "expected"),
    [
        ("https://discord.com/api/webhooks/1/t", "", "/1/t?wait=true"),
        ("https://discord.com/api/webhooks/1/t/", "9", "/1/t/messages/9"),
        ("https://discord.com/api/webhooks/1/t/slack", "", "/1/t?wait=true"),
        (
            "https://discord.com/api/webhooks/1/t?thread_id=5&wait=false",
            "",
            "/1/t?thread_id=5&wait=true",
        ),
        (
            "https://discord.com/api/webhooks/1/t?thread_id=5",
            "9",
            "/1/t/messages/9?thread_id=5",
        ),
    ],
)
def test_a_url_may_be_pasted_in_any_of_its_forms(
    url: str, message_id: str, expected: str
) -> None:
    result = discord.message_url(url, message_id)
    assert result == f"https://discord.com/api/webhooks{expected}"


@pytest.mark.parametrize(
    ("reply", "outcome", "after"),
    [
        (Reply(200, '{"id":"77"}'), DeliveryOutcome.SENT, None),
        (Reply(204, ""), DeliveryOutcome.SENT, None),
        (Reply(200, '{"id":'), DeliveryOutcome.SENT, None),
        (
            Reply(
                429,
                '{"message":"You are being rate limited.","retry_after":1.337,'
                '"global":false}',
                {"Retry-After": "2"},
            ),
            DeliveryOutcome.RETRY,
            1.337,
        ),
        (Reply(429, "<html>", {"Retry-After": "60"}), DeliveryOutcome.RETRY, 60.0),
        (Reply(429, '{"retry_after":1e9}'), DeliveryOutcome.RETRY, 3600.0),
        (
            Reply(404, '{"message":"Unknown Webhook","code":10015}'),
            DeliveryOutcome.REFUSED,
            None,
        ),
        (
            Reply(401, '{"message":"Invalid","code":50027}'),
            DeliveryOutcome.REFUSED,
            None,
        ),
        (Reply(400, '{"embeds":["0"]}'), DeliveryOutcome.REFUSED, None),
        (Reply(502, "<html>"), DeliveryOutcome.RETRY, None),
        (RESET, DeliveryOutcome.RETRY, None),
    ],
)
async def test_results_of_discords_responses(
    receivers: Receivers,
    http: HttpClient,
    reply: Reply,
    outcome: DeliveryOutcome,
    after: float | None,
) -> None:
    receivers.answer(HOOK, reply)
    result = await send(receivers, http, {**TABLE})

    assert (result.outcome, result.after) == (outcome, after)
    assert result.pause == (reply.status == 429)
    assert "very-secret-token" not in result.error
    (request,) = receivers.requests
    assert (request.method, request.query) == ("POST", "wait=true")
    embed_of(request.json)


def test_the_time_to_wait_may_be_unusual() -> None:
    for value, after in (("-1", 0.0), ('"1"', 3.0), ("null", 3.0), ("1e999", 3.0)):
        body = f'{{"retry_after":{value}}}'.encode()
        result = discord.judge(Response(429, {"Retry-After": "3"}, body), NOON)
        assert result.after == after


async def test_a_resolve_updates_the_message_and_a_repeat_is_a_new_one(
    receivers: Receivers,
) -> None:
    table = {**TABLE, "webhook_url": receivers.url + HOOK, "timeout": "60s"}
    async with run_worker(receivers, ops=table) as run:
        run.put("ops", NotificationKind.FIRING, alert())
        await until(lambda: run.count(MessageStatus.SENT) == 1)
        run.put("ops", NotificationKind.REPEAT, alert())
        await until(lambda: run.count(MessageStatus.SENT) == 2)
        run.put("ops", NotificationKind.RESOLVED, resolve_alert(alert()))
        await until(lambda: run.count(MessageStatus.SENT) == 3)

    first, repeat, end = receivers.requests
    assert (first.method, repeat.method, end.method) == ("POST", "POST", "PATCH")
    assert end.path == f"{HOOK}/messages/123456789012340001"
    assert end.json["content"].startswith("✅ **[RESOLVED]")


async def test_a_deleted_message_is_posted_again(
    receivers: Receivers, http: HttpClient
) -> None:
    receivers.answer(
        f"{HOOK}/messages/9", Reply(404, '{"message":"Unknown Message","code":10008}')
    )
    over = message(resolve_alert(alert()), kind="resolved", ref="9", update=True)
    result = await send(receivers, http, {**TABLE}, over)

    assert result.outcome is DeliveryOutcome.SENT
    assert result.ref == "123456789012340001"
    assert [request.method for request in receivers.requests] == ["PATCH", "POST"]


def test_a_resolve_is_a_new_message_on_request(http: HttpClient) -> None:
    configs = parse({"ops": {**TABLE, "mode": "post"}})
    assert configs["ops"].follow_up == "post"
    assert parse({"ops": TABLE})["ops"].follow_up == "update"
    assert build(configs, http)["ops"].render(message(), NOON)["embeds"]
