"""A real instrumented process pushes over each broker, in each version of MQTT."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.agents import until
from tests.brokers import PASSWORDS, Broker, run_broker
from tests.mqtt import agent_at, each_broker

FLOW = """
import sys, kaywatch, pocketflow

class Load(pocketflow.Node):
    def exec(self, _): return "found"

class Pay(pocketflow.Node):
    def exec(self, _):
        raise TimeoutError("the bank is slow")
    def exec_fallback(self, _, error): return "later"
    def post(self, shared, _, done): return done

class Later(pocketflow.Node):
    pass

load, pay, later = Load(), Pay(max_retries=2), Later()
load >> pay
pay - "later" >> later
flow = pocketflow.Flow(load)
for _ in range(int(sys.argv[1])):
    flow.run({})
if sys.argv[2:]:
    assert kaywatch.flush(20), kaywatch.client_stats()
    print("stays", flush=True)
    sys.stdin.read()
"""


@each_broker
def test_an_instrumented_flow_is_counted_to_the_last_node(
    broker: Broker, version: int, tmp_path: Path
) -> None:
    script = tmp_path / "flow.py"
    script.write_text(FLOW)
    run = "import sys, kaywatch.launch as l; sys.exit(l.main(sys.argv[1:]))"
    with agent_at(broker, version=version) as agent:
        agent.run(run, "--service", "shop", "--", agent.python, str(script), "300")
        until(lambda: [c["state"] for c in agent.clients()] == ["ended"], "its goodbye")

        assert agent.executions() == {"Load": 300, "Pay": 300, "Later": 300}
        stats = agent.node("Pay")
        assert stats["total_retries"] == 300
        assert "fallback" in agent.command("stats", "Pay")
        graph = agent.get("/api/v1/graphs/Flow[Load]/stats")
        assert graph["total_executions"] == 300
        assert graph["transition_counts"]["Pay->later"] == 300
        (client,) = agent.clients()
        assert (client["service"], client["completeness"]) == ("shop", 1.0)
        assert client["memory_mb"] is not None


@each_broker
def test_an_instrumented_flow_that_is_killed_has_died(
    broker: Broker, version: int
) -> None:
    code = FLOW.replace("import sys, kaywatch", "import kaywatch; import sys").replace(
        "class Load", "kaywatch.instrument()\nclass Load"
    )
    with agent_at(broker, version=version) as agent:
        child = agent.spawn(code, "5", "stay")
        assert child.stdout is not None and child.stdout.readline() == "stays\n"
        assert [c["state"] for c in agent.clients()] == ["connected"]
        child.send_signal(signal.SIGKILL)
        until(lambda: [c["state"] for c in agent.clients()] == ["died"], "its death")

        assert agent.executions() == {"Load": 5, "Pay": 5, "Later": 5}


def test_a_password_is_in_no_log_and_no_answer() -> None:
    with run_broker("mosquitto-tls") as broker, agent_at(broker) as agent:
        agent.run("import kaywatch\nwith kaywatch.execution('g', 'n'): pass")
        until(lambda: agent.executions() == {"n": 1}, "it is counted")
        output = [agent.log, agent.get("/health"), agent.get("/api/v1/clients")]

        assert "127.0.0.1" in str(output)
        assert not [one for one in PASSWORDS.values() if one in str(output)]
