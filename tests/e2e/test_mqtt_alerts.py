"""Alerts and the agent's status are published over MQTT."""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from tests.agents import Agent, until
from tests.brokers import AGENT, CLIENT, READER, Broker, Published, run_broker
from tests.mqtt import agent_at, each_permission, is_listening, new_agent_at, settings

from kaywatch._version import __version__

RULE = """
[alerting]
labels = { env = "test" }

[[rule]]
name = "pay-fails"
metric = "error_rate"
op = ">"
value = 0.1
window = "1m"
min_executions = 5
for = "0"
keep_firing_for = "0"
severity = "critical"
runbook_url = "https://wiki.example/pay"

[alerting.thresholds]
success_rate_min = false
error_rate_max = false
"""

RUN = """
import kaywatch, sys
kaywatch.configure(service="web")
for n in range(int(sys.argv[1])):
    try:
        with kaywatch.execution("shop", sys.argv[3]):
            if n < int(sys.argv[2]):
                raise TimeoutError
    except TimeoutError:
        pass
assert kaywatch.flush(10)
"""

STATES = "kaywatch/v1/alerts/+/+/state"
STATUS = "kaywatch/v1/agent/status"
ABOUT = "kaywatch/v1/agent/about"
CHANGES = "kaywatch/v1/agent/changes"


@pytest.fixture
def mosquitto() -> Iterator[Broker]:
    with run_broker() as broker:
        yield broker


def run_publishing_agent(
    broker: Broker, version: int = 5
) -> contextlib.AbstractContextManager[Agent]:
    """Run an agent that publishes the alerts of the rule."""
    return agent_at(broker, version=version, rules=RULE, publish_alerts=True)


def states(messages: list[Published], node: str = "") -> list[str]:
    """Return the published states, with "" for a cleared topic."""
    result = [json.loads(m.payload) if m.payload else {} for m in messages]
    return [
        alert.get("state", "")
        for alert in result
        if node in ("", alert.get("labels", {}).get("node"))
    ]


def read_retained(broker: Broker, *topics: str) -> dict[str, Any]:
    """Return a broker's retained messages."""
    marker = f"kaywatch/v1/{AGENT}/down"
    with broker.subscribe(*topics, marker) as read:
        broker.publish(marker, "{}", user=AGENT)
        until(lambda: any(m.topic == marker for m in read.messages), "the marker")
        return {m.topic: json.loads(m.payload) for m in read.messages if m.retained}


@each_permission
def test_an_alert_is_retained_while_it_fires(broker: Broker, version: int) -> None:
    with (
        run_publishing_agent(broker, version) as agent,
        broker.subscribe(STATES, CHANGES, user=READER, version=version) as live,
    ):
        agent.run(RUN, "20", "10", "pay")
        live.wait(2)
        ((topic, alert),) = read_retained(broker, STATES).items()
        agent.run(RUN, "500", "0", "pay")

        def transitions() -> list[str]:
            return states([m for m in live.messages if m.topic == topic])

        def changes() -> list[str]:
            rows = [json.loads(m.payload) for m in live.messages if m.topic == CHANGES]
            return [row["state"] for row in rows if row["rule"] == "pay-fails"]

        until(lambda: transitions()[-1:] == [""] and "ok" in changes(), "it ends")
        # On a slow machine, a built-in rule may look at the failures alone.
        (listed,) = agent.get("/api/v1/alerts", rule="pay-fails")["alerts"]
        assert topic == f"kaywatch/v1/alerts/pay-fails/{listed['id']}/state"
        assert alert.keys() == listed.keys()
        assert (alert["state"], alert["severity"]) == ("firing", "critical")
        labels = {"env": "test", "graph": "shop", "node": "pay"}
        assert alert["labels"].items() >= labels.items()
        assert alert["runbook_url"] == "https://wiki.example/pay"
        assert (alert["value"], alert["executions"]) == (0.5, 20)
        assert transitions() == ["firing", "ok", ""]
        assert changes() == ["firing", "ok"]
        assert not any(m.retained for m in live.messages)
        assert read_retained(broker, STATES) == {}


