"""Which messages are sent to which receiver, in which order, and how they end."""

from __future__ import annotations

from collections.abc import Iterator

from tests.agent.notify.alerts import (
    NOON,
    Disk,
    alert,
    entries_of,
    outbox,
    put,
    resolve_alert,
)

from kaywatch_agent.model.alerts import (
    MessageEndReason,
    MessageStatus,
    NotificationKind,
    NotificationRequest,
)
from kaywatch_agent.notify.config import NotifyConfig, parse
from kaywatch_agent.notify.delivery import Delivery
from kaywatch_agent.notify.enqueue import EnqueueResult, enqueue
from kaywatch_agent.notify.message import MessageIds, OutboxMessage
from kaywatch_agent.notify.outbox import MAX_PENDING, Outbox
from kaywatch_agent.notify.policy import Policy, SendRate
from kaywatch_agent.notify.result import (
    DeliveryOutcome,
    DeliveryResult,
    no_response,
    sent,
)
from kaywatch_agent.notify.store import DEAD_KEPT, DONE_KEPT
from kaywatch_agent.rules.rule import Grouping

FIRING, REPEAT, RESOLVED, TEST, SUMMARY = (
    NotificationKind.FIRING,
    NotificationKind.REPEAT,
    NotificationKind.RESOLVED,
    NotificationKind.TEST,
    NotificationKind.SUMMARY,
)
FAST = SendRate(100_000, 1.0)
CHAT = Policy(rate=FAST)
PAGER = Policy(grouped=False, rate=FAST)

LIMITED = DeliveryResult(
    DeliveryOutcome.RETRY, 429, "HTTP 429", after=40, pause=True, undelivered=True
)
REFUSED = DeliveryResult(DeliveryOutcome.DEAD, 400, "HTTP 400", undelivered=True)
GONE = DeliveryResult(DeliveryOutcome.GONE, 410, "HTTP 410", undelivered=True)


def ready(outbox: Outbox) -> Outbox:
    Disk().commit(outbox)
    return outbox


def take(outbox: Outbox, receiver: str, now: float) -> OutboxMessage:
    ready(outbox)
    message = outbox.claim(receiver, now)
    assert message is not None
    return message


def deliver(outbox: Outbox, receiver: str, now: float) -> OutboxMessage:
    message = take(outbox, receiver, now)
    outbox.finish(message.id, sent(), now)
    return message


def fail(
    outbox: Outbox, receiver: str, now: float, result: DeliveryResult
) -> OutboxMessage:
    message = take(outbox, receiver, now)
    outbox.finish(message.id, result, now)
    return message


# -- grouping ------------------------------------------------------------------------


def test_alerts_of_a_group_share_a_message_after_group_wait() -> None:
    box = outbox({"ops": CHAT})

    assert put(box, "ops", FIRING, alert("pay"), NOON) is EnqueueResult.QUEUED
    assert put(box, "ops", FIRING, alert("ship"), NOON + 9) is EnqueueResult.JOINED
    assert (
        put(box, "ops", FIRING, alert("load", graph="etl"), NOON + 9)
        is EnqueueResult.QUEUED
    )

    ready(box)
    assert box.claim("ops", NOON + 9.9) is None
    assert box.next_due("ops", NOON) == NOON + 10
    message = take(box, "ops", NOON + 10)
    assert entries_of(message) == [("firing", "pay"), ("firing", "ship")]
    assert message.group == {"alertname": "node-success-rate", "graph": "checkout"}


def test_an_alert_that_no_other_can_join_does_not_wait() -> None:
    box = outbox({"ops": CHAT})
    request = NotificationRequest("ops", FIRING, alert("pay"), is_alone=True)
    assert box.enqueue(request, NOON) is EnqueueResult.QUEUED
    ready(box)
    assert box.next_due("ops", NOON) == NOON
    deliver(box, "ops", NOON)

    # A second message still comes after the interval.
    box.enqueue(request._replace(alert=alert("ship")), NOON + 5)
    ready(box)
    assert box.next_due("ops", NOON + 5) == NOON + 60


