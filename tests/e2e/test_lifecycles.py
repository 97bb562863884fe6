"""All events of a process are counted, whatever its life cycle.

Each test runs real processes against an agent that runs from the installed wheel.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from tests import forks
from tests.agents import DEADLINE, Agent, free_port, running_agent, until

RECORD = """
import kaywatch, os, sys
def record(node, times):
    for _ in range(times):
        with kaywatch.execution("g", node):
            pass
"""


def states(agent: Agent) -> list[str]:
    return sorted(client["state"] for client in agent.clients())


def test_a_process_that_exits_at_once_loses_nothing(agent: Agent) -> None:
    agent.run(RECORD + "record('quick', 7)")

    assert agent.executions() == {"quick": 7}
    (client,) = agent.clients()
    assert client["state"] == "ended"
    assert client["events"] == client["recorded"] == 7
    assert client["completeness"] == 1.0


def test_a_process_that_ends_by_an_exception_loses_nothing(agent: Agent) -> None:
    agent.run(
        RECORD + "record('n', 3)\ntry:\n  sys.exit(0)\nfinally:\n  record('n', 1)\n"
    )

    assert agent.executions() == {"n": 4}


def test_where_no_thread_can_be_started_flush_and_exit_deliver(agent: Agent) -> None:
    printed = agent.run(
        RECORD
        + """
import threading
def refuse(thread): raise RuntimeError("can't start new thread")
threading.Thread.start = refuse
record('n', 10)
print(kaywatch.flush())
record('n', 5)
"""
    )

    assert printed == "True\n"
    assert agent.executions() == {"n": 15}


def test_without_an_agent_a_process_runs_and_ends_as_ever(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    agent.socket = "/nonexistent/ingest.sock"

    printed = agent.run(
        "import logging, sys; logging.basicConfig(stream=sys.stdout)\n"
        + RECORD
        + "record('n', 100000)\nprint(kaywatch.flush(5), kaywatch.client_stats())"
    )

    assert "False {" in printed
    assert "'recorded': 100000" in printed
    assert printed.count("kaywatch cannot send: /nonexistent/ingest.sock") == 1


def test_a_wrong_endpoint_in_the_environment_warns_and_breaks_nothing(
    tmp_path: Path,
) -> None:
    agent = Agent(tmp_path)

    printed = agent.run(
        "import logging, sys; logging.basicConfig(stream=sys.stdout)\n"
        + RECORD
        + "record('n', 1); kaywatch.flush(1); record('n', 1); kaywatch.flush(1)",
        KAYWATCH_ENDPOINT="smoke://signal",
    )

    assert printed.count("unknown scheme 'smoke'") == 1


def test_collecting_can_be_switched_off(agent: Agent) -> None:
    printed = agent.run(
        RECORD
        + "import threading; record('n', 10); kaywatch.observe('x', 1)\n"
        + "print(threading.active_count(), kaywatch.flush())",
        KAYGRAPH_COLLECT_METRICS="false",
    )

    assert printed.split() == ["1", "True"]
    assert agent.clients() == []


def test_a_forked_child_is_a_client_of_its_own(agent: Agent) -> None:
    agent.run(
        RECORD
        + """
record('parent', 5)
kaywatch.flush()
record('parent', 5)      # pending at the fork: the parent's, not the child's
pid = os.fork()
if pid == 0:
    record('child', 3)
    kaywatch.flush()
    os._exit(0)
os.waitpid(pid, 0)
record('parent', 1)
"""
    )

    until(lambda: states(agent) == ["ended", "ended"], "both said goodbye")
    assert agent.executions() == {"parent": 11, "child": 3}


@pytest.mark.parametrize("setter", ["settrace", "setprofile"])
def test_a_process_that_is_traced_forks_and_ends_as_ever(
    agent: Agent, setter: str
) -> None:
    agent.run(
        RECORD
        + f"""
import atexit
atexit.register(record, 'at-exit', 1)  # may be lost with Python 3.11
record('before', 5)
assert kaywatch.flush(10)
sys.{setter}(lambda *_: None)
pid = os.fork()
if pid == 0:
    record('child', 3)
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
record('after', 7)
"""
    )

    executions = agent.executions()
    executions.pop("at-exit", None)
    assert executions == {"before": 5, "child": 3, "after": 7}


def test_forking_often_from_several_threads_neither_warns_nor_loses(
    agent: Agent,
) -> None:
    # Python 3.12 and later warn about a fork with several threads: none may be ours.
    agent.run(
        "import warnings; warnings.simplefilter('error')\n"
        + RECORD
        + """
