"""Message records: the next attempt, and the status."""

from __future__ import annotations

from tests.agent.notify.alerts import NOON, alert, outbox, put, resolve_alert
from tests.agent.notify.test_outbox import (
    CHAT,
    FAST,
    FIRING,
    GONE,
    LIMITED,
    PAGER,
    RESOLVED,
    bot,
    deliver,
    fail,
    post_two,
)

from kaywatch_agent.model.alerts import MessageRecord
from kaywatch_agent.notify.outbox import Outbox
from kaywatch_agent.notify.outbox_view import message_records
from kaywatch_agent.notify.policy import Policy
from kaywatch_agent.notify.result import no_response


def read_records(box: Outbox, now: float) -> list[MessageRecord]:
    """Return all records, oldest first."""
    return list(message_records(box, now))[::-1]


def test_the_next_attempt_of_a_new_message_is_after_group_wait() -> None:
    box = outbox({"chat": CHAT})
    for node in ("pay", "ship"):
        put(box, "chat", FIRING, alert(node), NOON)
    (result,) = read_records(box, NOON + 1)
    assert (result.status, result.due, result.next_attempt) == (
        "pending",
        NOON + 10,
        NOON + 10,
    )
    assert result.group == {"alertname": "node-success-rate", "graph": "checkout"}
    assert [(s.kind, s.resolved, s.episode) for s in result.alerts] == [
        ("firing", False, 1),
        ("firing", False, 1),
    ]
    assert result.expires > NOON + 80_000


def test_a_failed_message_shows_its_error_and_next_attempt() -> None:
    box = outbox({"pager": PAGER})
    put(box, "pager", FIRING, alert(), NOON)
    fail(box, "pager", NOON, no_response("no connection"))
    (result,) = read_records(box, NOON)
    assert (result.attempts, result.code, result.error) == (1, 0, "no connection")
    assert result.next_attempt == result.not_before == NOON + 2


def test_the_next_attempt_allows_for_a_paused_receiver() -> None:
    box = outbox({"pager": PAGER})
    put(box, "pager", FIRING, alert("pay"), NOON)
    fail(box, "pager", NOON, LIMITED)
    put(box, "pager", FIRING, alert("ship"), NOON + 1)
    assert [m.next_attempt for m in read_records(box, NOON + 1)] == [NOON + 40] * 2
    assert read_records(box, NOON + 1)[1].not_before == NOON + 1


def test_the_next_attempt_with_an_open_circuit_is_the_probe() -> None:
    box = outbox({"pager": PAGER})
    put(box, "pager", FIRING, alert(), NOON)
    now = NOON
    for _ in range(10):
        fail(box, "pager", now, no_response("no connection"))
        now = box.next_due("pager", now) or now
    (result,) = read_records(box, now - 60)
    assert result.next_attempt == box.next_due("pager", now - 60) == now


def test_a_message_shows_which_one_is_sent_before_it() -> None:
    box = outbox({"pager": PAGER})
    put(box, "pager", FIRING, alert(), NOON)
    fail(box, "pager", NOON, no_response("reset"))
    put(box, "pager", RESOLVED, resolve_alert(alert()), NOON + 1)
    # The trigger may have arrived: the incident is closed, the trigger is not resent.
    trigger, resolve = read_records(box, NOON + 1)
    assert (trigger.status, trigger.reason, trigger.next_attempt) == (
        "superseded",
        "resolved",
        None,
    )
    assert (resolve.status, resolve.behind) == ("pending", "")

    chat = outbox({"chat": Policy(rate=FAST, group_wait=0.0, group_interval=0.0)})
    put(chat, "chat", FIRING, alert(), NOON)
    fail(chat, "chat", NOON, no_response("reset"))
    put(chat, "chat", FIRING, alert("ship"), NOON + 1)
    first, second = read_records(chat, NOON + 1)
    assert (first.behind, second.behind) == ("", first.id)


def test_a_merged_message_keeps_its_original_kind() -> None:
    box = outbox({"chat": CHAT})
    put(box, "chat", FIRING, alert(), NOON)
    put(box, "chat", RESOLVED, resolve_alert(alert()), NOON + 5)
    (result,) = read_records(box, NOON + 5)
    (subject,) = result.alerts
    assert (subject.kind, subject.resolved, result.kind) == ("firing", True, "resolved")


def test_a_replacing_message_keeps_its_original_kind() -> None:
    box = outbox({"chat": CHAT})
    put(box, "chat", FIRING, alert(), NOON)
    fail(box, "chat", NOON + 10, no_response("reset"))
    put(box, "chat", RESOLVED, resolve_alert(alert()), NOON + 11)
    before, heir = read_records(box, NOON + 11)
    assert (before.status, before.reason) == ("superseded", "replaced")
    assert (before.alerts[0].kind, before.alerts[0].resolved) == ("firing", False)
    assert (heir.alerts[0].kind, heir.alerts[0].resolved) == ("firing", True)


def test_an_updated_message_keeps_its_original_kind() -> None:
    box = outbox(bot("update"))
    post_two(box)
    put(box, "bot", RESOLVED, resolve_alert(alert("pay")), NOON + 5)
    deliver(box, "bot", NOON + 5)
    posted, change = read_records(box, NOON + 6)
    assert [(s.kind, s.resolved) for s in posted.alerts] == [
        ("firing", True),
        ("firing", False),
    ]
    assert (change.thread_root, change.alerts[0].kind) == (posted.id, "resolved")


def test_records_of_a_disabled_receiver_show_the_failover() -> None:
    box = outbox({"pager": Policy(grouped=False, fallback="chat"), "chat": CHAT})
    put(box, "pager", FIRING, alert(), NOON)
    fail(box, "pager", NOON, GONE)
    dead, instead = read_records(box, NOON)
    assert (dead.status, dead.reason, dead.code, dead.failed_over) == (
        "dead",
        "gone",
        410,
        True,
    )
    assert (instead.receiver, instead.fallback_for) == ("chat", "pager")
    assert "pager can't be reached" in instead.text
    assert dead.alerts[0].dedup_key == instead.alerts[0].dedup_key


def test_records_are_a_snapshot() -> None:
    box = outbox({"pager": PAGER})
    put(box, "pager", FIRING, alert(), NOON)
    result = message_records(box, NOON)
    deliver(box, "pager", NOON)
    assert next(result).status == "pending"
