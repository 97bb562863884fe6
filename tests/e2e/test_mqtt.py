"""The guarantees over a broker are the same as over the socket."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.agents import DEADLINE, Agent, until
from tests.brokers import AGENT, CLIENT, Broker, run_broker
from tests.cuts import way_to
from tests.mqtt import (
    agent_at,
    both_ways,
    is_listening,
    settings,
    variables,
    with_connection,
)

from kaywatch import wire

RECORD = """
import sys, kaywatch
for _ in range(int(sys.argv[1])):
    with kaywatch.execution("g", "n"):
        pass
print(kaywatch.flush(20))
"""

STAY = """
import sys, kaywatch
with kaywatch.execution("g", "first"):
    pass
assert kaywatch.flush(20), kaywatch.client_stats()
print(kaywatch.client_stats()["client"])
for line in sys.stdin:
    for _ in range(int(line)):
        with kaywatch.execution("g", "n"):
            pass
    print(kaywatch.flush(20))
"""


@pytest.fixture
def mosquitto() -> Iterator[Broker]:
    with run_broker("mosquitto") as broker:
        yield broker


def client_of(agent: Agent, name: str) -> dict[str, Any]:
    return next(c for c in agent.clients() if c["client"] == name)


def metric(agent: Agent, name: str, **labels: str) -> float:
    from urllib.request import urlopen

    with urlopen(f"{agent.url}/metrics", timeout=DEADLINE) as response:
        text = response.read().decode()
    expected = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if re.match(rf"{name}[ {{]", line) and all(one in line for one in expected)
    )


def test_recorded_events_are_counted(mosquitto: Broker) -> None:
    with agent_at(mosquitto) as agent:
        assert agent.run(RECORD, "12000") == "True\n"

        assert agent.executions() == {"n": 12_000}
        (client,) = agent.clients()
        assert client["state"] == "ended"
        assert client["completeness"] == 1.0


@pytest.mark.parametrize(
    "line",
    ["max_packet_size 149504", "max_packet_size 30000", "message_size_limit 100000"],
)
def test_batches_are_split_for_the_packet_limit_of_a_broker(line: str) -> None:
    # AWS IoT's limit and a small one are announced to MQTT 5; the third is not.
    with run_broker("mosquitto", line) as broker, agent_at(broker) as agent:
        code = f"import logging, sys\nlogging.basicConfig(stream=sys.stdout)\n{RECORD}"
        output = agent.run(code, "12000")

        assert output.endswith("True\n")
        is_learned = "closes the connection after a message" in output
        assert is_learned == line.startswith("message_size_limit")
        assert agent.executions() == {"n": 12_000}
        (client,) = agent.clients()
        assert client["dropped"] == {}


def test_at_an_exit_the_agent_says_what_a_broker_with_a_limit_has_delivered() -> None:
    """An exit has two seconds, and a commit that nobody confirms counts after three."""
    with (
        run_broker("mosquitto", "message_size_limit 100000") as broker,
        agent_at(broker) as agent,
    ):
        agent.run(
            "import logging, sys\nlogging.basicConfig(stream=sys.stdout)\n"
            "from kaywatch._send import session\nsession.COMMIT_TIMEOUT = 1_000.0\n"
            "import kaywatch\nkaywatch.configure(exit_timeout=30)\n"
            + RECORD.replace("print(kaywatch.flush(20))", ""),
            "12000",
        )

        assert agent.executions() == {"n": 12_000}
        (client,) = agent.clients()
        assert (client["state"], client["dropped"]) == ("ended", {})


def test_a_broker_that_knows_311_alone_is_spoken_to_in_it(mosquitto: Broker) -> None:
    with (
        both_ways(mosquitto, only_old=True) as (near, far),
        agent_at(mosquitto, way=near) as agent,
    ):
        agent.variables = variables(with_connection(mosquitto.access(), far))
        assert agent.run(RECORD, "10") == "True\n"

        assert agent.executions() == {"n": 10}
        assert agent._find_logged("broker connected")["mqtt"] == "3.1.1"


def test_a_shell_pushes_rows_in_json(mosquitto: Broker) -> None:
    row = {"service": "cron", "graph": "checkout", "node": "pay", "seconds": 0.12}
    several = [{"node": "ship", "seconds": 1}, {"metric": "size", "value": 3}]
    with agent_at(mosquitto) as agent:
        mosquitto.publish("kaywatch/v1/nightly/rows", json.dumps(row))
        mosquitto.publish("kaywatch/v1/nightly/rows", json.dumps(several))
        mosquitto.publish("kaywatch/v1/nightly/rows", json.dumps({"events": several}))
        until(lambda: agent.executions() == {"pay": 1, "ship": 2}, "they are counted")

        assert "pay" in agent.command("stats", "pay", "--graph", "checkout")
        (client,) = agent.clients()
        assert (client["client"], client["state"]) == ("anonymous-nightly", "ended")


def test_the_example_of_the_protocol_works(mosquitto: Broker) -> None:
    page = (Path(wire.__file__).parent / "PROTOCOL.md").read_text()
    (script,) = re.findall(r"^```sh mosquitto\n((?s:.*?))^```$", page, re.MULTILINE)
    options = shlex.join(["mosquitto_pub", *mosquitto.access().options()])
    with agent_at(mosquitto) as agent:
        subprocess.run(["sh", "-ec", script.replace("mosquitto_pub", options)])
        until(lambda: agent.executions() == {"backup": 1}, "it is counted")

        assert agent.node("backup")["avg_execution_time"] == 312.0


@pytest.mark.parametrize("only_old", [False, True], ids=["v5", "v3.1.1"])
def test_rows_wait_at_the_broker_for_an_agent_that_is_away(
    mosquitto: Broker, only_old: bool
) -> None:
    row = json.dumps({"node": "backup", "seconds": 1})
    with (
        both_ways(mosquitto, only_old) as (near, _),
        agent_at(mosquitto, way=near) as agent,
    ):
        agent.stop()
        for _ in range(5):
            mosquitto.publish("kaywatch/v1/nightly/rows", row)
        agent.start()

        until(lambda: agent.executions() == {"backup": 5}, "they are counted")


def test_a_capture_includes_messages_of_a_broker(mosquitto: Broker) -> None:
    with agent_at(mosquitto) as agent:
        file = agent.folder / "work.kwcap"
        capture = agent.start_process(
            *(agent.python, "-m", "kaywatch_agent", "capture", str(file)),
            *("--socket", agent.socket, "--seconds", "4"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        until(lambda: metric(agent, "kaywatch_captures") == 1, "it captures")
        agent.run(RECORD, "100")
        mosquitto.publish("kaywatch/v1/cron/rows", '{"node": "shell", "seconds": 1}')
        output, _ = capture.communicate(timeout=DEADLINE)
        assert capture.returncode == 0, output
        agent.command("replay", str(file), "--socket", agent.socket)

        until(lambda: agent.executions() == {"n": 200, "shell": 2}, "it is replayed")


def test_without_paho_the_error_names_the_extra(mosquitto: Broker) -> None:
    code = """