def test_a_fallback_does_not_wait_either() -> None:
    policies = {"ops": Policy(rate=FAST, fallback="mail"), "mail": CHAT}
    box = outbox(policies)
    request = NotificationRequest("ops", FIRING, alert("pay"), is_alone=True)
    box.enqueue(request, NOON)
    fail(box, "ops", NOON, GONE)
    box.enqueue(request._replace(alert=alert("ship")), NOON)
    ready(box)
    assert box.next_due("mail", NOON) is not None


def test_a_groups_next_message_is_due_after_group_interval() -> None:
    box = outbox({"ops": CHAT})
    put(box, "ops", FIRING, alert("pay"), NOON)
    deliver(box, "ops", NOON + 10)

    put(box, "ops", FIRING, alert("ship"), NOON + 15)
    ready(box)
    assert box.next_due("ops", NOON + 15) == NOON + 70
    deliver(box, "ops", NOON + 70)

    put(box, "ops", FIRING, alert("load"), NOON + 1000)
    ready(box)
    assert box.next_due("ops", NOON + 1000) == NOON + 1010


def test_without_group_wait_the_alerts_of_a_tick_share_a_message() -> None:
    box = outbox({"ops": Policy(rate=FAST, group_wait=0.0)})
    for n in range(20):
        put(box, "ops", FIRING, alert(f"n{n}"), NOON)

    assert len(take(box, "ops", NOON).entries) == 20


def test_an_ungrouped_receiver_gets_one_message_per_alert_immediately() -> None:
    box = outbox({"pd": PAGER})
    put(box, "pd", FIRING, alert("pay"), NOON)
    put(box, "pd", FIRING, alert("ship"), NOON)

    assert entries_of(deliver(box, "pd", NOON)) == [("firing", "pay")]
    assert entries_of(deliver(box, "pd", NOON)) == [("firing", "ship")]


def test_an_alert_does_not_join_a_message_that_may_have_arrived() -> None:
    box = outbox({"ops": CHAT}, random=0.0)
    put(box, "ops", FIRING, alert("pay"), NOON)
    message = take(box, "ops", NOON + 10)
    assert put(box, "ops", FIRING, alert("ship"), NOON + 10) is EnqueueResult.QUEUED
    box.finish(message.id, no_response("timeout"), NOON + 11)

    assert put(box, "ops", FIRING, alert("load"), NOON + 12) is EnqueueResult.JOINED
    assert entries_of(deliver(box, "ops", NOON + 12)) == [("firing", "pay")]
    assert entries_of(deliver(box, "ops", NOON + 70)) == [
        ("firing", "ship"),
        ("firing", "load"),
    ]


def test_a_message_shows_the_most_severe_alerts_and_counts_the_others() -> None:
    box = outbox({"ops": CHAT})
    for n in range(500):
        severity = "critical" if n == 321 else "warning"
        put(box, "ops", FIRING, alert(f"n{n}", severity=severity), NOON)

    notification = take(box, "ops", NOON + 10).notification(10)
    assert len(notification.alerts) == 10
    assert notification.left_out == 490
    assert notification.alerts[0].labels["node"] == "n321"


# -- triggers and resolves -----------------------------------------------------------


def test_a_resolve_is_merged_into_its_pending_trigger() -> None:
    box = outbox({"ops": CHAT})
    put(box, "ops", FIRING, alert(), NOON)

    assert (
        put(box, "ops", RESOLVED, resolve_alert(alert()), NOON + 5)
        is EnqueueResult.COMBINED
    )
    message = deliver(box, "ops", NOON + 10)
    assert entries_of(message) == [("resolved", "pay")]
    assert message.kind is RESOLVED
    assert box.claim("ops", NOON + 1000) is None


def test_a_resolve_gets_a_new_id_if_its_trigger_may_have_arrived() -> None:
    box = outbox({"ops": CHAT}, random=1.0)
    put(box, "ops", FIRING, alert(), NOON)
    first = fail(box, "ops", NOON + 10, no_response("timeout"))

    assert (
        put(box, "ops", RESOLVED, resolve_alert(alert()), NOON + 11)
        is EnqueueResult.COMBINED
    )
    second = deliver(box, "ops", NOON + 12)
    assert entries_of(second) == [("resolved", "pay")]
    assert second.id > first.id
    assert [r.reason for r in box.messages(statuses=(MessageStatus.SUPERSEDED,))] == [
        MessageEndReason.REPLACED
    ]


