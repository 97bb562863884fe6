"""A simulation turns stimuli into the messages that receivers would get."""

from __future__ import annotations

from typing import Any

from tests.agent.simulation.cases import (
    BOT,
    HOOK,
    PAGER,
    SLACK,
    failing_executions,
    rule,
    run_case,
)

from kaywatch_agent.simulation.run_test import CaseResult

NODES = [f"node-{n:02}" for n in range(12)]


ORANGE, OVER = ":large_orange_circle:", ":white_check_mark:"


def summarize_messages(result: CaseResult) -> list[tuple[float, str, str, int]]:
    """When who was sent what about how many alerts."""
    return [
        (
            round(message.time - result.case.start.timestamp(), 3),
            message.notification.receiver,
            str(message.notification.kind),
            message.size,
        )
        for message in result.simulation.delivery.messages
    ]


def bodies(result: CaseResult) -> list[Any]:
    return [
        result.simulation.delivery.render(message)
        for message in result.simulation.delivery.messages
    ]


def test_a_storm_is_one_message() -> None:
    result = run_case(
        rule(), executions=failing_executions(*NODES, **{"from": "20s"}), length="1m"
    )

    assert summarize_messages(result) == [(30, "ops", "firing", 12)]
    (body,) = bodies(result)
    assert body["text"] == f"{ORANGE} *[FIRING: 10 (+2 more)] fails: shop*"
    blocks = body["attachments"][0]["blocks"]
    assert len(blocks) == 11
    assert blocks[-1]["elements"] == [{"type": "mrkdwn", "text": "+2 more"}]


def test_a_pager_gets_an_event_for_each_alert_of_a_storm() -> None:
    result = run_case(
        rule(),
        receivers={"pager": PAGER},
        executions=failing_executions(*NODES, **{"from": "20s"}),
        length="1m",
    )

    assert summarize_messages(result) == [(20, "pager", "firing", 1)] * 12
    assert {body["payload"]["component"] for body in bodies(result)} == set(NODES)


def test_a_trigger_and_its_resolve_have_the_same_key() -> None:
    result = run_case(
        rule(),
        receivers={"pager": PAGER},
        executions=[
            *failing_executions("pay", **{"from": "20s", "to": "1m"}),
            *failing_executions("pay", errors=0, **{"from": "1m"}),
        ],
        length="2m",
    )
    trigger, resolve = bodies(result)

    assert [m[2] for m in summarize_messages(result)] == ["firing", "resolved"]
    assert (trigger["event_action"], resolve["event_action"]) == ("trigger", "resolve")
    assert trigger["dedup_key"] == resolve["dedup_key"]
    assert resolve["payload"]["timestamp"] == "2026-12-01T00:00:20.000Z"
    assert "routing_key" not in trigger


def test_an_alert_firing_within_a_cooldown_is_notified_at_its_end() -> None:
    again = {
        "executions": [
            *failing_executions("pay", **{"from": "1m", "to": "2m"}),
            *failing_executions("pay", errors=0, **{"from": "2m", "to": "4m"}),
            *failing_executions("pay", **{"from": "4m"}),
        ],
        "length": "15m",
    }
    result = run_case(rule(cooldown="10m"), **again)

    assert summarize_messages(result) == [
        (60, "ops", "firing", 1),
        (120, "ops", "resolved", 1),
        (660, "ops", "firing", 1),  # ten minutes after the first
    ]
    assert result.simulation.suppressed["cooldown"] == 1
    short = run_case(rule(cooldown="0"), **again)
    assert summarize_messages(short)[2] == (250, "ops", "firing", 1)


def test_a_firing_alert_is_notified_again() -> None:
    result = run_case(
        rule(repeat_interval="5m"), executions=failing_executions("pay"), length="12m"
    )

    assert summarize_messages(result) == [
        (0, "ops", "firing", 1),
        (300, "ops", "repeat", 1),
        (600, "ops", "repeat", 1),
    ]
    title = f"{ORANGE} *[STILL FIRING] fails: app / shop / pay*"
    assert bodies(result)[1]["text"].startswith(title)


def test_a_later_alert_waits_for_the_interval_of_its_group() -> None:
    result = run_case(
        rule(),
        executions=[
            *failing_executions("healthy", errors=0),
            *failing_executions("pay", **{"from": "20s"}),
            *failing_executions("ship", **{"from": "40s"}),
            *failing_executions("mail", **{"from": "50s"}),
        ],
        alerting={"group_wait": "5s", "group_interval": "3m"},
        length="5m",
    )

    assert summarize_messages(result) == [
        (25, "ops", "firing", 1),
        (205, "ops", "firing", 2),
    ]


