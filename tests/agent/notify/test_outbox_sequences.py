"""Random sequences of alerts, commits, results, crashes and reloads."""

from __future__ import annotations

from random import Random
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.agent.notify.alerts import NOON, alert, outbox, put, resolve_alert

from kaywatch_agent.model.alerts import MessageStatus, NotificationKind
from kaywatch_agent.notify.enqueue import EnqueueResult
from kaywatch_agent.notify.message import OutboxMessage
from kaywatch_agent.notify.policy import Policy, SendRate
from kaywatch_agent.notify.result import (
    DeliveryOutcome,
    DeliveryResult,
    no_response,
    sent,
)

FAST = SendRate(1000, 1.0)
NODES = ("a", "b", "c")
RECEIVERS = ("pd", "ops", "bot")
RESULTS = {
    "sent": sent(ref="C1 1.1"),
    "lost": no_response("timeout"),
    "limited": DeliveryResult(
        DeliveryOutcome.RETRY, 429, "", after=30, pause=True, undelivered=True
    ),
    "refused": DeliveryResult(DeliveryOutcome.DEAD, 400, "", undelivered=True),
    "gone": DeliveryResult(DeliveryOutcome.GONE, 410, "", undelivered=True),
}
# Results after which the receiver accepted the message, or may have.
TAKEN = ("sent", "lost")

nodes = st.sampled_from(NODES)
receivers = st.sampled_from(RECEIVERS)