@each_permission
def test_the_agent_publishes_its_presence(broker: Broker, version: int) -> None:
    topics = (STATUS, ABOUT)
    with broker.subscribe(*topics, user=READER, version=version) as read:
        with agent_at(broker, version=version) as agent:
            read.wait(2)
            agent.stop(signal.SIGKILL)
            read.wait(3)
            agent.start()
            read.wait(5)
            agent.stop()
            read.wait(6)

        output = [m.payload.decode() for m in read.messages if m.topic == STATUS]
        # The broker may publish the will after the agent's own `offline`.
        assert [word for word, _ in groupby(output)] == [
            "online",
            "offline",
            "online",
            "offline",
        ]
        (about, _) = [m.payload for m in read.messages if m.topic == ABOUT]
        assert json.loads(about)["version"] == __version__
        assert json.loads(about).keys() == {"agent", "host", "version"}
    with broker.subscribe(STATUS, version=version) as read:
        (message,) = read.wait()
        assert (message.retained, message.payload) == (True, b"offline")


@pytest.mark.parametrize("kind", ["mosquitto", "rumqttd"])
def test_alerts_are_republished_to_a_broker_that_lost_its_state(kind: str) -> None:
    with run_broker(kind) as broker, run_publishing_agent(broker) as agent:
        agent.run(RUN, "20", "10", "pay")
        before = until(lambda: read_retained(broker, STATES), "the alert")
        broker.stop(signal.SIGKILL)
        (broker.folder / "mosquitto.db").unlink(missing_ok=True)
        broker.start()

        assert (
            until(lambda: read_retained(broker, STATES), "it is back").keys()
            == before.keys()
        )


def test_an_alert_resolved_during_a_broker_outage_is_cleared(mosquitto: Broker) -> None:
    with run_publishing_agent(mosquitto) as agent:
        agent.run(RUN, "20", "10", "pay")
        until(lambda: read_retained(mosquitto, STATES), "the alert")
        mosquitto.stop()
        # Over the socket, because nothing arrives over the broker.
        agent.run(RUN, "500", "0", "pay", KAYWATCH_ENDPOINT=agent.endpoint)
        until(
            lambda: agent.get("/api/v1/alerts")["states"]["firing"] == 0, "it has ended"
        )
        mosquitto.start()

        until(lambda: not read_retained(mosquitto, STATES), "it is cleared")


def test_retained_alerts_of_an_earlier_agent_are_cleared(mosquitto: Broker) -> None:
    with run_publishing_agent(mosquitto) as agent:
        agent.run(RUN, "20", "10", "pay")
        agent.run(RUN, "20", "10", "ship")
        until(lambda: len(read_retained(mosquitto, STATES)) == 2, "both alerts")
        agent.stop(signal.SIGKILL)
        for path in agent.folder.glob("kaywatch.db*"):
            path.unlink()
        agent.start()

        until(lambda: read_retained(mosquitto, STATES) == {}, "all are cleared")


@pytest.mark.parametrize("kind", ["mosquitto", "rumqttd"])
def test_an_alert_whose_rule_is_removed_meanwhile_is_cleared(kind: str) -> None:
    with run_broker(kind) as broker, run_publishing_agent(broker) as agent:
        agent.run(RUN, "20", "10", "pay")
        until(lambda: read_retained(broker, STATES), "the alert")
        config = agent.folder / "kaywatch.toml"
        config.write_text(config.read_text().replace("pay-fails", "another"))
        agent.stop()
        agent.start()

        until(
            lambda: (
                [s for s in read_retained(broker, STATES) if "pay-fails" in s] == []
            ),
            "it is cleared",
        )


def test_an_alert_firing_over_a_restart_stays_retained(mosquitto: Broker) -> None:
    with run_publishing_agent(mosquitto) as agent:
        agent.run(RUN, "20", "10", "pay")
        until(lambda: read_retained(mosquitto, STATES), "the alert")
        with mosquitto.subscribe(STATES, STATUS) as read:
            agent.stop(signal.SIGKILL)
            agent.start()
            until(
                lambda: (
                    [m.payload for m in read.messages if m.topic == STATUS][1:]
                    == [b"offline", b"online"]
                ),
                "it is back",
            )
            until(lambda: is_listening(agent), "the agent hears the broker")
            assert read_retained(mosquitto, STATES)

            transitions = states([m for m in read.messages if m.topic != STATUS])
            assert set(transitions) == {"firing"}


