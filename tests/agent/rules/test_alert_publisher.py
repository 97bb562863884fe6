"""The alerts that are published to a broker."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.rules.harness import AlertHarness, rule

from kaywatch_agent.rules import alert_publisher as module
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.alert_publisher import (
    AlertPublisher,
    TopicMessage,
    alert_topic,
)
from kaywatch_agent.rules.snapshot import AlertsSnapshot

CHANGES = "kaywatch/v1/agent/changes"


class Broker:
    """The retained messages of a broker, and the messages that listeners received."""

    def __init__(self, publisher: AlertPublisher) -> None:
        self.publisher = publisher
        self.holds: dict[str, bytes] = {}
        self.read: list[TopicMessage] = []

    def connect(self) -> None:
        self.publisher.connected()
        for topic in list(self.holds):
            if "/alerts/" in topic:
                self.publisher.discovered(topic)

    def take(self, most: int = 100) -> list[tuple[str, str]]:
        """Return the topics and states of the pending messages."""
        results = list(islice(self.publisher.messages(), most))
        self.read += results
        for topic, payload, retain in results:
            if retain and payload:
                self.holds[topic] = payload
            elif retain:
                self.holds.pop(topic, None)
        return [(topic, payload.decode()) for topic, payload, _ in results]


class Alerts:
    """A harness whose state changes are published to a broker."""

    def __init__(self, **keys: Any) -> None:
        self.harness = AlertHarness(rule(**keys))
        self.publisher = AlertPublisher("kaywatch", state_of)
        self.broker = Broker(self.publisher)

    @property
    def topic(self) -> str:
        return alert_topic("kaywatch", "success", self.harness.only.id)

    def picture(self) -> AlertsSnapshot:
        engine = self.harness.engine
        return AlertsSnapshot(
            self.harness.now,
            engine.settings,
            tuple(a.snapshot() for a in engine.alerts),
        )

    def evaluate(self) -> None:
        self.harness.evaluate()
        changed = {c.alert.id: c.alert.snapshot() for c in self.harness.last.changes}
        picture = self.picture()._replace(alerts=tuple(changed.values()))
        self.publisher.changed(picture)

    def fail(self) -> None:
        self.harness.ran(20, 20)
        self.evaluate()

    def recover(self) -> None:
        self.harness.ran(2_000)
        self.evaluate()


def state_of(picture: AlertsSnapshot, instance: Alert) -> bytes:
    assert not picture.alerts and not picture.results  # it is kept, and they are large
    return str(instance.lifecycle.state).encode()


@pytest.fixture
def alerts() -> Alerts:
    return Alerts()


def test_an_alert_is_held_while_it_fires_and_then_no_more(alerts: Alerts) -> None:
    alerts.broker.connect()
    alerts.fail()

    assert alerts.broker.take() == [(alerts.topic, "firing"), (CHANGES, "firing")]
    assert alerts.broker.holds == {alerts.topic: b"firing"}

    alerts.recover()

    assert alerts.broker.take() == [
        (alerts.topic, "ok"),
        (alerts.topic, ""),
        (CHANGES, "ok"),
    ]
    assert alerts.broker.holds == {}
    assert [a.topic for a in alerts.broker.read if a.retain] == [alerts.topic] * 2


def test_what_is_pending_is_a_change_and_no_state() -> None:
    alerts = Alerts(**{"for": "1m"})
    alerts.broker.connect()
    alerts.fail()

    assert alerts.broker.take() == [(CHANGES, "pending")]


def test_a_broker_that_comes_back_is_told_what_fires(alerts: Alerts) -> None:
    alerts.broker.connect()
    alerts.fail()
    alerts.broker.take()
    alerts.publisher.disconnected()
    alerts.broker.holds.clear()  # it keeps nothing over its restart

    alerts.broker.connect()

    assert alerts.broker.take() == [(alerts.topic, "firing")]


def test_what_ends_while_the_broker_is_away_is_told_when_it_is_back(
    alerts: Alerts,
) -> None:
    alerts.broker.connect()
    alerts.fail()
    alerts.broker.take()
    alerts.publisher.disconnected()
    alerts.recover()

    alerts.broker.connect()

    assert alerts.broker.take() == [(alerts.topic, "ok"), (alerts.topic, "")]


def test_an_alert_that_fires_again_meanwhile_has_not_ended(alerts: Alerts) -> None:
    alerts.broker.connect()
    alerts.fail()
    alerts.broker.take()
    alerts.publisher.disconnected()
    alerts.recover()
    alerts.harness.wait(400)
    alerts.fail()

    alerts.broker.connect()

    assert alerts.broker.take() == [(alerts.topic, "firing")]


def test_what_a_former_life_left_is_cleared(alerts: Alerts) -> None:
    stale = alert_topic("kaywatch", "removed", "0123456789abcdef")
    alerts.fail()
    alerts.broker.holds = {stale: b"firing", alerts.topic: b"firing"}

    again = AlertPublisher("kaywatch", state_of)
    again.changed(alerts.picture())
    alerts.broker.publisher = again
    alerts.broker.connect()

    assert sorted(alerts.broker.take()) == sorted(
        [(stale, ""), (alerts.topic, "firing")]
    )
    assert set(alerts.broker.holds) == {alerts.topic}


def test_changes_that_are_too_many_are_dropped_and_counted(
    alerts: Alerts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CHANGES", 2)
    alerts.broker.connect()
    for _ in range(2):
        alerts.fail()
        alerts.recover()
        alerts.harness.wait(400)

    publisher = alerts.broker.take()
    assert [state for topic, state in publisher if topic == CHANGES] == ["firing", "ok"]
    assert alerts.publisher.dropped == 2


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["fail", "recover", "cut", "connect", "take"])))
def test_a_broker_ends_up_with_what_fires_whatever_happens(steps: list[str]) -> None:
    alerts = Alerts()
    for step in steps:
        match step:
            case "cut":
                alerts.publisher.disconnected()
            case "connect":
                alerts.broker.connect()
            case "take":
                alerts.broker.take(1)
            case _:
                getattr(alerts, step)()
                alerts.harness.wait(400)
                alerts.evaluate()

    alerts.broker.connect()
    alerts.broker.take()

    firing = [i for i in alerts.harness.engine.alerts if i.lifecycle.is_firing]
    assert set(alerts.broker.holds) == {alerts.topic for _ in firing}


@pytest.mark.parametrize("name", ["a/b", "+", "#", "a\0b", "é", "%2F"])
def test_a_name_is_one_level_of_a_topic(alerts: Alerts, name: str) -> None:
    alerts.broker.connect()
    alerts.fail()
    (instance,) = alerts.picture().alerts
    instance.rule = name
    alerts.publisher.changed(alerts.picture()._replace(alerts=(instance,)))

    topics = {topic for topic, _ in alerts.broker.take() if "/alerts/" in topic}
    assert len(topics) == 2
    for topic in topics:
        assert topic.count("/") == 5
        assert not set(topic) & set("+#\0")
