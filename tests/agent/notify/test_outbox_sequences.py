"""Any sequence of firing, ending, sending, failing, committing and crashing."""

from __future__ import annotations

from random import Random
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.agent.notify.alerts import NOON, alert, outbox, over, put

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
# What the receiver has taken, or may have.
TAKEN = ("sent", "lost")

nodes = st.sampled_from(NODES)
receivers = st.sampled_from(RECEIVERS)


class Delivery(RuleBasedStateMachine):
    """Rules that fire and end alerts, a disk, and receivers with moods."""

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
        self.flying: dict[str, OutboxMessage] = {}
        self.puts = 0
        # What rules remember, and as it was at the last commit.
        self.episodes = dict.fromkeys(NODES, 0)
        self.firing: set[str] = set()
        self.told: set[tuple[str, str, int]] = set()
        self.kept: Any = None
        self.remember()
        # A refusal that a crash made forgotten: that message comes again, in its order.
        self.refused: set[str] = set()
        # What arrived: by receiver, node and episode the ids, and what they said.
        self.log: list[tuple[str, str, int, bool, str]] = []

    def remember(self) -> None:
        self.kept = (dict(self.episodes), set(self.firing), set(self.told))

    def put(self, kind: NotificationKind, node: str) -> None:
        episode = self.episodes[node]
        fact = alert(node, episode=episode)
        for receiver in RECEIVERS:
            known = (receiver, node, episode) in self.told
            if kind is NotificationKind.RESOLVED and not known:
                continue
            said = over(fact) if kind is NotificationKind.RESOLVED else fact
            result = put(self.box, receiver, kind, said, self.now)
            self.puts += 1
            assert result not in (EnqueueResult.FILTERED, EnqueueResult.UNKNOWN)
            self.told.add((receiver, node, episode))

    @rule(node=nodes)
    def fire(self, node: str) -> None:
        if node not in self.firing:
            self.firing.add(node)
            self.episodes[node] += 1
            self.put(NotificationKind.FIRING, node)

    @rule(node=nodes)
    def repeat(self, node: str) -> None:
        if node in self.firing:
            self.put(NotificationKind.REPEAT, node)

    @rule(node=nodes)
    def resolve(self, node: str) -> None:
        if node in self.firing:
            self.firing.discard(node)
            self.put(NotificationKind.RESOLVED, node)

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
            assert receiver not in self.flying
            assert message.id in self.documents, "sent before it was committed"
            self.flying[receiver] = message

    @rule(receiver=receivers, answer=st.sampled_from(sorted(RESULTS)))
    def settle(self, receiver: str, answer: str) -> None:
        message = self.flying.pop(receiver, None)
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
        for message in self.flying.values():
            self.arrive(message)
        self.flying.clear()
        episodes, firing, told = self.kept
        self.episodes, self.firing, self.told = dict(episodes), set(firing), set(told)
        self.puts = 0
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
                assert (message.receiver, node, entry.alert.episode) in self.told
            # An heir tells again what its message may have said.
            self.log.append((name, node, entry.alert.episode, ended, message.position))

    @invariant()
    def all_that_is_put_is_counted(self) -> None:
        if hasattr(self, "box"):
            assert sum(self.box.metrics.requests.samples().values()) == self.puts

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
            # Each message was done with once, and each notice is one or in one.
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
        """Episodes arrive in order, and nothing fires again that is over.

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
        """Whoever was told that it fires is told that it is over, or it is dead."""
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
    """Hypothesis prefers short ones, which it can explain; these are long."""
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


@pytest.mark.xdist_group("sequences")
class TestDelivery(Delivery.TestCase):  # type: ignore[name-defined, misc]
    pass