def test_many_alerts_at_once_all_arrive(mosquitto: Broker) -> None:
    code = """
from itertools import product
import kaywatch
letters = "abcdefghijklmnopqrst"
# Letters, because names that differ in numbers only would be folded.
for name in map("".join, product(letters, letters)):
    for n in range(5):
        try:
            with kaywatch.execution("shop", f"node {name} +/#"):
                raise TimeoutError
        except TimeoutError:
            pass
assert kaywatch.flush(20)
"""
    with run_publishing_agent(mosquitto) as agent, mosquitto.subscribe(STATES) as read:
        agent.run(code)
        read.wait(400)

        assert len({m.topic for m in read.messages}) == 400
        assert set(states(read.messages)) == {"firing"}


def test_a_missing_publish_permission_is_reported() -> None:
    with run_broker("mosquitto-password") as broker:
        acl = broker.folder / "acl"
        acl.write_text(acl.read_text().replace("topic readwrite kaywatch/v1/al", "#"))
        broker.reload()
        with run_publishing_agent(broker) as agent:
            agent.run(RUN, "20", "10", "pay")

            problem = until(lambda: broker_problem(agent), "it is said")
            topic = "kaywatch/v1/alerts/pay-fails/"
            assert problem.startswith(f"not allowed to write {topic}")
            assert agent.executions() == {"pay": 20}


def test_two_agents_at_the_same_topics_say_so(mosquitto: Broker) -> None:
    with agent_at(mosquitto) as agent:
        with tempfile.TemporaryDirectory(prefix="kw-") as folder:
            other = Agent(Path(folder))
            text = settings(mosquitto.access(AGENT), client_id="other")
            (other.folder / "kaywatch.toml").write_text(text)
            other.options = ("--config", str(other.folder / "kaywatch.toml"))
            other.start()
            until(
                lambda: "another agent, other on " in broker_problem(agent),
                "the first agent reports it",
            )
            until(
                lambda: (
                    "use a different prefix for each agent" in broker_problem(other)
                ),
                "the second agent reports it",
            )
            other.stop()

        until(lambda: not broker_problem(agent), "it is alone")
        until(lambda: is_listening(agent), "and hears the broker")
        assert has_status(mosquitto) == "online"


@pytest.mark.parametrize("kind", ["mosquitto-password", "mosquitto-tls"])
def test_a_wrong_agent_password_is_reported(kind: str) -> None:
    with run_broker(kind) as broker, new_agent_at(broker) as agent:
        config = agent.folder / "kaywatch.toml"
        config.write_text(config.read_text().replace("agent secret", "guess"))
        agent.start()

        problem = until(
            lambda: broker_problem(agent).removeprefix("not connected yet"),
            "it is said",
        )
        assert problem.startswith("the broker rejected the connection: ")
        assert "guess" not in problem
        lines = [x for x in agent.log if x["event"] == "broker not connected"]
        assert len(lines) == 1


def test_an_untrusted_certificate_is_reported(tmp_path: Path) -> None:
    from tests.brokers import Authority

    with run_broker("mosquitto-tls") as broker, new_agent_at(broker) as agent:
        config = agent.folder / "kaywatch.toml"
        ca = broker.access(CLIENT).ca
        text = config.read_text().replace(ca, Authority(tmp_path).ca)
        config.write_text(text)
        agent.start()

        problem = until(
            lambda: broker_problem(agent).removeprefix("not connected yet"),
            "it is said",
        )
        assert "certificate verify failed" in problem


def broker_problem(agent: Agent) -> str:
    """Return the problem that the agent reports for a broker."""
    stages = agent.get("/health")["stages"]
    result = [s["problem"] for name, s in stages.items() if name.startswith("mqtt ")]
    return str(result[0] or "")


def has_status(broker: Broker) -> str:
    with broker.subscribe(STATUS) as read:
        return read.wait()[0].payload.decode()
