"""Every way in which a process starts, with every way in which it ends.

All recorded events are counted and the client has ended, or the agent reports for how
long events are unknown.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import subprocess
from pathlib import Path

import pytest
from tests.agents import DEADLINE, Agent, until
from tests.servers import absent

APP = """
import ctypes, json, multiprocessing, os, signal, sys
import threading, time
import kaywatch

def record(times):
    for _ in range(times):
        with kaywatch.execution("g", "n"):
            pass

def send(number):
    # As from another process, before any other thread can run.
    ctypes.PyDLL(None).kill(os.getpid(), number)
    time.sleep(20)

def end_by_killing():
    kaywatch.flush(30.0)
    record(5)
    os.kill(os.getpid(), 9)

def end_by_raising():
    raise RuntimeError

def end_by_group_signal():
    os.setpgid(0, 0)
    os.killpg(0, signal.SIGHUP)

def end_by_own_signal():
    # As uvicorn does after its shutdown.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)

ENDS = {
    "return": lambda: None,
    "exit": lambda: sys.exit(0),
    "exception": end_by_raising,
    "term": lambda: send(15),
    "int": lambda: send(2),
    "own_term": end_by_own_signal,
    "group_hup": end_by_group_signal,
    "os_exit": lambda: os._exit(0),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": end_by_killing,
}