for _ in range(50):
    record('parent', 100)
    pid = os.fork()
    if pid == 0:
        record('child', 1)
        kaywatch.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""
    )
    agent.run(
        "import warnings; warnings.simplefilter('ignore')\n"
        + RECORD
        + """
import threading
record('first', 1)
def work():
    for n in range(10):
        record('thread', 100)
        if n % 3 == 0:
            assert kaywatch.flush(10)
        pid = os.fork()
        if pid == 0:
            record('grandchild', 1)
            kaywatch.flush()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
threads = [threading.Thread(target=work) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
"""
    )

    assert agent.executions() == {
        "parent": 5000,
        "child": 50,
        "first": 1,
        "thread": 4000,
        "grandchild": 40,
    }


def test_a_parent_that_forks_and_waits_sends_its_buffer(agent: Agent) -> None:
    # Like the master of a preforking server, it records no event after the fork.
    assert agent.process is not None
    agent.process.send_signal(signal.SIGSTOP)
    parent = agent.spawn(
        "import warnings; warnings.simplefilter('error')\n"
        + RECORD
        + """
record('parent', 3)
pid = os.fork()
if pid == 0:
    sys.stdin.readline()
    os._exit(0)
print("forked")
os.waitpid(pid, 0)
"""
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    assert parent.stdout.readline() == "forked\n"
    agent.process.send_signal(signal.SIGCONT)
    until(lambda: agent.executions() == {"parent": 3}, "its events arrive")
    parent.stdin.close()
    assert parent.wait(DEADLINE) == 0


def test_a_child_that_outlives_its_parent_does_not_hide_its_end(agent: Agent) -> None:
    # The child must not keep the parent's connection open.
    parent = agent.spawn(
        RECORD
        + """
import time
record('parent', 2)
kaywatch.flush()
told, tell = os.pipe()
if os.fork() == 0:
    os.write(tell, str(os.getpid()).encode())
    os.close(1)
    time.sleep(60)
    os._exit(0)
print(os.read(told, 20).decode())
os.kill(os.getpid(), 9)
"""
    )
    assert parent.stdout is not None
    child = int(parent.stdout.read())
    parent.wait()
    try:
        until(lambda: states(agent) == ["died"], "the parent's death is seen")
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing_children_lose_nothing(
    agent: Agent, method: str, tmp_path: Path
) -> None:
    script = tmp_path / "app.py"
    script.write_text(
        RECORD
        + f"""
import multiprocessing
if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    record('parent', 4)
    children = [context.Process(target=record, args=('child', 10)) for _ in range(3)]
    for child in children: child.start()
    for child in children: child.join()
    assert all(child.exitcode == 0 for child in children)
    with context.Pool(2) as pool:
        pool.starmap(record, [('pool', 1)] * 20)
        pool.close()
        pool.join()
"""
    )
    agent.run_script(script)

    assert agent.executions() == {"parent": 4, "child": 30, "pool": 20}
    until(lambda: set(states(agent)) == {"ended"}, "all said goodbye")


def test_a_prefork_server_counts_every_request(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        RECORD
        + """
record('preload', 1)
def app(environ, start_response):
    record('request', 1)
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [str(os.getpid()).encode()]
"""
    )
    # gunicorn forgets a SIGTERM that reaches a worker while it starts.
    (tmp_path / "hooks.py").write_text(
        "import os\ndef post_worker_init(worker): os.write(1, b'ready\\n')"
    )
    port = free_port()
    server = agent.spawn(
        f"""
import sys
sys.argv = ["gunicorn", "--preload", "--workers=3", "--bind=127.0.0.1:{port}",
            "--log-level=critical", "--chdir={tmp_path}", "--no-control-socket",
            "--config={tmp_path}/hooks.py", "shop:app"]
from gunicorn.app.wsgiapp import run
run()
"""
    )
    url = f"http://127.0.0.1:{port}/"

    def answers() -> bool:
        try:
            with urlopen(url, timeout=DEADLINE):
                return True
        except OSError:
            return False

    assert server.stdout is not None
    assert [server.stdout.readline() for _ in range(3)] == ["ready\n"] * 3
    for _ in range(60):
        assert answers()
    server.terminate()
    server.wait(DEADLINE)

    assert agent.executions() == {"preload": 1, "request": 60}


def test_a_killed_process_died_with_its_nodes_in_flight(agent: Agent) -> None:
    child = agent.spawn(
        RECORD
        + """
record('done', 5)
with kaywatch.execution("g", "endless"):
    import time
    time.sleep(0.01)
    kaywatch.flush()
    print("now")
    time.sleep(60)
"""
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "now\n"
    until(lambda: any(c["in_flight"] for c in agent.clients()), "the node is in flight")
    child.kill()
    child.wait()

    (client,) = until(
        lambda: [c for c in agent.clients() if c["state"] == "died"], "it died"
    )
    assert client["pid"] == child.pid
    assert [flight["node"] for flight in client["in_flight"]] == ["endless"]
    assert agent.executions() == {"done": 5}


HANGING = {
    "block": "with kaywatch.execution('g', 'Hang'): time.sleep(60)",
    "flow": """
from pocketflow import Flow, Node
kaywatch.instrument()
class Hang(Node):
    def exec(self, prep_res):
        time.sleep(60)
Flow(start=Hang()).run({})
""",
    "node": """
from pocketflow import Node
kaywatch.instrument()
class Hang(Node):
    def exec(self, prep_res):
        time.sleep(60)
Hang().run({})
""",
}


@pytest.mark.parametrize("way", HANGING)
def test_a_process_whose_first_node_hangs_is_known_with_this_node(
    agent: Agent, way: str
) -> None:
    child = agent.spawn("import kaywatch, time\n" + HANGING[way])

    (client,) = until(
        lambda: [one for one in agent.clients() if one["in_flight"]],
        "the node is in flight",
    )
    assert client["pid"] == child.pid
    assert [flight["node"] for flight in client["in_flight"]] == ["Hang"]


def test_an_agent_started_later_gets_earlier_events(
    installed: str, tmp_path: Path
) -> None:
    with running_agent(installed) as agent:
        agent.stop()
        child = agent.spawn(
            RECORD
            + "record('early', 1000)\nprint('recorded')\nsys.stdin.readline()\n"
            + "record('late', 10)\n"
        )
        assert child.stdout is not None and child.stdin is not None
        assert child.stdout.readline() == "recorded\n"
        agent.start()
        until(lambda: agent.executions() == {"early": 1000}, "the backlog arrives")
        child.stdin.write("\n")
        child.stdin.close()

        assert child.wait(DEADLINE) == 0
        assert agent.executions() == {"early": 1000, "late": 10}


def test_an_agent_that_restarts_gets_unacknowledged_batches(
    agent: Agent,
) -> None:
    child = agent.spawn(
        RECORD
        + """
for line in sys.stdin:
    record('n', int(line))
    print(kaywatch.flush(1), kaywatch.client_stats()["acknowledged"])
"""
    )
    assert child.stdin is not None and child.stdout is not None

    def record(times: int) -> str:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(f"{times}\n")
        child.stdin.flush()
        return child.stdout.readline()

    assert record(10) == "True 10\n"
    assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
    assert record(20) == "False 10\n"
    agent.start()
    until(lambda: agent.executions() == {"n": 30}, "the rest arrives, once")
    assert record(1) == "True 31\n"
    child.stdin.close()

    assert child.wait(DEADLINE) == 0
    assert agent.executions() == {"n": 31}


def test_an_agent_that_is_frozen_for_a_while_counts_everything_once(
    agent: Agent,
) -> None:
    assert agent.process is not None
    child = agent.spawn(
        RECORD + "record('n', 5)\nkaywatch.flush()\n"
        "for line in sys.stdin: record('n', 1000); print('recorded')\n"
    )
    assert child.stdin is not None and child.stdout is not None
    until(lambda: agent.executions() == {"n": 5}, "the first arrive")
    agent.process.send_signal(signal.SIGSTOP)
    for _ in range(30):
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "recorded\n"
        time.sleep(0.1)  # give the sender time to block on the stopped agent
    agent.process.send_signal(signal.SIGCONT)

    until(lambda: agent.executions() == {"n": 30005}, "all arrive")
    child.stdin.close()
    assert child.wait(DEADLINE) == 0
    assert agent.executions() == {"n": 30005}


def test_threads_and_tasks_count_exactly(agent: Agent) -> None:
    agent.run(
        RECORD
        + """
import asyncio, threading
async def task(node):
    for _ in range(200):
        with kaywatch.execution("g", node) as e:
            await asyncio.sleep(0)
            kaywatch.count("steps")
async def main():
    await asyncio.gather(*(task(f"task{n % 4}") for n in range(40)))
threads = [threading.Thread(target=record, args=(f"thread{n % 4}", 20000))
           for n in range(8)]
for t in threads: t.start()
asyncio.run(main())
for t in threads: t.join()
"""
    )

    expected = {f"task{n}": 2000 for n in range(4)}
    expected |= {f"thread{n}": 40000 for n in range(4)}
    assert agent.executions() == expected
    (steps,) = agent.node("task1")["custom"]
    assert (steps["name"], steps["sum"]) == ("steps", 2000)


def test_recording_from_finalizers_signals_and_log_handlers_is_safe(
    agent: Agent,
) -> None:
    printed = agent.run(
        RECORD
        + """
import gc, logging, signal
class Cyclic:
    def __init__(self): self.me = self
    def __del__(self): kaywatch.observe("finalized", 1.0)
class Handler(logging.Handler):
    def emit(self, entry): kaywatch.count("logged")
logging.getLogger().addHandler(Handler())
logging.getLogger("kaywatch").setLevel(1)
signals = 0
def on_signal(*_):
    global signals
    signals += 1
    record("signal", 1)
signal.signal(signal.SIGALRM, on_signal)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
gc.set_threshold(10)
for n in range(20000):
    Cyclic()
    with kaywatch.execution("g", f"n{n % 500}"): pass
signal.setitimer(signal.ITIMER_REAL, 0)
gc.collect()
logging.getLogger("app").warning("done")
print(signals)
"""
    )

    counted = agent.executions()
    assert counted.pop("signal") == int(printed)
    assert sum(counted.values()) == 20000
    (series,) = agent.get("/api/v1/query", metric="finalized", step=3600)["series"]
    (finalized,) = series["points"][-1:]
    assert finalized is not None


def test_an_agent_that_is_stopped_ends_cleanly(agent: Agent) -> None:
    child = agent.spawn(RECORD + "record('n', 5); kaywatch.flush(); sys.stdin.read()")
    until(lambda: agent.executions() == {"n": 5}, "they arrive")
    path = agent.socket

    assert agent.stop(signal.SIGTERM) == 0
    assert not os.path.exists(path)
    assert agent.log[-1]["event"] == "stopped"
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(DEADLINE) == 0


def test_a_second_agent_on_the_same_socket_is_refused(
    agent: Agent, installed: str
) -> None:
    second = forks.run(
        installed, "serve", "--socket", agent.socket, "--http", "127.0.0.1:0"
    )

    assert second.returncode == 1
    assert "another agent listens on" in second.stderr
    assert "Traceback" not in second.stderr
    agent.run(RECORD + "record('n', 1)")
    assert agent.executions() == {"n": 1}


def test_a_socket_left_behind_by_a_killed_agent_is_taken_over(agent: Agent) -> None:
    agent.stop(signal.SIGKILL)
    assert os.path.exists(agent.socket)
    agent.start()

    agent.run(RECORD + "record('n', 1)")
    assert agent.executions() == {"n": 1}


def test_an_agent_unreachable_by_clients_is_unhealthy(agent: Agent) -> None:
    def ingest() -> dict[str, Any]:
        response: dict[str, Any] = agent.get("/health")["stages"]["ingest"]
        return response

    until(lambda: ingest()["ready"], "the first probe")
    assert ingest()["status"] == "healthy"
    assert not agent.clients()

    os.rename(agent.socket, agent.socket + ".away")
    problem = until(lambda: ingest()["problem"], "the loss is reported")
    assert problem == (
        f"{agent.socket} was deleted: restart the agent to create it again"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(agent.socket)
        other.listen()
        until(
            lambda: f"process {os.getpid()} listens there" in ingest()["problem"],
            "the other process is reported",
        )
    assert agent.get("/health")["status"] == "degraded"
    os.rename(agent.socket + ".away", agent.socket)
    until(lambda: agent.get("/health")["status"] == "healthy", "it recovers")
    agent.run(RECORD + "record('n', 3)")
    assert agent.executions() == {"n": 3}
    (client,) = agent.clients()
    assert client["events"] == 3


def test_a_terminal_that_lacks_characters_shows_others(agent: Agent) -> None:
    agent.run(
        "import kaywatch\nwith kaywatch.execution('gé', 'n→'): pass\n"
        "print(kaywatch.flush(10))",
        KAYWATCH_SERVICE="é",
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = Path(agent.python).with_name("kaywatch")
    for arguments, expected in ((["status"], b"n?"), (["stats", "n→"], b"g?")):
        done = subprocess.run(
            [command, *arguments],
            env={**agent.environment, **plain, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert expected in done.stdout