import sys
sys.modules["paho"] = None
import kaywatch
try:
    kaywatch.configure(endpoint="mqtt://localhost")
except kaywatch.ConfigurationError as error:
    print(error)
"""
    with agent_at(mosquitto) as agent:
        assert "pip install 'kaywatch[mqtt]'" in agent.run(code)


def test_a_shell_gets_errors_as_json(mosquitto: Broker) -> None:
    with (
        agent_at(mosquitto) as agent,
        mosquitto.subscribe("kaywatch/v1/nightly/down") as answers,
    ):
        mosquitto.publish("kaywatch/v1/nightly/rows", '{"node": "pay"}')
        mosquitto.publish("kaywatch/v1/nightly/rows", "pay took long")
        mosquitto.publish("kaywatch/v1/nightly/rows", '{"node": "n", "seconds": 1}')
        bad, worse = (json.loads(one.payload) for one in answers.wait(2))
        until(lambda: agent.executions() == {"n": 1}, "the others are counted")

        assert (bad["code"], worse["code"]) == ("bad_row", "bad_json")
        assert "seconds" in bad["text"]
        assert metric(agent, "kaywatch_rejected_total", reason="bad_row") == 1
        assert metric(agent, "kaywatch_rejected_total", reason="bad_json") == 1


def test_a_process_reports_its_own_memory_and_cpu(mosquitto: Broker) -> None:
    with agent_at(mosquitto) as agent:
        child = agent.spawn(STAY)
        name = child.stdout.readline().strip()

        result = until(lambda: client_of(agent, name)["memory_mb"], "it is reported")
        assert 5 < result < 500
        assert client_of(agent, name)["pid"] == child.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_broker_that_restarts_is_no_death(
    mosquitto: Broker, number: signal.Signals
) -> None:
    with agent_at(mosquitto, grace_seconds=10) as agent:
        child = agent.spawn(STAY)
        name = child.stdout.readline().strip()
        mosquitto.stop(number)
        until(lambda: client_of(agent, name)["state"] == "disconnected", "it is missed")
        until(lambda: agent.get("/health")["status"] == "degraded", "it is said")
        mosquitto.start()

        until(lambda: client_of(agent, name)["state"] == "connected", "it is back")
        child.stdin.write("7\n")
        child.stdin.flush()
        assert child.stdout.readline() == "True\n"
        assert agent.executions() == {"first": 1, "n": 7}


def test_a_client_that_dies_during_a_broker_outage_is_dead(mosquitto: Broker) -> None:
    with agent_at(mosquitto) as agent:
        child = agent.spawn(STAY)
        name = child.stdout.readline().strip()
        mosquitto.stop(signal.SIGKILL)
        child.kill()
        until(lambda: client_of(agent, name)["state"] == "disconnected", "it is missed")
        mosquitto.start()

        until(lambda: client_of(agent, name)["state"] == "died", "it has died")


def test_a_client_that_dies_during_an_agent_outage_is_dead(mosquitto: Broker) -> None:
    with agent_at(mosquitto) as agent:
        dead, alive = agent.spawn(STAY), agent.spawn(STAY)
        gone = dead.stdout.readline().strip()
        here = alive.stdout.readline().strip()
        agent.stop(signal.SIGKILL)
        dead.kill()
        agent.start()

        until(lambda: client_of(agent, gone)["state"] == "died", "it has died")
        assert client_of(agent, here)["state"] == "connected"


def test_clients_buffer_while_the_agent_is_offline(
    mosquitto: Broker,
) -> None:
    with agent_at(mosquitto) as agent:
        child = agent.spawn(STAY)
        child.stdout.readline()
        agent.stop()
        with mosquitto.subscribe("kaywatch/v1/+/up") as seen:
            child.stdin.write("20000\n")
            child.stdin.flush()
            agent.start()
            assert child.stdout.readline() == "True\n"
            kinds = [wire.decode(one.payload)["type"] for one in seen.messages]

        assert agent.executions() == {"first": 1, "n": 20_000}
        # Nothing is sent without an agent, which must answer the hello first.
        assert kinds[0] == "hello"


def test_a_client_writes_only_as_itself(mosquitto: Broker) -> None:
    one, other = b"a" * 16, b"b" * 16
    message = wire.batch(
        client=other,
        seq=1,
        sent=0.0,
        service="s",
        recorded=1,
        sections={"events": [{"node": "n", "seconds": 1.0}]},
    )
    with (
        agent_at(mosquitto) as agent,
        mosquitto.subscribe(f"kaywatch/v1/{one.hex()}/down") as answers,
    ):
        mosquitto.publish(f"kaywatch/v1/{one.hex()}/up", message)
        (answer,) = answers.wait()
        mosquitto.publish(f"kaywatch/v1/{other.hex()}/up", message)
        until(lambda: agent.executions() == {"n": 1}, "it is counted")

        assert wire.decode(answer.payload)["code"] == "forbidden"
        assert metric(agent, "kaywatch_rejected_total", reason="forbidden") == 1


def test_retained_messages_are_counted_once(mosquitto: Broker) -> None:
    name = "c" * 32
    row = wire.pack({"type": "batch", "events": [{"node": "n", "seconds": 1.0}]})
    mosquitto.publish(f"kaywatch/v1/{name}/up", row, "-r")
    with agent_at(mosquitto) as agent:
        agent.stop()
        agent.start()
        until(lambda: is_listening(agent), "it hears the broker again")
        until(
            lambda: metric(agent, "kaywatch_mqtt_ignored_total", reason="retained"),
            "it is ignored",
        )

        assert agent.executions() == {}


def test_junk_on_all_topics_disturbs_nothing(mosquitto: Broker) -> None:
    with agent_at(mosquitto) as agent:
        for number, payload in enumerate(
            (b" ", b"\xc1", b"\x80", b"[[[[", b"x" * 70_000)
        ):
            for leaf in ("up", "rows", "gone", "down", "up/x", "$share"):
                mosquitto.publish(f"kaywatch/v1/{number:032x}/{leaf}", payload)
            mosquitto.publish("kaywatch/v1/no-id/up", payload)
            mosquitto.publish("kaywatch/v1/agent/rows", payload)
        assert agent.run(RECORD, "10") == "True\n"

        assert agent.executions() == {"n": 10}
        ignored = metric(agent, "kaywatch_mqtt_ignored_total", reason="topic")
        assert ignored == 10
        assert len(agent.clients()) == 1


def test_a_hole_is_asked_for_and_not_skipped(mosquitto: Broker) -> None:
    name = b"d" * 16

    def batch(seq: int) -> bytes:
        return wire.batch(
            client=name,
            seq=seq,
            sent=0.0,
            service="s",
            recorded=seq,
            sections={"events": [{"node": f"n{seq}", "seconds": 1.0}]},
        )

    up = f"kaywatch/v1/{name.hex()}/up"
    with (
        agent_at(mosquitto) as agent,
        mosquitto.subscribe(f"kaywatch/v1/{name.hex()}/down") as answers,
    ):
        for seq in (1, 3):
            mosquitto.publish(up, batch(seq))
        until(
            lambda: any(
                wire.decode(one.payload)["type"] == "resend" for one in answers.messages
            ),
            "it is asked for",
        )
        assert agent.executions().get("n3") is None
        for seq in (2, 3, 3, 1):
            mosquitto.publish(up, batch(seq))
        until(lambda: agent.executions().get("n3") == 1, "all are counted")

        assert agent.executions() == {"n1": 1, "n2": 1, "n3": 1}
        assert metric(agent, "kaywatch_duplicate_batches_total") == 2


def test_a_fork_has_a_connection_of_its_own(mosquitto: Broker) -> None:
    code = """
