"""Run applications in real servers: start, use, reload, kill and stop them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.agents import DEADLINE, Agent, free_port, until

__all__ = ["BIN", "CELLS", "REDIS", "TASKS", "Server", "write_applications"]

BIN = Path(sys.executable).parent
REDIS = "redis.sock"
TASKS = 12  # of each kind of pool
CELLS = 18  # cells of the notebook that record an event

SHOP = """
import kaywatch

# Beside other tests, a process may get less than the default of 2 s allows for.
kaywatch.configure(exit_timeout=8)

def work(*_):
    with kaywatch.execution("shop", "request"):
        pass

def wsgi(environ, start_response):
    work()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return
    work()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""

QUEUE = """
import os
from celery import Celery
import shop

app = Celery("tasks", broker=os.environ["BROKER"])
app.conf.task_ignore_result = True
app.conf.worker_pool_restarts = True
app.task(shop.work, name="work")
"""

# Half of the tasks run in a pool that is closed, the others in one that is terminated.
POOLS = f"""
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import shop

TASKS = range({TASKS} // 2)

def run_pools(method):
    context = multiprocessing.get_context(method)
    with context.Pool(2, maxtasksperchild=2) as pool:
        pool.map(shop.work, TASKS, chunksize=1)
        pool.close()
        pool.join()
    with context.Pool(2) as pool:
        pool.map(shop.work, TASKS, chunksize=1)

def run_futures():
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(shop.work, TASKS))
    spawn = multiprocessing.get_context("spawn")
    # CPython can hang after more tasks than one for each child (gh-115634).
    with ProcessPoolExecutor(2, spawn, max_tasks_per_child=1) as pool:
        list(pool.map(shop.work, TASKS))

def run_joblib():
    import joblib
    joblib.Parallel(2)(joblib.delayed(shop.work)(task) for task in TASKS)
    joblib.Parallel(2, "multiprocessing")(
        joblib.delayed(shop.work)(task) for task in TASKS)

if __name__ == "__main__":
    if sys.argv[1] == "futures":
        run_futures()
    elif sys.argv[1] == "joblib":
        run_joblib()
    else:
        run_pools(sys.argv[1])
"""

# Run cells, interrupt one, restart the kernel, and run cells again.
NOTEBOOK = f"""
from jupyter_client.manager import start_new_kernel

def run(cell):
    reply = client.execute_interactive(cell, timeout=30, output_hook=print)
    return reply["content"]["status"]

def interrupt(message):
    if message["msg_type"] == "stream":
        manager.interrupt_kernel()

manager, client = start_new_kernel()
for _ in range({CELLS} // 2 - 1):
    assert run("import shop; shop.work()") == "ok"
reply = client.execute_interactive('''
import kaywatch, time
with kaywatch.execution("shop", "request"):
    print("sleeping", flush=True)
    time.sleep(60)
''', timeout=30, output_hook=interrupt)
assert reply["content"]["ename"] == "KeyboardInterrupt", reply
manager.restart_kernel()
client.wait_for_ready(30)
for _ in range({CELLS} // 2):
    assert run("import shop; shop.work()") == "ok"
manager.shutdown_kernel()
client.stop_channels()
"""


def write_applications(folder: Path) -> None:
    """Write the applications into a new folder."""
    (folder / "reloaded").mkdir(parents=True)
    (folder / "reloaded" / "source.py").touch()
    for name, source in [
        ("shop", SHOP),
        ("warm", "from shop import *; work()"),
        ("tasks", QUEUE),
        ("pools", POOLS),
        ("notebook", NOTEBOOK),
    ]:
        (folder / f"{name}.py").write_text(source)


class Server:
    """One listening server, one worker that takes tasks, or one script.

    Attributes:
        pid: the process to stop with a signal.
    """

    def __init__(self, name: str, agent: Agent, folder: Path, *words: str) -> None:
        self.name = name
        self.agent = agent
        self.folder = folder
        self.port = free_port()
        self.broker = f"redis+socket://{folder}/{REDIS}"
        self._log = folder / f"{name}.log"
        command = [
            word.replace("PORT", str(self.port))
            .replace("FOLDER", str(folder))
            .replace("PIDFILE", f"{name}.pid")
            for word in words
        ]
        with self._log.open("w") as log:
            self.process = agent.start_process(
                *(str(BIN / command[0]), *command[1:]),
                cwd=folder,
                environment={
                    "BROKER": self.broker,
                    "KAYWATCH_SERVICE": name,
                    "PYTHONPATH": str(folder),
                    "PYTHONUNBUFFERED": "1",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for_output(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + DEADLINE
        while self.output.count(text) < times:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def clients(self) -> list[dict[str, Any]]:
        """Return the agent's clients of this server."""
        clients = self.agent.clients()
        return [client for client in clients if client["service"] == self.name]

    def account(self) -> dict[str, Any]:
        """Return the received and the missing events of this server."""
        total: dict[str, Any] = self.agent.get(
            "/api/v1/completeness", service=self.name
        )["total"]
        return total

    def request(self, times: int) -> int:
        """Send requests, one after the other, until each has its answer."""
        answered = 0
        deadline = time.monotonic() + DEADLINE
        while answered < times:
            try:
                with urlopen(f"http://127.0.0.1:{self.port}/", timeout=DEADLINE):
                    answered += 1
            except OSError:
                # The server is starting, or its only worker is being replaced.
                assert time.monotonic() < deadline, self.output
                time.sleep(0.05)
        return times

    def kill_worker(self, recorded: int) -> None:
        """Kill a worker once all events are counted; wait until its death is known."""
        until(lambda: self.account()["received"] == recorded, "all is counted")
        workers = [one for one in self.clients() if one["state"] == "connected"]
        # The worker with the most events may be about to end, after its last task.
        worker = min(workers, key=lambda one: int(one["events"]))
        os.kill(worker["pid"], signal.SIGKILL)
        until(lambda: self.account()["deaths"] == 1, "the death is known")

    def stop(self, number: int) -> None:
        if self.process.poll() is None or self.pid != self.process.pid:
            os.kill(self.pid, number)
        self.process.wait(DEADLINE)

    def kill(self) -> None:
        """Kill the server and its remaining workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