def test_an_alert_within_an_outage_is_one_late_message() -> None:
    result = run_case(
        rule(),
        executions=[
            *failing_executions("pay", **{"from": "1m", "to": "3m"}),
            *failing_executions("pay", errors=0, **{"from": "3m"}),
        ],
        receivers={"ops": SLACK, "pager": PAGER},
        outage=[
            {"receiver": name, "from": "30s", "to": "8m"} for name in ("ops", "pager")
        ],
        length="15m",
    )

    ((at, *what),) = summarize_messages(result)
    # The pager opens no incident for a resolved alert.
    assert what == ["ops", "resolved", 1]
    assert at == 60 + sum((2, 4, 8, 16, 32, 64, 128, 256))  # each wait the longest
    (body,) = bodies(result)
    text = f"{OVER} *[RESOLVED] fails: app / shop / pay*\n_delayed "
    assert body["text"].startswith(text)


def test_a_fallback_is_notified_while_a_receiver_is_down() -> None:
    result = run_case(
        rule(),
        executions=failing_executions("pay"),
        receivers={"pager": {**PAGER, "fallback": "ops"}, "ops": SLACK},
        outage=[{"receiver": "pager", "to": "1h"}],
        length="20m",
    )
    texts = [body["text"] for body in bodies(result)]

    assert [m[1:] for m in summarize_messages(result)] == [("ops", "firing", 1)] * 2
    assert not any("can't be reached" in text for text in texts[:1])
    assert "Sent here because pager can't be reached (no connection)" in texts[1]


def test_a_bot_changes_its_message_when_all_is_over() -> None:
    result = run_case(
        rule(),
        executions=[
            *failing_executions("pay", to="1m"),
            *failing_executions("pay", errors=0, **{"from": "1m"}),
        ],
        receivers={"ops": BOT},
        length="2m",
    )
    posted, changed = bodies(result)

    assert posted["channel"] == changed["channel"] == "#alerts"
    assert "ts" not in posted
    assert changed["ts"] == f"{result.case.start.timestamp():.6f}"
    assert changed["text"].startswith(f"{OVER} *[RESOLVED]")


def test_alertmanager_gets_all_firing_alerts_on_each_change() -> None:
    result = run_case(
        rule(labels={"team": "shop"}),
        executions=[
            *failing_executions("pay", to="2m"),
            *failing_executions("pay", errors=0, **{"from": "2m"}),
            *failing_executions("ship", **{"from": "1m"}),
        ],
        receivers={"am": {"type": "alertmanager", "urls": ["http://127.0.0.1:9093"]}},
        length="3m",
    )

    assert [m[:3] for m in summarize_messages(result)] == [
        (0, "am", "firing"),
        (60, "am", "firing"),
        (120, "am", "resolved"),
    ]
    last = {alert["labels"]["node"]: alert for alert in bodies(result)[-1]}
    assert last["pay"]["labels"]["team"] == "shop"
    assert last["pay"]["endsAt"] == "2026-12-01T00:02:00.000Z"
    assert last["ship"]["endsAt"] == "2026-12-01T00:06:00.000Z"  # four intervals on


def test_a_receiver_s_severity_and_rate_limit_apply() -> None:
    result = run_case(
        rule(name="loud", severity="critical", per=["node"]),
        rule(name="faint", severity="info"),
        executions=failing_executions("pay", "ship"),
        receivers={"hook": {**HOOK, "min_severity": "error", "rate": "1/m"}},
        alerting={"group_by": ["alertname", "node"]},
        length="3m",
    )

    assert summarize_messages(result) == [
        (0, "hook", "firing", 1),
        (60, "hook", "firing", 1),
    ]
    assert {body["alerts"][0]["rule"] for body in bodies(result)} == {"loud"}


def test_the_same_happenings_lead_to_the_same_bytes() -> None:
    happens: dict[str, Any] = {
        "executions": failing_executions("pay", "ship"),
        "length": "10m",
    }
    receivers = {"hook": HOOK, "pager": PAGER}
    first, second = (run_case(rule(), receivers=receivers, **happens) for _ in "ab")

    assert bodies(first) == bodies(second)
    assert len({body["id"] for body in bodies(first) if "id" in body}) == 1