class Delivery(RuleBasedStateMachine):
    """Rules that fire and resolve alerts, a disk, and unreliable receivers."""

    @initialize(fallback=st.booleans())
    def begin(self, fallback: bool) -> None:
        self.policies = {
            "pd": Policy(grouped=False, rate=FAST, fallback="ops" if fallback else ""),
            "ops": Policy(rate=FAST),
            "bot": Policy(rate=FAST, group_wait=0.0, follow_up="update"),
        }
        self.now = NOON
        self.crashed = False
        self.documents: dict[str, bytes] = {}
        self.box = outbox(self.policies)
        self.in_flight: dict[str, OutboxMessage] = {}
        self.requests = 0
        # What rules remember, now and at the last commit.
        self.episodes = dict.fromkeys(NODES, 0)
        self.firing: set[str] = set()
        self.notified: set[tuple[str, str, int]] = set()
        self.committed_state: Any = None
        self.remember()
        # A crash may forget a rejection: that message is sent again, in its order.
        self.refused: set[str] = set()
        # What arrived: receiver, node, episode, whether it ended, and the position.
        self.log: list[tuple[str, str, int, bool, str]] = []

    def remember(self) -> None:
        self.committed_state = (
            dict(self.episodes),
            set(self.firing),
            set(self.notified),
        )

    def notify(self, kind: NotificationKind, node: str) -> None:
        episode = self.episodes[node]
        fired = alert(node, episode=episode)
        for receiver in RECEIVERS:
            known = (receiver, node, episode) in self.notified
            if kind is NotificationKind.RESOLVED and not known:
                continue
            state = resolve_alert(fired) if kind is NotificationKind.RESOLVED else fired
            result = put(self.box, receiver, kind, state, self.now)
            self.requests += 1
            assert result not in (EnqueueResult.FILTERED, EnqueueResult.UNKNOWN)
            self.notified.add((receiver, node, episode))

    @rule(node=nodes)
    def fire(self, node: str) -> None:
        if node not in self.firing:
            self.firing.add(node)
            self.episodes[node] += 1
            self.notify(NotificationKind.FIRING, node)

    @rule(node=nodes)
    def repeat(self, node: str) -> None:
        if node in self.firing:
            self.notify(NotificationKind.REPEAT, node)

    @rule(node=nodes)
    def resolve(self, node: str) -> None:
        if node in self.firing:
            self.firing.discard(node)
            self.notify(NotificationKind.RESOLVED, node)

    @rule(works=st.booleans())
    def commit(self, works: bool) -> None:
        changes = self.box.store.changes()
        if not works:
            self.box.store.refused(changes)
            return
        for message_id, document in changes.items():
            if document is None:
                self.documents.pop(message_id, None)
            else:
                self.documents[message_id] = document
        self.remember()
        self.box.store.committed(changes)

    @rule(receiver=receivers)
    def claim(self, receiver: str) -> None:
        message = self.box.claim(receiver, self.now)
        if message is not None:
            assert receiver not in self.in_flight
            assert message.id in self.documents, "sent before it was committed"
            self.in_flight[receiver] = message

    @rule(receiver=receivers, answer=st.sampled_from(sorted(RESULTS)))
    def settle(self, receiver: str, answer: str) -> None:
        message = self.in_flight.pop(receiver, None)
        if message is not None:
            if answer in TAKEN:
                self.arrive(message)
            elif answer in ("refused", "gone"):
                self.refused.add(message.position)
            self.box.finish(message.id, RESULTS[answer], self.now)

    @rule(seconds=st.sampled_from([1.0, 15.0, 70.0, 400.0, 90_000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def crash(self) -> None:
        self.crashed = True
        for message in self.in_flight.values():
            self.arrive(message)
        self.in_flight.clear()
        episodes, firing, notified = self.committed_state
        self.episodes, self.firing, self.notified = (
            dict(episodes),
            set(firing),
            set(notified),
        )
        self.requests = 0
        self.box = outbox(self.policies, self.documents, now=self.now)

    @rule()
    def reload(self) -> None:
        self.box.use(self.policies, self.now)

    def arrive(self, message: OutboxMessage) -> None:
        name = f"{message.receiver}<{message.fallback_for}"
        for entry in message.entries:
            node = entry.alert.labels["node"]
            ended = entry.alert.resolved
            if ended and not message.fallback_for:
                assert (message.receiver, node, entry.alert.episode) in self.notified
            # A replacing message repeats what the replaced one may have reported.
            self.log.append((name, node, entry.alert.episode, ended, message.position))

    @invariant()
    def all_requests_are_counted(self) -> None:
        if hasattr(self, "box"):
            assert sum(self.box.metrics.requests.samples().values()) == self.requests

    def teardown(self) -> None:
        if not hasattr(self, "box"):
            return
        for receiver in RECEIVERS:
            self.settle(receiver, "sent")
        self.box.use(self.policies, self.now)
        for node in NODES:
            self.resolve(node)
        self.drain()
        assert {message.status for message in self.box.messages()} <= {
            MessageStatus.SENT,
            MessageStatus.DEAD,
            MessageStatus.SUPERSEDED,
        }
        self.check_order()
        self.check_ends()
        if not self.crashed:
            # Each message ended exactly once.
            done = sum(self.box.metrics.ended.samples().values())
            assert done == len(self.box.messages())

    def drain(self) -> None:
        for _ in range(500):
            self.commit(True)
            for receiver in RECEIVERS:
                self.claim(receiver)
                self.settle(receiver, "sent")
            self.now += 30.0
        assert not any(map(self.box.store.depth, RECEIVERS))

    def check_order(self) -> None:
        """Check that episodes arrive in order, and no trigger follows its resolve.

        A message that is sent again, under its id, does not count.
        """
        seen: dict[tuple[str, str], tuple[int, bool]] = {}
        ids: set[tuple[str, str, int, bool, str]] = set()
        for name, node, episode, ended, message_id in self.log:
            if (name, node, episode, ended, message_id) in ids or name == "bot<":
                continue
            if message_id in self.refused:
                continue
            ids.add((name, node, episode, ended, message_id))
            last = seen.get((name, node), (0, False))
            assert (episode, ended) >= last, (name, node, self.log)
            seen[name, node] = (episode, ended)

    def check_ends(self) -> None:
        """Check that each trigger that arrived is followed by a resolve, or dead."""
        dead = {
            (message.receiver, e.alert.labels["node"], e.alert.episode)
            for message in self.box.messages(statuses=(MessageStatus.DEAD,))
            for e in message.entries
        }
        ended = {(n, node, ep) for n, node, ep, over, _ in self.log if over}
        for name, node, episode, over_, _ in self.log:
            if over_ or name.endswith("<pd"):
                continue
            assert (name, node, episode) in ended or (
                name.partition("<")[0],
                node,
                episode,
            ) in dead, (name, node, episode, self.log)


Delivery.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)


def test_long_sequences() -> None:
    """Hypothesis prefers short sequences, which it can shrink; these are long."""
    for seed in range(100):
        random = Random(seed)
        delivery = Delivery()
        delivery.begin(bool(seed % 2))
        for _ in range(300):
            step(delivery, random)
        try:
            delivery.teardown()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        assert delivery.log


def step(delivery: Delivery, random: Random) -> None:
    node, receiver = random.choice(NODES), random.choice(RECEIVERS)
    answers = ["sent"] * 5 + sorted(RESULTS)
    choices = [
        (6, lambda: delivery.fire(node)),
        (2, lambda: delivery.repeat(node)),
        (6, lambda: delivery.resolve(node)),
        (14, lambda: delivery.commit(random.random() < 0.9)),
        (12, lambda: delivery.claim(receiver)),
        (12, lambda: delivery.settle(receiver, random.choice(answers))),
        (5, lambda: delivery.wait(random.choice([1.0, 15.0, 70.0, 400.0]))),
        (0.1, lambda: delivery.wait(90_000.0)),
        (0.5, delivery.crash),
        (0.3, delivery.reload),
    ]
    (chosen,) = random.choices([c for _, c in choices], [w for w, _ in choices])
    chosen()


class TestDelivery(Delivery.TestCase):  # type: ignore[name-defined, misc]
    pass