def test_a_resolve_keeps_the_triggers_id_after_a_429() -> None:
    box = outbox({"ops": CHAT})
    put(box, "ops", FIRING, alert(), NOON)
    first = fail(box, "ops", NOON + 10, LIMITED)
    put(box, "ops", RESOLVED, resolve_alert(alert()), NOON + 20)

    ready(box)
    assert box.claim("ops", NOON + 49) is None
    assert deliver(box, "ops", NOON + 50).id == first.id


def test_an_alert_that_ends_before_its_page_is_sent_is_not_paged() -> None:
    box = outbox({"pd": PAGER})
    put(box, "pd", FIRING, alert(), NOON)

    assert (
        put(box, "pd", RESOLVED, resolve_alert(alert()), NOON)
        is EnqueueResult.SUPERSEDED
    )
    assert ready(box).claim("pd", NOON + 1) is None
    count = box.metrics.ended.labels("pd", "firing", "superseded").value
    assert count == 1


def test_a_page_that_may_have_arrived_is_resolved() -> None:
    box = outbox({"pd": PAGER})
    put(box, "pd", FIRING, alert(), NOON)
    fail(box, "pd", NOON, no_response("timeout"))

    assert (
        put(box, "pd", RESOLVED, resolve_alert(alert()), NOON + 1)
        is EnqueueResult.QUEUED
    )
    assert entries_of(deliver(box, "pd", NOON + 1)) == [("resolved", "pay")]


def test_a_resolve_is_sent_although_its_trigger_is_dead() -> None:
    box = outbox({"pd": PAGER})
    put(box, "pd", FIRING, alert(), NOON)
    fail(box, "pd", NOON, REFUSED)

    put(box, "pd", RESOLVED, resolve_alert(alert()), NOON + 1)
    assert entries_of(deliver(box, "pd", NOON + 1)) == [("resolved", "pay")]


def test_a_pending_repeat_is_replaced_by_the_resolve() -> None:
    box = outbox({"pd": PAGER})
    put(box, "pd", FIRING, alert(), NOON)
    deliver(box, "pd", NOON)
    put(box, "pd", REPEAT, alert(), NOON + 5)

    assert (
        put(box, "pd", RESOLVED, resolve_alert(alert()), NOON + 6)
        is EnqueueResult.QUEUED
    )
    assert entries_of(deliver(box, "pd", NOON + 6)) == [("resolved", "pay")]
    assert box.claim("pd", NOON + 100) is None


def test_a_repeat_of_a_pending_message_is_dropped() -> None:
    box = outbox({"ops": CHAT})
    put(box, "ops", FIRING, alert(), NOON)

    assert put(box, "ops", REPEAT, alert(), NOON + 1) is EnqueueResult.PENDING
    worse = alert(severity="critical", value=0.1)
    assert put(box, "ops", REPEAT, worse, NOON + 1) is EnqueueResult.PENDING


def test_a_higher_severity_updates_the_pending_message() -> None:
    box = outbox({"pd": PAGER})
    put(box, "pd", FIRING, alert(severity="warning"), NOON)
    assert put(box, "pd", FIRING, alert(), NOON) is EnqueueResult.JOINED
    (entry,) = deliver(box, "pd", NOON).entries
    assert entry.alert.severity == "critical"


def test_a_resolve_never_overtakes_its_trigger() -> None:
    box = outbox({"ops": CHAT}, random=1.0)
    put(box, "ops", FIRING, alert(), NOON)
    message = take(box, "ops", NOON + 10)
    put(box, "ops", RESOLVED, resolve_alert(alert()), NOON + 10)
    box.finish(message.id, no_response("timeout"), NOON + 11)

    assert entries_of(deliver(box, "ops", NOON + 70)) == [("firing", "pay")]
    assert entries_of(deliver(box, "ops", NOON + 71)) == [("resolved", "pay")]


