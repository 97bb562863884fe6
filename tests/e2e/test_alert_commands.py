"""The commands about alerts, run against a real agent."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import forks
from tests.agents import DEADLINE, Agent, running_agent, until

from kaywatch_agent.rules.built_in import BUILT_IN

CONFIG = """
[defaults]
window = "1m"
for = "0"
keep_firing_for = "0"

[[rule]]
name = "checkout-fails"
metric = "error_rate"
op = ">"
value = 0.2
min_executions = 5
severity = "critical"

[[rule]]
name = "slow-and-busy"
when = "latency_p95 > 20 and throughput >= 1"
"""
APP = """
import kaywatch
for n in range(20):
    try:
        with kaywatch.execution("checkout", "pay"):
            if n % 2:
                raise TimeoutError("the provider said nothing")
    except TimeoutError:
        pass
    with kaywatch.execution("checkout", "load"):
        pass
kaywatch.flush(10)
"""

# JSON is not wrapped.
WIDE = {"--json", "--bodies"}
BODIES = """
[receiver.ops]
type = "slack"
webhook_url_file = "/run/secrets/slack"
[[rule]]
name = "fails"
metric = "error_rate"
op = ">"
value = 0.2
for = "0"
[[test]]
name = "receivers are notified"
[[test.executions]]
node = "pay"
count = 40
errors = 20
[[test.message]]
at = "0s"
to = "ops"
contains = ["error rate 50.0 %"]
body = { attachments = [{ color = "#f57c00" }] }
"""
PAGER = """
[receiver.pager]
type = "pagerduty"
routing_key_file = "/run/secrets/pagerduty"
"""


class Shell:
    """Runs commands of `kaywatch`, and returns their output."""

    def __init__(self, agent: Agent | None = None) -> None:
        self.agent = agent

    def __call__(self, *words: str, code: int = 0) -> str:
        python = self.agent.python if self.agent else sys.executable
        env = self.agent.environment if self.agent else None
        done = forks.run(python, *words, env=env)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        if code:
            return done.stdout + done.stderr
        assert not done.stderr
        for line in done.stdout.splitlines():
            assert len(line) <= 80 or line[0] == "/" or {*words} & WIDE, line
        return done.stdout


LOOPS = """
[[rule]]
name = "loops"
kind = "runaway"
max_node_visits = 20
for = "0"
"""
SPINS = """
import kaywatch, pocketflow, sys, threading

class Decide(pocketflow.Node):
    def post(self, shared, prep_res, exec_res):
        shared["left"] -= 1
        return "search" if shared["left"] and not stop.is_set() else "done"

class Search(pocketflow.Node):
    pass

class Short(pocketflow.Flow):
    pass

class Endless(pocketflow.Flow):
    pass

def run(flow, left):
    decide, search = Decide(), Search()
    decide - "search" >> search
    search >> decide
    decide - "done" >> pocketflow.Node()
    flow(start=decide).run({"left": left})

