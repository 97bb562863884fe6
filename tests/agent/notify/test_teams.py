"""Teams gets Adaptive Cards within its limits, whose texts are shown literally."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.agent.notify.alerts import NOON, alert, resolve_alert
from tests.agent.notify.test_receivers import STRANGE, message, send
from tests.receivers import RESET, Receivers, Reply

from kaywatch_agent.model.alerts import Notification
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.notify.receivers import teams
from kaywatch_agent.notify.result import DeliveryOutcome

HOOK = "/workflows/0123/triggers/manual/paths/invoke"
TABLE = {"type": "teams", "webhook_url": HOOK}

# The elements of the card, from schemas/1.4.0 of github.com/microsoft/AdaptiveCards:
# the properties that each must have, and others that it may have.
ELEMENTS = {
    "AdaptiveCard": ({"version", "body", "$schema", "msteams"}, {"actions"}),
    "Container": ({"items"}, {"style", "bleed", "spacing"}),
    "ColumnSet": ({"columns"}, {"spacing"}),
    "Column": ({"width", "items"}, set()),
    "RichTextBlock": ({"inlines"}, {"spacing"}),
    "TextRun": ({"text"}, {"weight", "isSubtle", "size", "selectAction"}),
    "Action.OpenUrl": ({"url"}, {"title"}),
}
VALUES = {
    "style": {"attention", "warning", "accent", "good", "emphasis"},
    "spacing": {"None", "Small"},
    "weight": {"Bolder"},
    "size": {"Large"},
    "isSubtle": {True},
    "bleed": {True},
}


def elements(value: Any) -> Iterator[dict[str, Any]]:
    """Return all elements of a card."""
    if isinstance(value, list):
        for each in value:
            yield from elements(each)
    if isinstance(value, dict):
        if "type" in value:
            yield value
        for each in value.values():
            yield from elements(each)


def card_of(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a payload's card, checked against the schema and Teams' limits."""
    assert set(payload) == {"type", "attachments"} and payload["type"] == "message"
    (attachment,) = payload["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card: dict[str, Any] = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert len(card.get("actions", [])) <= 6
    for element in elements(card):
        required, optional = ELEMENTS[element["type"]]
        assert required <= set(element) - {"type"} <= required | optional
        for name, allowed in VALUES.items():
            assert element.get(name, next(iter(allowed))) in allowed
        if element["type"] == "TextRun":
            assert element["text"] and "{{" not in element["text"]
    assert len(json.dumps(payload, ensure_ascii=False).encode("utf-16-le")) < 28_000
    return card


def texts(card: dict[str, Any]) -> list[str]:
    """Return the lines of a card."""
    return [
        "".join(run["text"] for run in element["inlines"])
        for element in elements(card)
        if element["type"] == "RichTextBlock"
    ]


def test_a_card_shows_the_alert_its_facts_and_its_links() -> None:
    card = card_of(teams.render(message(), NOON + 5))

    assert texts(card) == [
        "FIRING  node-success-rate",
        "checkout / pay",
        "pay: success 84.2 % < 95.0 % (32 of 203 failed in 5m)",
        "since 11:59 UTC (2m 5s)",
        *("Value", "84.2 %, threshold 95.0 %, clears at 97.0 %"),
        *("Failed", "32 of 203 in 5m"),
        *("Errors", "TimeoutError 21, ValueError 9, KeyError 2"),
        *("Worst transition", "pay -> retry: 41 %"),
        *("Trend", "███·▇▅▃▁ 99.0 % → 84.2 %"),
        "critical · episode 1 · worker-3",
    ]
    assert [(each["title"], each["url"]) for each in card["actions"]] == [
        ("Dashboard", "https://kaywatch.example/#/graphs/checkout"),
        ("Runbook", "https://runbooks.example/checkout"),
        ("Silence", "https://kaywatch.example/#/silence/abc"),
    ]


@pytest.mark.parametrize(
    ("notification", "status", "style"),
    [
        (message(alert()), "FIRING", "attention"),
        (message(alert(severity="warning")), "FIRING", "warning"),
        (message(alert(severity="info")), "FIRING", "accent"),
        (message(alert(), kind="repeat"), "STILL FIRING", "attention"),
        (message(alert(), kind="test"), "TEST, FIRING", "attention"),
        (message(resolve_alert(alert())), "RESOLVED", "good"),
        (message(resolve_alert(alert(), reason="no_data")), "NO DATA", "emphasis"),
    ],
)
def test_the_status_comes_first_on_its_colour(
    notification: Notification, status: str, style: str
) -> None:
    card = card_of(teams.render(notification, NOON))

    assert card["body"][0]["style"] == style
    assert texts(card)[0] == f"{status}  node-success-rate"


@pytest.mark.parametrize("count", [1, 2, 10])
def test_a_card_with_long_unusual_texts_is_within_the_limit(count: int) -> None:
    strange = alert(
        STRANGE,
        summary="{{DATE(2026-11-25T12:00:00Z)}}" + STRANGE,
        note="💥" * 5_000,
        host=STRANGE,
        transition=STRANGE,
        error_classes=((STRANGE, 1),) * 3,
        runbook_url="https://x/" + "a" * 5_000,
        silence_url="https://x/" + "b" * 490,
    )
    card = card_of(teams.render(message(*[strange] * count, left_out=490), NOON + 5))

    lines = texts(card)
    assert "Runbook" not in json.dumps(card)
    if count > 1:
        shown = sum(line.startswith("🔴") for line in lines)
        assert lines[-1] == f"+{490 + count - shown} more"
        assert shown


def test_a_card_without_space_for_all_alerts_counts_the_others() -> None:
    urls = [f"https://x/{number}" + "s" * 480 for number in range(10)]
    many = [
        alert(f"n{number}" * 60, silence_url=url, summary="s" * 900)
        for number, url in enumerate(urls)
    ]
    card = card_of(teams.render(message(*many), NOON))

    shown = sum(line.startswith("🔴") for line in texts(card))
    assert 1 < shown < 10
    assert texts(card)[-1] == f"+{10 - shown} more"


def test_links_shared_by_all_alerts_are_buttons_and_others_are_in_the_list() -> None:
    alerts = [alert(node, silence_url=f"https://k/{node}") for node in ("pay", "ship")]
    card = card_of(teams.render(message(*alerts), NOON + 5))

    assert [each["title"] for each in card["actions"]] == ["Dashboard", "Runbook"]
    runs = [each for each in elements(card) if "selectAction" in each]
    assert [(run["text"], run["selectAction"]["url"]) for run in runs] == [
        ("Silence", "https://k/pay"),
        ("Silence", "https://k/ship"),
    ]


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply(202, ""), DeliveryOutcome.SENT),
        (Reply(200, "1"), DeliveryOutcome.SENT),
        (Reply(401, '{"error":{"code":"DirectApi"}}'), DeliveryOutcome.REFUSED),
        (Reply(404, '{"error":{"code":"WorkflowNotFound"}}'), DeliveryOutcome.REFUSED),
        (Reply(429, "", {"Retry-After": "17"}), DeliveryOutcome.RETRY),
        (Reply(502, '{"error":{"code":"NoResponse"}}'), DeliveryOutcome.RETRY),
        (RESET, DeliveryOutcome.RETRY),
    ],
)
async def test_results_of_a_workflows_responses(
    receivers: Receivers, http: HttpClient, reply: Reply, outcome: DeliveryOutcome
) -> None:
    receivers.answer(HOOK, reply)
    result = await send(receivers, http, {**TABLE})

    assert result.outcome is outcome
    assert result.after == (17.0 if reply.status == 429 else None)
    assert HOOK not in result.error
    card_of(receivers.requests[0].json)


@pytest.mark.parametrize("status", [400, 413])
async def test_a_rejected_card_is_sent_again_without_details(
    receivers: Receivers, http: HttpClient, status: int
) -> None:
    receivers.answer(HOOK, Reply(status, "no"))
    result = await send(receivers, http, {**TABLE})

    assert result.outcome is DeliveryOutcome.SENT
    first, second = [card_of(request.json) for request in receivers.requests]
    assert second["body"] == first["body"][:1]
    assert "actions" not in second
