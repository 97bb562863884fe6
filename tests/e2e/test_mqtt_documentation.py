"""The examples of docs/mqtt.md work on a real broker, and its tables are complete."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
import signal
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agents import Agent, until
from tests.brokers import AGENT, Broker, Mosquitto, run_broker
from tests.mqtt import agent_at, is_listening, variables

from kaywatch_agent import config
from kaywatch_agent.ingest.brokers import BrokerConfig

ROOT = Path(__file__).parents[2]
TEXT = "".join(
    (ROOT / "docs" / name).read_text()
    for name in ("tutorials/several-hosts.md", "mqtt.md")
)
EXAMPLES = dict(
    re.findall(r"<!-- example: (\w+) -->\n```\w*\n(.*?)```", TEXT, re.DOTALL)
)
RULE = """
[[rule]]
name = "pay-fails"
metric = "error_rate"
op = ">"
value = 0.1
min_executions = 1
for = "0"
"""


def section(title: str) -> str:
    return re.split(rf"^#+ {title}\n", TEXT, flags=re.MULTILINE)[1].split("\n#")[0]


def shell(command: str, agent: Agent, broker: Broker) -> str:
    """Run a command of the page with this test's ports and files."""
    there = shlex.join(["mosquitto_pub", *broker.access().options()])
    script = command.replace("mosquitto_pub", there)
    script = script.replace(
        "kaywatch stats", f"{shlex.quote(agent.python)} -m kaywatch_agent stats"
    )
    done = subprocess.run(
        ["sh", "-eu", "-c", script],
        env=agent.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def broker() -> Iterator[Broker]:
    with run_broker() as broker:
        yield broker


def use_broker_port(text: str, broker: Broker) -> str:
    """Return a text with the broker's port in its urls."""
    return text.replace("mqtt://localhost", f"mqtt://localhost:{broker.access().port}")


@pytest.fixture
def agent(broker: Broker) -> Iterator[Agent]:
    """The agent of the page."""
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        agent = Agent(Path(folder))
        file = Path(folder) / "kaywatch.toml"
        file.write_text(use_broker_port(EXAMPLES["agent"], broker) + RULE)
        agent.options = ("--config", str(file))
        (endpoint,) = re.findall(r"KAYWATCH_ENDPOINT=(\S+)", EXAMPLES["client"])
        agent.variables = {"KAYWATCH_ENDPOINT": use_broker_port(endpoint, broker)}
        try:
            agent.start()
            until(lambda: is_listening(agent), "the agent hears the broker")
            yield agent
        finally:
            agent.close()


def test_a_shell_pushes_and_sees_it(agent: Agent, broker: Broker) -> None:
    shell(EXAMPLES["shell"], agent, broker)
    until(lambda: agent.executions() == {"backup": 1}, "it is counted")

    output = shell(EXAMPLES["stats"], agent, broker)
    assert re.search(r"executions\s+1\b", output), output
    assert "backup in nightly" in output


def test_an_application_pushes_and_an_alert_is_seen(
    agent: Agent, broker: Broker
) -> None:
    command = EXAMPLES["subscribe"].split()
    topics = [
        word.strip("'")
        for option, word in itertools.pairwise(command)
        if option == "-t"
    ]
    agent.run(
        "import kaywatch\n"
        "try:\n"
        "    with kaywatch.execution('shop', 'pay'): raise TimeoutError\n"
        "except TimeoutError: pass\n"
        "assert kaywatch.flush(10)"
    )
    with broker.subscribe(*topics) as read:
        until(lambda: len(read.messages) == 2, "status and alert")
        result = {m.topic.removesuffix("/state"): m.payload for m in read.messages}

    shown = [line.split(" ", 1) for line in EXAMPLES["alert"].splitlines()]
    (status, word), (state, alert) = shown
    assert result.pop(status).decode() == word
    ((topic, payload),) = result.items()
    assert topic.rpartition("/")[0] == state.removesuffix("/state").rpartition("/")[0]
    keys = re.findall(r'"(\w+)":', payload.decode())
    at = [keys.index(key) for key in re.findall(r'"(\w+)":', alert)]
    assert at == sorted(at)


def test_every_key_and_variable_is_documented() -> None:
    keys = re.findall(
        r"^\| (`.*?) \|", section(r"Keys of `\[\[ingest.mqtt\]\]`"), re.MULTILINE
    )
    named = re.findall(r"`(\w+)`", " ".join(keys))
    assert named == [field.name for field in dataclasses.fields(BrokerConfig)]
    rows = re.findall(
        r"^\| (`.*?) \|", section("The client's environment"), re.MULTILINE
    )
    source = (ROOT / "client" / "kaywatch" / "_send" / "broker.py").read_text()
    assert set(re.findall(r"`(KAYWATCH_MQTT_\w+)`", " ".join(rows))) == set(
        re.findall(r'"(KAYWATCH_MQTT_\w+)"', source)
    )


def test_the_configuration_of_a_protected_broker_is_one() -> None:
    (broker,) = config.parse(EXAMPLES["protected"]).ingest.mqtt

    assert broker.broker.tls
    (more,) = re.findall(r"```toml\n(cert.*?)```", TEXT, re.DOTALL)
    assert set(tomllib.loads(more)) == {"cert", "key"}


@pytest.mark.parametrize(
    "words",
    [
        "the broker rejected the connection: ",
        "the broker closed the connection",
        "not allowed to write",
        "does not allow publishing to",
        "another agent, ",
    ],
)
def test_the_documented_log_messages_are_logged(words: str) -> None:
    assert f"`{words}" in section("Troubleshooting").replace(
        "`the broker does", "`does"
    )
    assert any(
        words in path.read_text()
        for folder in ("client", "agent")
        for path in (ROOT / folder).rglob("*.py")
    )


def test_clients_are_separated_by_topic_prefix() -> None:
    passwords = {AGENT: "a", "shop": "s", "other": "o"}
    mine = "a" * 32
    with tempfile.TemporaryDirectory(prefix="kwb-") as folder:
        acl = Path(folder) / "page"
        acl.write_text(EXAMPLES["acl"])
        broker = Mosquitto(Path(folder), passwords=passwords, acl=acl)
        try:
            broker.start()
            with agent_at(broker, prefix="kaywatch/shop") as agent:
                agent.variables = variables(broker.access(), "kaywatch/shop")
                code = (
                    "import kaywatch\n"
                    "with kaywatch.execution('g', 'n'): pass\n"
                    "print(kaywatch.flush(10))"
                )
                assert agent.run(code) == "True\n"
                row = '{"node": "forged", "seconds": 1}'
                for user, prefix in (("other", "shop"), ("shop", "shop")):
                    up = f"kaywatch/{prefix}/v1/{mine}/up"
                    broker.publish(up, row, "-i", mine, user=user)
                broker.publish("kaywatch/shop/v1/shop/rows", row, user="other")
                broker.publish(
                    "kaywatch/shop/v1/shop/rows",
                    row.replace("forged", "mine"),
                    user="shop",
                )
                until(lambda: agent.executions() == {"n": 1, "mine": 1}, "its own")
            log = broker.log.read_text()
            assert log.count("Denied PUBLISH") == 2
        finally:
            broker.stop(signal.SIGKILL)