kaywatch.instrument()
stop = threading.Event()
run(Short, 21)
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set())).start()
run(Endless, 10**12)
"""


@pytest.fixture
def failing(installed: str, tmp_path: Path) -> Iterator[Shell]:
    """An agent with a firing alert."""
    config = tmp_path / "kaywatch.toml"
    config.write_text(CONFIG)
    with running_agent(installed, "--config", str(config)) as agent:
        agent.run(APP)
        until(lambda: agent.get("/health")["alerts_firing"], "an alert fires")
        yield Shell(agent)


def test_alerts_are_listed_explained_and_silenced(failing: Shell) -> None:
    text = failing("alerts")
    columns = text.split("\n")[1].split()
    assert columns[:2] == ["firing", "critical"]
    place = "checkout-fails: python / checkout / pay: error rate"
    assert " ".join(columns[3:]) == place
    assert "50.0 %, above 20.0 % (10 of 20 failed in 1m)" in text
    listed = json.loads(failing("alerts", "--json"))["alerts"]
    (name,) = {a["id"] for a in listed if a["rule"] == "checkout-fails"}
    assert failing("alerts", "--rule", "slow-and-busy") == "No matching alert fires.\n"

    for words in (
        [name],
        [name[:6]],
        ["checkout-fails"],
        ["checkout-fails", "node=pay"],
    ):
        text = failing("why", *words)
        assert text.startswith("checkout-fails  python / checkout / pay: firing since ")
        assert "value 50.0 %, threshold 20.0 %" in text
        assert "ok -> firing" in text
        assert "None sent: no receiver is configured" in text
        assert "errors: TimeoutError 10" in text
        assert "pay  TimeoutError: the provider said nothing" in text
    assert json.loads(failing("why", name, "--json"))["alert"]["id"] == name

    made = failing("silence", "add", "node=pay", "--for", "2h", "--by", "ann")
    silence = made.split()[0]
    assert "mutes 1 firing alert" in made
    assert f"silence {silence}" in failing("why", name)
    assert 'node="pay" (ann)' in failing("silence", "list")
    assert failing("silence", "expire", silence[:6]) == f"expired {silence}\n"
    assert failing("silence", "list") == "No silences.\n"
    strange = failing("silence", "add", "nod=pay")
    assert 'warning: no alert has the label "nod"; did you mean node?' in strange
    failing("silence", "expire", strange.split()[0])
    assert silence[:8] in failing("silence", "list", "--expired")


def test_an_inactive_rule_is_explained(failing: Shell) -> None:
    text = failing("why", "slow-and-busy")
    assert text.startswith("slow-and-busy: does not fire\n")
    assert "Nearest to firing" in text
    assert "not met (throughput " in text
    text = failing("why", "checkout-fails", "node=load")
    assert text.startswith("checkout-fails, load: does not fire\n")
    assert "checkout / load  0.0 %  20.0 %     20  not met" in text


def test_mistakes_get_a_line_each(failing: Shell) -> None:
    assert "did you mean 'checkout-fails'?" in failing("why", "checkout-fail", code=1)
    assert "unknown alert '0123" in failing("why", "0123456789abcdef", code=1)
    assert "such as node=pay" in failing("why", "checkout-fails", "pay", code=2)
    assert "invalid matcher pay" in failing(
        "silence", "add", "pay", "--for", "2h", code=2
    )
    assert 'invalid duration "soon"' in failing(
        "silence", "add", "a=b", "--for", "soon", code=2
    )
    everything = failing("silence", "add", "a!=b", "--for", "2h", code=1)
    assert "match every alert" in everything
    assert "unknown silence '123'" in failing("silence", "expire", "123", code=1)


def test_silences_and_timelines_survive_a_kill(failing: Shell) -> None:
    agent = failing.agent
    assert agent is not None
    (alert,) = _alert_of(agent, "checkout-fails")
    made = failing("silence", "add", "node=pay", "--for", "2h").split()[0]
    agent.stop(9)  # as soon as the response has arrived
    agent.start()  # without rules
    until(lambda: _alert_of(agent, "checkout-fails")[0]["state"] == "ok", "it is over")
    (result,) = _alert_of(agent, "checkout-fails")
    assert (result["id"], result["reason"]) == (alert["id"], "rule_removed")
    assert made[:8] in failing("silence", "list")
    assert "its rule was removed" in failing("why", alert["id"])


def _alert_of(agent: Agent, rule: str) -> list[dict[str, Any]]:
    response: list[dict[str, Any]] = agent.get("/api/v1/alerts", rule=rule)["alerts"]
    return response


def test_an_unsaved_silence_is_in_effect_and_reported(
    failing: Shell,
) -> None:
    agent = failing.agent
    assert agent is not None
    other = sqlite3.connect(agent.store, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    text = failing("silence", "add", "node=pay", "--for", "2h", code=1)
    assert "the change is in effect, but the store cannot save it yet" in text
    (row,) = agent.get("/api/v1/silences")["silences"]
    assert row["id"] in text
    assert row["status"] == {"state": "active"}
    other.execute("ROLLBACK")
    other.close()
    until(lambda: agent.get("/health")["status"] == "healthy", "it recovers")
    assert row["id"][:8] in failing("silence", "expire", row["id"][:8])


# -- without an agent ----------------------------------------------------------------


def test_rules_check_reports_all_errors(tmp_path: Path) -> None:
    shell, config = Shell(), tmp_path / "kaywatch.toml"
    config.write_text(CONFIG)
    text = shell("rules", "check", str(config))
    count = len(BUILT_IN) + CONFIG.count("[[rule]]")
    assert text.startswith(f"{config}:\n  {count} rules, 0 receivers\n")
    assert "error_rate > 0.2 over 1m, per service, graph and node" in text

    config.write_text(
        CONFIG.replace("metric", "metirc").replace("throughput", "thrupt")
    )
    text = shell("rules", "check", str(config), code=78)
    assert "rule[0].metirc: unknown key; did you mean metric?" in text
    assert "rule[1].when: thrupt: unknown metric" in text
    assert "cannot read" in shell("rules", "check", str(tmp_path / "none"), code=78)


def test_tests_of_rules_pass_and_fail(tmp_path: Path) -> None:
    shell, file = Shell(), tmp_path / "a.test.toml"
    (tmp_path / "kaywatch.toml").write_text(CONFIG)
    test = """