def test_min_severity_filters_triggers_but_not_resolves() -> None:
    box = outbox({"pd": Policy(grouped=False, min_severity="error")})

    assert (
        put(box, "pd", FIRING, alert(severity="warning"), NOON)
        is EnqueueResult.FILTERED
    )
    low = resolve_alert(alert(severity="warning"))
    assert put(box, "pd", RESOLVED, low, NOON) is EnqueueResult.QUEUED
    assert (
        put(box, "pd", SUMMARY, resolve_alert(alert()), NOON) is EnqueueResult.FILTERED
    )
    assert put(box, "nobody", FIRING, alert(), NOON) is EnqueueResult.UNKNOWN


# -- results -------------------------------------------------------------------------


def test_a_429_pauses_the_whole_receiver_but_no_other() -> None:
    box = outbox({"pd": PAGER, "ops": Policy(rate=FAST, group_wait=0)})
    for name in ("pay", "ship"):
        put(box, "pd", FIRING, alert(name), NOON)
    put(box, "ops", FIRING, alert(), NOON)
    fail(box, "pd", NOON, LIMITED)

    assert box.claim("pd", NOON + 39) is None
    assert box.next_due("pd", NOON + 1) == NOON + 40
    assert deliver(box, "ops", NOON)
    assert deliver(box, "pd", NOON + 40)