def work(start, end):
    # Dozens of processes end at once: the agent may need more than two seconds.
    kaywatch.configure(service=f"{start} {end}", exit_timeout=30.0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    record(3)
    ENDS[end]()

def wait_for_idle_threads():
    # A C fork copies the interpreter's own locks, in whatever state they are.
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            path = f"/proc/self/task/{thread.native_id}/wchan"
            while "poll" not in open(path).read():
                time.sleep(0.01)

def start_by_fork(fork, start):
    pids = {}
    for end in ENDS:
        pids[end] = fork()
        if pids[end] == 0:
            work(start, end)
            sys.exit(0)
    return {
        end: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for end, pid in pids.items()
    }

def start_by_multiprocessing(method, start):
    context = multiprocessing.get_context(method)
    children = {
        end: context.Process(target=work, args=(start, end)) for end in ENDS
    }
    for child in children.values():
        child.start()
    for child in children.values():
        child.join()
    return {end: child.exitcode for end, child in children.items()}

def main(method, start, warm):
    kaywatch.configure(exit_timeout=30.0)
    if method == "run":
        work(start, warm)
        return
    if warm == "warm":
        record(1)
    if method == "fork":
        codes = start_by_fork(os.fork, start)
    elif method == "c_fork":
        kaywatch.flush(30.0)
        wait_for_idle_threads()
        codes = start_by_fork(ctypes.PyDLL(None).fork, start)
    else:
        codes = start_by_multiprocessing(method.removeprefix("mp_"), start)
    print(json.dumps(codes))

if __name__ == "__main__":
    main(*sys.argv[1:])
"""

CODES = {
    "return": 0,
    "exit": 0,
    "exception": 1,
    "term": -signal.SIGTERM,
    "int": -signal.SIGINT,
    "own_term": -signal.SIGTERM,
    "group_hup": -signal.SIGHUP,
    "os_exit": 0,
    "exec": 0,
    "kill": -signal.SIGKILL,
}
STARTS = [
    *(("fork", warm) for warm in ("cold", "warm")),
    *(("c_fork", warm) for warm in ("cold", "warm")),
    *(("mp_fork", warm) for warm in ("cold", "warm")),
    ("mp_spawn", "cold"),
    ("mp_forkserver", "cold"),
]


COOPERATIVE = """
import sys
exec(sys.argv[1])
import atexit, ctypes, os, time
import kaywatch

def record():
    with kaywatch.execution("g", "n"):
        pass

if sys.argv[2] == "SIGTERM":
    record()
    record()
    record()
    ctypes.PyDLL(None).kill(os.getpid(), 15)
    time.sleep(60)
else:
    # Registered before the first event, so it runs after the first flush.
    atexit.register(record)
    record()
    record()
"""


def test_what_was_recorded_is_counted_however_a_process_starts_and_ends(
    agent: Agent, tmp_path: Path
) -> None:
    script = tmp_path / "app.py"
    script.write_text(APP)

    def start(method: str, name: str, warm: str) -> subprocess.Popen[str]:
        return agent.start_process(
            *(agent.python, str(script), method, name, warm),
            environment={"KAYWATCH_SERVICE": f"{name} parent"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    parents = {
        f"{how} {warm}": start(how, f"{how} {warm}", warm) for how, warm in STARTS
    }
    alone = {end: start("run", "run", end) for end in CODES}
    codes = {
        name: json.loads(one.communicate(timeout=60)[0])
        for name, one in parents.items()
    }
    codes["run"] = {end: one.wait(60) for end, one in alone.items()}
    for one in alone.values():
        one.communicate()

    for name, by_end in codes.items():
        # In this case, an exception ends the process with exit code 1.
        interrupted = 1 if name.startswith("mp_") else -signal.SIGINT
        assert by_end == CODES | {"int": interrupted}, name
    services = [f"{name} {end}" for name in codes for end in CODES]
    services += [f"{how} warm parent" for how, warm in STARTS if warm == "warm"]

    def clients() -> dict[str, list[object]]:
        lists: dict[str, list[object]] = {}
        for client in agent.clients():
            died = client["unknown_seconds"] > 0 and (client["completeness"] or 1) < 1
            row = (client["events"], client["state"], died)
            lists.setdefault(client["service"], []).append(row)
        return lists

    def expected(service: str) -> list[object]:
        if service.endswith("kill"):
            return [(3, "died", True)]
        return [(1 if service.endswith("parent") else 3, "ended", False)]

    everything = {service: expected(service) for service in services}

    # The comparison below shows what differs, which `until` does not.
    with contextlib.suppress(AssertionError):
        until(lambda: clients() == everything, "all have ended")
    assert clients() == everything
    total = agent.get("/api/v1/completeness")["total"]
    assert total["deaths"] == len(codes)
    assert total["received"] == 3 * len(codes) * len(CODES) + 3
    assert total["unknown_seconds"] <= 1.0 * len(codes)


@pytest.mark.parametrize(
    ("patch", "end"),
    [
        (patch, end)
        for patch in ("", "gevent.monkey.patch_all", "eventlet.monkey_patch")
        for end in ("exit handler", "SIGTERM")
    ],
)
def test_nothing_is_lost_at_exit_with_cooperative_threads(
    agent: Agent, patch: str, end: str
) -> None:
    module = patch.partition(".")[0]
    if module and importlib.util.find_spec(module) is None:
        absent(f"{module} is not installed")
    load = f"import {patch.rpartition('.')[0]}; {patch}()" if patch else ""
    process = agent.start_process(
        *(agent.python, "-c", COOPERATIVE, load, end),
        stderr=subprocess.DEVNULL,
    )
    assert process.wait(DEADLINE) == (-signal.SIGTERM if end == "SIGTERM" else 0)
    until(
        lambda: {client["state"] for client in agent.clients()} == {"ended"},
        "the client has ended",
    )
    assert agent.executions() == {"n": 3}


HELD = """
import asyncio, ctypes, os, sys, time
import kaywatch

@kaywatch.execution("g", "plain")
def numbers():
    yield 1
    yield 2

@kaywatch.execution("g", "asynchronous")
async def async_numbers():
    yield 1
    yield 2

@kaywatch.execution("g", "awaitable")
@(lambda function: lambda: function())
async def wait():
    pass

plain, asynchronous, awaitable = numbers(), async_numbers(), wait()
next(plain)
try:
    asynchronous.asend(None).send(None)
except StopIteration:
    pass
stream = kaywatch.execution("g", "stream").stream([1, 2])
next(stream)
if sys.argv[1] == "term":
    ctypes.PyDLL(None).kill(os.getpid(), 15)
    time.sleep(60)
elif sys.argv[1] == "os_exit":
    os._exit(0)
"""

EARLY_HANDLER = """
import atexit, sys

def record_at_exit():
    for _ in range(2):
        with kaywatch.execution("g", "n"):
            pass

# Before kaywatch is imported, so it runs after all exit handlers of kaywatch.
atexit.register(record_at_exit)
import kaywatch

kaywatch.configure(exit_timeout=30.0)
if sys.argv[1] == "warm":
    record_at_exit()
"""


@pytest.mark.parametrize("end", ["return", "term", "os_exit"])
def test_a_stream_that_is_held_at_exit_is_counted_as_cancelled(
    agent: Agent, end: str
) -> None:
    process = agent.start_process(
        *(agent.python, "-c", HELD, end), stderr=subprocess.PIPE
    )
    errors = process.communicate(timeout=DEADLINE)[1]
    assert process.returncode == (-signal.SIGTERM if end == "term" else 0), errors
    until(
        lambda: [client["state"] for client in agent.clients()] == ["ended"],
        "the client has ended",
    )
    outcomes = {
        node["node"]: (node["total_executions"], node["outcomes"]["cancelled"])
        for node in agent.get("/api/v1/nodes")["nodes"]
    }
    names = ["plain", "asynchronous", "awaitable", "stream"]
    assert outcomes == dict.fromkeys(names, (1, 1))


@pytest.mark.parametrize("warm", ["warm", "cold"])
def test_exit_handlers_older_than_kaywatch_lose_nothing(
    agent: Agent, warm: str
) -> None:
    process = agent.start_process(agent.python, "-c", EARLY_HANDLER, warm)
    assert process.wait(DEADLINE) == 0
    until(
        lambda: {client["state"] for client in agent.clients()} == {"ended"},
        "all clients have ended",
    )
    assert agent.executions() == {"n": 4 if warm == "warm" else 2}