import os, kaywatch
with kaywatch.execution("g", "parent"): pass
assert kaywatch.flush(20)
if os.fork() == 0:
    with kaywatch.execution("g", "child"): pass
    print(kaywatch.flush(20), flush=True)
    os._exit(0)
os.wait()
with kaywatch.execution("g", "parent"): pass
print(kaywatch.flush(20), kaywatch.client_stats()["error"])
"""
    with agent_at(mosquitto) as agent:
        assert agent.run(code) == "True\nTrue \n"
        assert agent.executions() == {"parent": 2, "child": 1}


def test_a_wrong_password_is_logged_once_without_its_text() -> None:
    code = """
import sys, time, logging, kaywatch
logging.basicConfig(stream=sys.stdout, format="%(message)s")
with kaywatch.execution("g", "n"): pass
end = time.monotonic() + 20
while not kaywatch.client_stats()["error"] and time.monotonic() < end:
    time.sleep(0.05)
print(kaywatch.client_stats())
"""
    with run_broker("mosquitto-password") as broker, agent_at(broker) as agent:
        url = agent.variables["KAYWATCH_ENDPOINT"].replace(
            f"{CLIENT}@", f"{CLIENT}:guessed-secret@"
        )
        output = agent.run(code, KAYWATCH_ENDPOINT=url, KAYWATCH_MQTT_PASSWORD="")

    assert "guessed-secret" not in output
    assert output.count("kaywatch cannot send: the broker rejected the connection") == 1


def test_a_broker_that_is_not_there_holds_up_no_exit(mosquitto: Broker) -> None:
    code = """
import logging, sys, kaywatch
logging.basicConfig(stream=sys.stdout, format="%(message)s")
with kaywatch.execution("g", "n"): pass
print(kaywatch.flush(1.0))
"""
    with way_to(mosquitto.access().port) as way, agent_at(mosquitto) as agent:
        agent.variables = variables(with_connection(mosquitto.access(), way))
        way.freeze()
        flushed, undelivered = agent.run(code).splitlines()
        assert flushed == "False"
        assert "undelivered events: 1; no agent has answered" in undelivered
        way.cut()
        assert sorted(agent.run(code).splitlines()) == [
            "False",
            "kaywatch cannot send: Connection refused",
        ]


def test_brokers_can_not_be_changed_by_a_reload(mosquitto: Broker) -> None:
    with agent_at(mosquitto) as agent:
        config = agent.folder / "kaywatch.toml"
        config.write_text(settings(mosquitto.access(AGENT), prefix="other"))
        agent.process.send_signal(signal.SIGHUP)

        until(
            lambda: any("ingest.mqtt: cannot be changed" in str(x) for x in agent.log),
            "it is said",
        )
        assert agent.run(RECORD, "10") == "True\n"
