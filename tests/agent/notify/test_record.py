"""What is said of messages: until when they wait, and what became of them."""

from __future__ import annotations

from tests.agent.notify.alerts import NOON, alert, outbox, over, put
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


def recorded(box: Outbox, now: float) -> list[MessageRecord]:
    """All of them, the oldest first."""
    return list(message_records(box, now))[::-1]


def test_what_gathers_is_sent_when_its_group_is_complete() -> None:
    box = outbox({"chat": CHAT})
    for node in ("pay", "ship"):
        put(box, "chat", FIRING, alert(node), NOON)
    (found,) = recorded(box, NOON + 1)
    assert (found.status, found.due, found.next_attempt) == (
        "pending",
        NOON + 10,
        NOON + 10,
    )
    assert found.group == {"alertname": "node-success-rate", "graph": "checkout"}
    assert [(s.kind, s.resolved, s.episode) for s in found.alerts] == [
        ("firing", False, 1),
        ("firing", False, 1),
    ]
    assert found.expires > NOON + 80_000


def test_what_failed_says_why_and_when_it_is_tried_again() -> None:
    box = outbox({"pager": PAGER})
    put(box, "pager", FIRING, alert(), NOON)
    fail(box, "pager", NOON, no_response("no connection"))
    (found,) = recorded(box, NOON)
    assert (found.attempts, found.code, found.error) == (1, 0, "no connection")
    assert found.next_attempt == found.not_before == NOON + 2


def test_a_pause_of_the_receiver_is_minded() -> None:
    box = outbox({"pager": PAGER})
    put(box, "pager", FIRING, alert("pay"), NOON)
    fail(box, "pager", NOON, LIMITED)
    put(box, "pager", FIRING, alert("ship"), NOON + 1)
    assert [m.next_attempt for m in recorded(box, NOON + 1)] == [NOON + 40] * 2
    assert recorded(box, NOON + 1)[1].not_before == NOON + 1


def test_a_circuit_that_is_open_decides_when_it_is_probed() -> None:
    box = outbox({"pager": PAGER})
    put(box, "pager", FIRING, alert(), NOON)
    now = NOON
    for _ in range(10):
        fail(box, "pager", now, no_response("no connection"))
        now = box.next_due("pager", now) or now
    (found,) = recorded(box, now - 60)
    assert found.next_attempt == box.next_due("pager", now - 60) == now


def test_a_resolve_waits_behind_its_trigger() -> None:
    box = outbox({"pager": PAGER})
    put(box, "pager", FIRING, alert(), NOON)
    fail(box, "pager", NOON, no_response("reset"))
    put(box, "pager", RESOLVED, over(alert()), NOON + 1)
    # It may have been taken, so the incident is closed; its trigger is not sent again.
    trigger, resolve = recorded(box, NOON + 1)
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
    first, second = recorded(chat, NOON + 1)
    assert (first.behind, second.behind) == ("", first.id)


def test_a_message_that_says_both_is_known_as_one_that_fired() -> None:
    box = outbox({"chat": CHAT})
    put(box, "chat", FIRING, alert(), NOON)
    put(box, "chat", RESOLVED, over(alert()), NOON + 5)
    (found,) = recorded(box, NOON + 5)
    (subject,) = found.alerts
    assert (subject.kind, subject.resolved, found.kind) == ("firing", True, "resolved")


def test_one_that_takes_the_place_of_what_may_have_arrived_knows_it_too() -> None:
    box = outbox({"chat": CHAT})
    put(box, "chat", FIRING, alert(), NOON)
    fail(box, "chat", NOON + 10, no_response("reset"))
    put(box, "chat", RESOLVED, over(alert()), NOON + 11)
    before, heir = recorded(box, NOON + 11)
    assert (before.status, before.reason) == ("superseded", "replaced")
    assert (before.alerts[0].kind, before.alerts[0].resolved) == ("firing", False)
    assert (heir.alerts[0].kind, heir.alerts[0].resolved) == ("firing", True)


def test_a_message_that_was_changed_in_place_still_says_how_it_began() -> None:
    box = outbox(bot("update"))
    post_two(box)
    put(box, "bot", RESOLVED, over(alert("pay")), NOON + 5)
    deliver(box, "bot", NOON + 5)
    posted, change = recorded(box, NOON + 6)
    assert [(s.kind, s.resolved) for s in posted.alerts] == [
        ("firing", True),
        ("firing", False),
    ]
    assert (change.thread_root, change.alerts[0].kind) == (posted.id, "resolved")


def test_a_receiver_that_is_disabled_tries_nothing_and_its_fallback_knows() -> None:
    box = outbox({"pager": Policy(grouped=False, fallback="chat"), "chat": CHAT})
    put(box, "pager", FIRING, alert(), NOON)
    fail(box, "pager", NOON, GONE)
    dead, instead = recorded(box, NOON)
    assert (dead.status, dead.reason, dead.code, dead.failed_over) == (
        "dead",
        "gone",
        410,
        True,
    )
    assert (instead.receiver, instead.fallback_for) == ("chat", "pager")
    assert "pager can't be reached" in instead.text
    assert dead.alerts[0].dedup_key == instead.alerts[0].dedup_key


def test_what_is_looked_at_later_is_as_it_was() -> None:
    box = outbox({"pager": PAGER})
    put(box, "pager", FIRING, alert(), NOON)
    found = message_records(box, NOON)
    deliver(box, "pager", NOON)
    assert next(found).status == "pending"