config = "kaywatch.toml"
[[test]]
name = "it fires"
[[test.executions]]
node = "pay"
count = 10
errors = 5
[[test.alerts]]
rule = "checkout-fails"
firing = [{ graph = "", node = "pay" }]
"""
    file.write_text(test)
    assert shell("rules", "test", str(file)) == "ok    it fires\n1 of 1 tests passed\n"
    file.write_text(test.replace("errors = 5", "errors = 1"))
    text = shell("rules", "test", str(file), code=1)
    assert "FAIL  it fires" in text
    assert "- firing     node=pay" in text
    failed = json.loads(shell("rules", "test", str(file), "--json", code=1))
    assert failed["failed"] == 1
    assert failed["tests"][0]["messages"] == []
    file.write_text("[[test]]\nnam = 1")
    assert "test[0].name: missing" in shell("rules", "test", str(file), code=78)
    file.write_text("[[tests]]")
    assert "tests: unknown key" in shell("rules", "test", str(file), code=78)


def test_bodies_are_shown_as_receivers_would_get_them(tmp_path: Path) -> None:
    shell, file = Shell(), tmp_path / "a.test.toml"
    file.write_text(BODIES)
    text = shell("rules", "test", str(file), "--bodies")
    first, line, body = text.partition("      0s ops firing, 1 alert\n")
    assert (first, bool(line)) == ("ok    receivers are notified\n", True)
    body, _, last = body.rpartition("\n1 of ")
    assert json.loads(body)["text"].startswith(
        ":large_orange_circle: *[FIRING] fails: app / pay*"
    )
    assert last == "1 tests passed\n"
    listed = json.loads(shell("rules", "test", str(file), "--json"))
    assert listed["tests"][0]["messages"][0]["body"] == json.loads(body)

    file.write_text(BODIES.replace("#f57c00", "#d32f2f"))
    text = shell("rules", "test", str(file), code=1)
    assert '      body.attachments[0].color: "#f57c00", expected "#d32f2f"' in text
    file.write_text('receivers = ["ops"]\n[[test]]\nname = "t"')
    text = shell("rules", "test", str(file), code=78)
    assert "receivers: unknown key; did you mean receiver?" in text
    file.write_text('config = "none.toml"\n[receiver.ops]\ntype = "slack"')
    text = shell("rules", "test", str(file), code=78)
    assert f"{file}: config: cannot be combined with [receiver]" in text


def test_rules_are_backtested_on_stored_history(past: Path, tmp_path: Path) -> None:
    shell, store = Shell(), ["--store", str(past)]
    # The last two of three outages: the 28 hours take three times as long.
    text = shell("rules", "backtest", "--since", "9h", *store)
    assert re.search("error_rate_max +2 +1 ", text)
    assert "memory_usage_max cannot be evaluated: memory_rss is not stored" in text
    assert "still firing" in text
    one = ["--since", "9h", *store, "--rule", "success_rate_min"]
    document = json.loads(shell("rules", "backtest", *one, "--json"))
    assert len(document["episodes"]) == 2
    assert not document["unseen"]
    (receiver,) = document["receivers"]
    assert receiver["messages"] == {"firing": 2, "repeat": 0, "resolved": 1}

    config = tmp_path / "kaywatch.toml"
    config.write_text(PAGER)
    one += ["--config", str(config)]
    text = shell("rules", "backtest", *one, "--bodies", "2")
    assert "pager            3       2        0         1               3" in text
    *_, body = text.split(" pager firing, 1 alert\n")
    assert json.loads(body)["event_action"] == "trigger"
    assert " pager resolved, 1 alert\n" in text

    wrong = [*store, "--rule", "sucess_rate_min"]
    text = shell("rules", "backtest", *wrong, code=2)
    assert "did you mean success_rate_min?" in text
    none = str(tmp_path / "none.db")
    assert "no such file" in shell("rules", "backtest", "--store", none, code=1)


def test_a_runaway_alert_names_its_node_during_the_run(
    installed: str, tmp_path: Path
) -> None:
    config = tmp_path / "kaywatch.toml"
    config.write_text(LOOPS)
    with running_agent(installed, "--config", str(config)) as agent:
        child = agent.spawn(SPINS)

        def firing() -> dict[tuple[str, str], Any]:
            alerts = agent.get("/api/v1/alerts", rule="loops", state="firing")["alerts"]
            return {(a["labels"]["graph"], a["labels"]["node"]): a for a in alerts}

        result = until(lambda: len(firing()) == 3 and firing(), "three nodes fire")
        assert child.poll() is None
        # Of the run that ended, Decide came 21 times and Search 20.
        assert result["Short", "Decide"]["value"] == 21
        assert result.keys() == {
            ("Short", "Decide"),
            ("Endless", "Decide"),
            ("Endless", "Search"),
        }
        assert f"pid {child.pid} on " in result["Endless", "Search"]["summary"]
        assert "Note" not in Shell(agent)("why", "loops", "graph=Short")
        value = result["Endless", "Search"]["value"]
        until(lambda: firing()["Endless", "Search"]["value"] > value, "it goes on")
        child.communicate("stop\n", timeout=DEADLINE)
        assert child.returncode == 0