def test_backoff_doubles_with_full_jitter_up_to_five_minutes() -> None:
    def waits(random: float) -> Iterator[float]:
        box = outbox({"pd": PAGER}, random=random)
        put(box, "pd", FIRING, alert(), NOON)
        now = NOON
        for _ in range(9):
            fail(box, "pd", now, no_response("reset"))
            due = box.next_due("pd", now)
            assert due is not None
            yield due - now
            now = due

    assert list(waits(1.0)) == [2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert list(waits(0.0)) == [0] * 9


def test_after_ten_failures_one_message_a_minute_is_sent_as_a_probe() -> None:
    box = outbox({"pd": PAGER}, random=0.0)
    for n in range(12):
        put(box, "pd", FIRING, alert(f"n{n}"), NOON)
    for _ in range(10):
        fail(box, "pd", NOON, no_response("refused"))

    assert box.receivers["pd"].breaker.is_open
    assert box.claim("pd", NOON + 59) is None
    fail(box, "pd", NOON + 60, no_response("refused"))
    assert box.claim("pd", NOON + 119) is None
    deliver(box, "pd", NOON + 120)
    for _ in range(11):
        deliver(box, "pd", NOON + 120)
    assert not box.receivers["pd"].breaker.is_open


def test_410_disables_a_receiver_until_a_reload() -> None:
    box = outbox({"hook": PAGER})
    put(box, "hook", FIRING, alert("pay"), NOON)
    put(box, "hook", FIRING, alert("ship"), NOON)
    fail(box, "hook", NOON, GONE)
    put(box, "hook", FIRING, alert("load"), NOON)

    assert ready(box).claim("hook", NOON + 9999) is None
    assert [r.reason for r in box.messages(statuses=(MessageStatus.DEAD,))] == [
        MessageEndReason.GONE
    ] * 3
    assert box.receivers["hook"].disabled == "HTTP 410"

    box.use({"hook": PAGER}, NOON)
    assert box.retry(None, NOON) == 3
    assert deliver(box, "hook", NOON)


def test_an_expired_message_is_dead_and_does_not_block_its_stream() -> None:
    box = outbox({"ops": CHAT}, random=1.0)
    put(box, "ops", FIRING, alert(), NOON)
    fail(box, "ops", NOON + 10, no_response("refused"))
    day = NOON + 86_400 + 60
    put(box, "ops", FIRING, alert(episode=2), day)

    assert entries_of(deliver(box, "ops", day + 10)) == [("firing", "pay")]
    (dead,) = box.messages(statuses=(MessageStatus.DEAD,))
    assert (dead.reason, dead.error) == (MessageEndReason.EXPIRED, "refused")


def test_the_rate_is_respected_and_its_burst_allowed() -> None:
    box = outbox({"pd": Policy(grouped=False, rate=SendRate(3, 60.0))})
    for n in range(10):
        put(box, "pd", FIRING, alert(f"n{n}"), NOON)
    sent_at = []
    now = NOON
    while (due := ready(box).next_due("pd", now)) is not None:
        now = due
        deliver(box, "pd", now)
        sent_at.append(round(now - NOON))

    assert sent_at == [0, 0, 0, 20, 40, 60, 80, 100, 120, 140]


def test_a_clock_that_is_set_back_does_not_delay_messages() -> None:
    box = outbox({"pd": PAGER, "ops": CHAT})
    put(box, "pd", FIRING, alert(), NOON)
    put(box, "ops", FIRING, alert(), NOON)
    fail(box, "pd", NOON, LIMITED)

    yesterday = NOON - 86_400
    assert entries_of(deliver(box, "pd", yesterday)) == [("firing", "pay")]
    assert entries_of(deliver(box, "ops", yesterday)) == [("firing", "pay")]


# -- the fallback --------------------------------------------------------------------

BOTH = {
    "pd": Policy(grouped=False, rate=FAST, fallback="ops"),
    "ops": Policy(rate=FAST, group_wait=0.0, group_interval=0.0),
}


def test_a_dead_message_is_sent_to_the_fallback_with_the_reason() -> None:
    box = outbox(BOTH)
    put(box, "pd", FIRING, alert(), NOON)
    fail(box, "pd", NOON, REFUSED)

    message = deliver(box, "ops", NOON)
    assert entries_of(message) == [("firing", "pay")]
    assert message.text == "Sent here because pd can't be reached (HTTP 400)"
    assert message.fallback_for == "pd"

    put(box, "pd", RESOLVED, resolve_alert(alert()), NOON + 9)
    assert entries_of(deliver(box, "pd", NOON + 9)) == [("resolved", "pay")]
    assert entries_of(deliver(box, "ops", NOON + 9)) == [("resolved", "pay")]
    assert box.claim("ops", NOON + 999) is None


def test_pending_messages_of_a_receiver_that_is_down_fail_over_once() -> None:
    box = outbox(BOTH, random=0.0)
    put(box, "pd", FIRING, alert("pay"), NOON)
    for _ in range(10):
        fail(box, "pd", NOON, no_response("refused"))
    put(box, "pd", FIRING, alert("ship"), NOON + 1)

    assert entries_of(deliver(box, "ops", NOON + 1)) == [
        ("firing", "pay"),
        ("firing", "ship"),
    ]
    assert entries_of(deliver(box, "pd", NOON + 60)) == [("firing", "pay")]
    assert entries_of(deliver(box, "pd", NOON + 60)) == [("firing", "ship")]
    assert box.claim("ops", NOON + 999) is None
    put(box, "pd", RESOLVED, resolve_alert(alert("pay")), NOON + 70)
    assert entries_of(deliver(box, "ops", NOON + 70)) == [("resolved", "pay")]


def test_an_alert_joining_a_failed_over_message_fails_over_too() -> None:
    policies = {
        "ops": Policy(rate=FAST, group_wait=0.0, fallback="hook"),
        "hook": Policy(rate=FAST, group_wait=0.0, group_interval=0.0),
    }
    box = outbox(policies, random=0.0)
    refused = DeliveryResult(DeliveryOutcome.RETRY, 0, "refused", undelivered=True)
    put(box, "ops", FIRING, alert("pay"), NOON)
    for _ in range(10):
        fail(box, "ops", NOON, refused)

    assert put(box, "ops", FIRING, alert("ship"), NOON + 1) is EnqueueResult.JOINED
    assert entries_of(deliver(box, "hook", NOON + 1)) == [
        ("firing", "pay"),
        ("firing", "ship"),
    ]


def test_a_message_restored_during_group_wait_can_still_change() -> None:
    disk = Disk()
    box = outbox({"ops": CHAT})
    put(box, "ops", FIRING, alert(), NOON)
    disk.commit(box)
    (first,) = box.messages()

    box = outbox({"ops": CHAT}, disk.documents, now=NOON + 5)
    result = put(box, "ops", RESOLVED, resolve_alert(alert()), NOON + 12)
    assert result is EnqueueResult.COMBINED
    assert deliver(box, "ops", NOON + 12).id == first.id


def test_enqueue_is_pure() -> None:
    box = outbox({"ops": CHAT})
    put(box, "ops", FIRING, alert("pay"), NOON)
    before, known = dict(box.store.messages), box.store.changes(full=True)
    for kind, one in (
        (FIRING, alert("ship")),
        (REPEAT, alert("pay", severity="warning")),
        (RESOLVED, resolve_alert(alert("pay"))),
        (TEST, alert("pay")),
    ):
        request = NotificationRequest("ops", kind, one)
        ops = box.receivers["ops"]
        placed = [enqueue(box.store, ops, request, NOON + 1, "msg_2") for _ in "ab"]
        assert placed[0] == placed[1]
        assert placed[0].messages
        assert (box.store.messages, box.store.changes()) == (before, {})
    assert box.store.changes(full=True) == known


def test_a_disabled_receivers_messages_all_fail_over() -> None:
    box = outbox(BOTH)
    put(box, "pd", FIRING, alert("pay"), NOON)
    fail(box, "pd", NOON, GONE)
    assert entries_of(deliver(box, "ops", NOON)) == [("firing", "pay")]

    put(box, "pd", FIRING, alert("ship"), NOON + 1)
    assert entries_of(deliver(box, "ops", NOON + 1)) == [("firing", "ship")]
    put(box, "pd", RESOLVED, resolve_alert(alert("pay")), NOON + 2)
    put(box, "pd", RESOLVED, resolve_alert(alert("ship")), NOON + 2)
    assert entries_of(deliver(box, "ops", NOON + 2)) == [
        ("resolved", "pay"),
        ("resolved", "ship"),
    ]
    assert box.claim("ops", NOON + 999) is None


# -- updates and replies -------------------------------------------------------------


def bot(follow_up: str) -> dict[str, Policy]:
    return {"bot": Policy(rate=FAST, group_wait=0.0, follow_up=follow_up)}  # type: ignore[arg-type]


def post_two(box: Outbox) -> OutboxMessage:
    put(box, "bot", FIRING, alert("pay"), NOON)
    put(box, "bot", FIRING, alert("ship"), NOON)
    message = take(box, "bot", NOON)
    box.finish(message.id, sent(ref="C1 17.5"), NOON)
    return message


def test_a_resolve_updates_the_message_and_keeps_its_other_alerts() -> None:
    box = outbox(bot("update"))
    post_two(box)
    put(box, "bot", RESOLVED, resolve_alert(alert("pay")), NOON + 5)

    message = deliver(box, "bot", NOON + 5)
    assert (message.ref, message.update) == ("C1 17.5", True)
    assert entries_of(message) == [("resolved", "pay"), ("firing", "ship")]

    put(box, "bot", RESOLVED, resolve_alert(alert("ship")), NOON + 6)
    assert entries_of(deliver(box, "bot", NOON + 6)) == [
        ("resolved", "pay"),
        ("resolved", "ship"),
    ]


def test_a_repeat_replies_to_the_message() -> None:
    box = outbox(bot("update"))
    post_two(box)
    put(box, "bot", REPEAT, alert("pay"), NOON + 5)

    message = deliver(box, "bot", NOON + 5)
    assert (message.ref, message.update) == ("C1 17.5", False)


def test_a_resolve_replies_in_the_thread() -> None:
    box = outbox(bot("thread"))
    post_two(box)
    put(box, "bot", RESOLVED, resolve_alert(alert("pay")), NOON + 5)

    message = deliver(box, "bot", NOON + 5)
    assert (message.ref, message.update) == ("C1 17.5", False)
    assert entries_of(message) == [("resolved", "pay")]


def test_the_receivers_message_id_survives_a_restart() -> None:
    disk = Disk()
    box = outbox(bot("update"))
    put(box, "bot", FIRING, alert("pay"), NOON)
    disk.commit(box)
    message = box.claim("bot", NOON)
    assert message is not None
    box.finish(message.id, sent(ref="C1 17.5"), NOON)
    disk.commit(box)

    box = outbox(bot("update"), disk.documents)
    put(box, "bot", RESOLVED, resolve_alert(alert("pay")), NOON + 5)
    assert deliver(box, "bot", NOON + 5).ref == "C1 17.5"


# -- durability ----------------------------------------------------------------------


def test_nothing_is_sent_before_it_is_committed() -> None:
    box = outbox({"pd": PAGER})
    put(box, "pd", FIRING, alert(), NOON)

    assert box.claim("pd", NOON + 5) is None
    assert box.next_due("pd", NOON + 5) is None
    changes = box.store.changes()
    assert box.claim("pd", NOON + 5) is None
    assert box.store.committed(changes) == {"pd"}
    assert box.claim("pd", NOON + 5)


def test_an_alert_that_joins_during_a_commit_needs_the_next_commit() -> None:
    box = outbox({"ops": Policy(rate=FAST, group_wait=0.0)})
    put(box, "ops", FIRING, alert("pay"), NOON)
    changes = box.store.changes()
    put(box, "ops", FIRING, alert("ship"), NOON)

    assert box.store.committed(changes) == set()
    assert box.claim("ops", NOON) is None
    assert len(take(box, "ops", NOON).entries) == 2


def test_a_failed_commit_returns_its_changes() -> None:
    box = outbox({"pd": PAGER})
    put(box, "pd", FIRING, alert(), NOON)
    changes = box.store.changes()
    assert box.store.changes() == {}
    box.store.refused(changes)

    assert box.claim("pd", NOON) is None
    assert box.store.changes() == changes
    assert box.store.release() == {"pd"}
    assert box.claim("pd", NOON)


def test_a_message_in_flight_during_a_crash_is_sent_again_with_its_id() -> None:
    disk = Disk()
    box = outbox({"pd": PAGER})
    put(box, "pd", FIRING, alert(), NOON)
    disk.commit(box)
    message = box.claim("pd", NOON)
    assert message is not None

    box = outbox({"pd": PAGER}, disk.documents)
    assert (
        put(box, "pd", RESOLVED, resolve_alert(alert()), NOON + 60)
        is EnqueueResult.QUEUED
    )
    assert entries_of(deliver(box, "pd", NOON + 60)) == [("resolved", "pay")]

    box = outbox({"pd": PAGER}, disk.documents)
    again = box.claim("pd", NOON + 60)
    assert again is not None
    assert (again.id, again.entries) == (message.id, message.entries)


def test_ids_increase_after_a_restart_with_the_clock_set_back() -> None:
    disk = Disk()
    box = outbox({"pd": PAGER})
    put(box, "pd", FIRING, alert(), NOON)
    disk.commit(box)

    box = outbox({"pd": PAGER}, disk.documents)
    put(box, "pd", FIRING, alert("ship"), NOON - 86_400)
    newest, oldest = box.messages()
    assert newest.entries[0].alert.labels["node"] == "ship"
    assert newest.id > oldest.id


def test_messages_of_a_removed_receiver_are_given_up() -> None:
    disk = Disk()
    box = outbox({"pd": PAGER, "ops": CHAT})
    put(box, "pd", FIRING, alert(), NOON)
    disk.commit(box)

    assert [r.reason for r in outbox({}, disk.documents).messages()] == [
        MessageEndReason.REMOVED
    ]
    box.use({"ops": CHAT}, NOON)
    assert [r.reason for r in box.messages()] == [MessageEndReason.REMOVED]
    assert put(box, "pd", FIRING, alert("ship"), NOON) is EnqueueResult.UNKNOWN


def test_a_damaged_document_is_skipped() -> None:
    assert outbox({"pd": PAGER}, {"msg_1": b"{", "msg_2": b"{}"}).messages() == []


# -- bounds --------------------------------------------------------------------------


def test_excess_messages_are_dropped_least_important_first() -> None:
    box = outbox({"pd": PAGER})
    put(box, "pd", REPEAT, alert("repeated"), NOON)
    for n in range(MAX_PENDING):
        put(box, "pd", FIRING, alert(f"n{n}"), NOON)
    (dropped,) = box.messages(statuses=(MessageStatus.SUPERSEDED,))
    assert (dropped.kind, dropped.reason) == (REPEAT, MessageEndReason.OVERFLOW)

    put(box, "pd", FIRING, alert("one more"), NOON)
    (dead,) = box.messages(statuses=(MessageStatus.DEAD,))
    assert (entries_of(dead), dead.reason) == (
        [("firing", "n0")],
        MessageEndReason.OVERFLOW,
    )
    assert box.store.depth("pd") == MAX_PENDING


def test_ended_messages_are_kept_within_bounds() -> None:
    disk = Disk()
    box = outbox({"pd": PAGER})
    for n in range(DONE_KEPT + 10):
        put(box, "pd", FIRING, alert(f"n{n}"), NOON)
        disk.commit(box)
        deliver(box, "pd", NOON)
    for n in range(DEAD_KEPT + 10):
        put(box, "pd", FIRING, alert(f"m{n}"), NOON)
        disk.commit(box)
        fail(box, "pd", NOON, REFUSED)
    disk.commit(box)

    assert len(box.messages(statuses=(MessageStatus.SENT,))) == DONE_KEPT
    assert len(box.messages(statuses=(MessageStatus.DEAD,))) == DEAD_KEPT
    assert box.purge() == DEAD_KEPT
    disk.commit(box)
    assert len(disk.documents) == DONE_KEPT


def test_retry_sends_dead_messages_except_triggers_of_resolved_alerts() -> None:
    box = outbox({"pd": PAGER})
    put(box, "pd", FIRING, alert("pay"), NOON)
    first = fail(box, "pd", NOON, REFUSED)
    put(box, "pd", FIRING, alert("ship"), NOON)
    fail(box, "pd", NOON, REFUSED)
    put(box, "pd", RESOLVED, resolve_alert(alert("ship")), NOON)
    deliver(box, "pd", NOON)

    assert box.retry(None, NOON + 9) == 1
    assert deliver(box, "pd", NOON + 9).id == first.id
    assert box.retry("msg_nothing", NOON) == 0
    assert box.purge(first.id) == 0
    assert box.purge() == 1


def test_gauges_are_current_whenever_they_are_read() -> None:
    now = NOON
    tables = {
        name: {"type": "webhook", "url": f"http://127.0.0.1/{name}"}
        for name in ("pd", "ops")
    }
    delivery = Delivery(
        NotifyConfig(parse(tables), Grouping(group_wait=0.0)),
        alerts=lambda _: (),
        healthy=lambda: True,
        request_commit=lambda: None,
        clock=lambda: now,
    )
    box, metrics = delivery.outbox, delivery.outbox.metrics
    assert metrics.up.samples() == {}
    assert metrics.oldest.samples() == {(): 0}

    put(box, "pd", FIRING, alert(), NOON)
    put(box, "ops", FIRING, alert(), NOON)
    assert metrics.depth.samples() == {("pd",): 1, ("ops",): 1}
    fail(box, "pd", NOON, no_response("reset"))
    now = NOON + 40
    assert metrics.oldest.samples() == {(): 40}
    deliver(box, "ops", now)
    assert metrics.depth.samples() == {("pd",): 1, ("ops",): 0}
    assert metrics.up.samples() == {("pd",): 0, ("ops",): 1}


def test_tests_are_separate_messages_outside_any_episode() -> None:
    box = outbox({"ops": CHAT})
    put(box, "ops", TEST, alert(), NOON)
    put(box, "ops", TEST, resolve_alert(alert()), NOON)

    assert not deliver(box, "ops", NOON).entries[0].alert.resolved
    assert deliver(box, "ops", NOON).entries[0].alert.resolved


def test_a_summary_is_one_message_with_its_text() -> None:
    box = outbox({"ops": CHAT})
    for name in ("pay", "ship"):
        put(
            box,
            "ops",
            SUMMARY,
            resolve_alert(alert(name)),
            NOON,
            text="While kaywatch was down",
        )

    message = deliver(box, "ops", NOON)
    assert len(message.entries) == 2
    assert message.notification(10).text == "While kaywatch was down"


def test_ids_are_ulids() -> None:
    ulids = MessageIds(lambda length: b"\xff" * length)
    made = [ulids.make(1_469_918_176.385) for _ in range(3)]

    # The time is that of the specification's example.
    assert made[0] == "msg_01ARYZ6S41ZZZZZZZZZZZZZZZZ"
    assert made == sorted(made)
    assert len(set(made)) == 3
