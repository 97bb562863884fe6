"""All events of the real servers in docs/servers.md are counted after they have ended.

All servers run at once against one agent; each test checks one of them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.agents import DEADLINE, running_agent, until
from tests.e2e.app_servers import BIN, CELLS, REDIS, TASKS, Server, write_applications
from tests.servers import absent, find

PAGE = Path(__file__).parents[2] / "docs" / "servers.md"
REQUESTS = 30


def serve(server: Server) -> int:
    return server.request(REQUESTS)


def serve_until_counted(server: Server) -> int:
    recorded = server.request(REQUESTS)
    until(lambda: server.account()["received"] == recorded, "all is counted")
    return recorded


def serve_after_warm_up(server: Server) -> int:
    return 1 + server.request(REQUESTS)


def reload_uvicorn(server: Server) -> int:
    """Save a source file between requests."""
    recorded = server.request(REQUESTS)
    source = server.folder / "reloaded" / "source.py"
    until(lambda: source.touch() or "Reloading" in server.output, "it reloads")
    server.wait_for_output("Application startup complete", times=2)
    return recorded + server.request(REQUESTS)


def replace_gunicorn(server: Server) -> int:
    """Replace the worker with SIGHUP, then also the master with SIGUSR2."""
    recorded = server.request(REQUESTS)
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_output("Booting worker", times=2)
    recorded += server.request(REQUESTS)
    server.process.send_signal(signal.SIGUSR2)
    server.wait_for_output("Booting worker", times=3)
    successor = int((server.folder / f"{server.name}.pid.2").read_text())
    server.stop(signal.SIGTERM)
    server.pid = successor
    return recorded + server.request(REQUESTS)


def kill_server_worker(server: Server) -> int:
    recorded = server.request(REQUESTS)
    server.kill_worker(recorded)
    return recorded + server.request(REQUESTS)


def kill_hypercorn(server: Server) -> int:
    """Kill one worker; the server then stops the others and itself."""
    recorded = server.request(REQUESTS)
    server.kill_worker(recorded)
    server.process.wait(DEADLINE)
    return recorded


def send_to_celery(server: Server) -> int:
    """Restart the pool between tasks, then kill one child."""
    from celery import Celery

    with Celery(broker=server.broker) as app:

        def send_tasks(before: int) -> int:
            for _ in range(TASKS):
                app.send_task("work")
            server.wait_for_output("succeeded in", before + TASKS)
            return before + TASKS

        recorded = send_tasks(0)
        app.control.broadcast("pool_restart", reply=True, limit=1, timeout=20)
        recorded = send_tasks(recorded)
        server.kill_worker(recorded)
        return send_tasks(recorded)


def send_to_rq(server: Server) -> int:
    from redis import Redis
    from rq import Queue

    queue = Queue(connection=Redis(unix_socket_path=str(server.folder / REDIS)))
    for _ in range(TASKS):
        queue.enqueue("shop.work")
    server.wait_for_output("Job OK", times=TASKS)
    return TASKS


def run_pools(server: Server) -> int:
    assert server.process.wait(DEADLINE) == 0, server.output
    return TASKS


def run_notebook(server: Server) -> int:
    assert server.process.wait(DEADLINE) == 0, server.output
    return CELLS


class Case(NamedTuple):
    """A server, the work that it does, and the signal that stops it.

    Attributes:
        title: the server's name in docs/servers.md.
        path: the cell `ends by` in docs/servers.md.
        work: returns the number of events that the application recorded.
        recycled: whether several processes have worked, one after the other.
        module: the module of a further package that the case needs.
    """

    title: str
    path: str
    command: list[str]
    work: Callable[[Server], int] = serve
    stop: int = signal.SIGTERM
    deaths: int = 0
    recycled: bool = False
    module: str = "kaywatch"


def uvicorn(*options: str) -> list[str]:
    return ["uvicorn", "shop:asgi", "--port=PORT", *options]


def gunicorn(*options: str) -> list[str]:
    return ["gunicorn", "--bind=127.0.0.1:PORT", *options]


def uwsgi(*options: str) -> list[str]:
    return [
        *("uwsgi", "--http-socket=127.0.0.1:PORT", "--need-app", *options),
        *("--master", "--die-on-term", f"--virtualenv={sys.prefix}"),
    ]


def pools(kind: str, title: str, path: str, module: str = "kaywatch") -> Case:
    command = ["python", "pools.py", kind]
    return Case(title, path, command, run_pools, recycled=True, module=module)


def multiprocessing_pools(method: str) -> Case:
    path = "`maxtasksperchild`, close, terminate"
    return pools(method, f"`multiprocessing.Pool`, {method}", path)


NEEDS_REDIS = {"celery", "rq"}
INT = signal.SIGINT
HYPERCORN = ["hypercorn", "shop:asgi", "--bind=127.0.0.1:PORT"]
UVICORN = ("shop:asgi", "-kuvicorn.workers.UvicornWorker")
ON_UVICORN = "gunicorn with uvicorn workers"
WORKERS = "uvicorn `--workers`"
KILL = "kill -9 of a worker"
LIMIT = "max requests"
REPLACE = "HUP, USR2, TERM"
CASES = {
    "uvicorn": Case("uvicorn", "TERM", uvicorn()),
    "uvicorn-int": Case("uvicorn", "INT", uvicorn(), stop=INT),
    "uvicorn-reload": Case(
        *("uvicorn", "`--reload`, TERM"),
        uvicorn("--reload", "--reload-dir=reloaded"),
        reload_uvicorn,
        recycled=True,
    ),
    "uvicorn-workers": Case(WORKERS, "TERM", uvicorn("--workers=2")),
    "uvicorn-workers-kill": Case(
        *(WORKERS, f"{KILL}, INT"),
        uvicorn("--workers=2"),
        kill_server_worker,
        stop=INT,
        deaths=1,
    ),
    "hypercorn": Case("Hypercorn", "TERM", HYPERCORN),
    "hypercorn-int": Case("Hypercorn", "INT", HYPERCORN, stop=INT),
    "hypercorn-kill": Case(
        *("Hypercorn", KILL), [*HYPERCORN, "--workers=2"], kill_hypercorn, deaths=1
    ),
    "gunicorn": Case("gunicorn", "TERM", gunicorn("shop:wsgi", "--workers=2")),
    "gunicorn-kill": Case(
        *("gunicorn", f"{KILL}, TERM"),
        gunicorn("shop:wsgi", "--workers=2"),
        kill_server_worker,
        deaths=1,
    ),
    "gunicorn-max-requests": Case(
        *("gunicorn", f"{LIMIT}, INT"),
        gunicorn("shop:wsgi", "--max-requests=7"),
        stop=INT,
        recycled=True,
    ),
    "gunicorn-replace": Case(
        *("gunicorn", REPLACE),
        gunicorn("shop:wsgi", "--pid=PIDFILE"),
        replace_gunicorn,
        recycled=True,
    ),
    "gunicorn-uvicorn": Case(ON_UVICORN, "TERM", gunicorn(*UVICORN, "--workers=2")),
    "gunicorn-uvicorn-int": Case(
        *(ON_UVICORN, "INT, which ends them with SIGKILL"),
        gunicorn(*UVICORN, "--graceful-timeout=3"),
        serve_until_counted,
        stop=INT,
        deaths=1,
    ),
    "gunicorn-uvicorn-max-requests": Case(
        *(ON_UVICORN, f"{LIMIT}, TERM"),
        gunicorn(*UVICORN, "--max-requests=7"),
        recycled=True,
    ),
    "gunicorn-uvicorn-replace": Case(
        *(ON_UVICORN, REPLACE),
        gunicorn(*UVICORN, "--pid=PIDFILE"),
        replace_gunicorn,
        recycled=True,
    ),
    "uwsgi": Case("uWSGI", "TERM", uwsgi("--module=shop:wsgi", "--processes=2")),
    "uwsgi-kill": Case(
        *("uWSGI", f"{KILL}, INT"),
        uwsgi("--module=shop:wsgi", "--processes=2", "--enable-threads"),
        kill_server_worker,
        stop=INT,
        deaths=1,
    ),
    "uwsgi-fork-hooks": Case(
        *("uWSGI, recorded in the master", "TERM"),
        uwsgi("--module=warm:wsgi", "--enable-threads", "--py-call-uwsgi-fork-hooks"),
        serve_after_warm_up,
        deaths=1,  # the master, which has recorded an event and runs no exit handlers
        recycled=True,
    ),
    "uwsgi-max-requests": Case(
        *("uWSGI", f"{LIMIT}, TERM"),
        uwsgi("--module=shop:wsgi", "--max-requests=7", "--min-worker-lifetime=0"),
        recycled=True,
    ),
    "celery": Case(
        *("Celery", "`pool_restart`, kill -9 of a child, max tasks, TERM"),
        ["celery", "--app=tasks", "worker", "-lINFO", "-c2", "--max-tasks-per-child=5"],
        send_to_celery,
        deaths=1,
        recycled=True,
    ),
    "rq": Case(
        *("RQ", "a process for each job, TERM"),
        ["rq", "worker", f"--url=unix://FOLDER/{REDIS}"],
        send_to_rq,
        recycled=True,
    ),
    "pools-fork": multiprocessing_pools("fork"),
    "pools-spawn": multiprocessing_pools("spawn"),
    "pools-forkserver": multiprocessing_pools("forkserver"),
    "pools-futures": pools(
        "futures", "`ProcessPoolExecutor`", "`max_tasks_per_child`, shutdown"
    ),
    "pools-joblib": pools("joblib", "joblib", "shutdown", module="joblib"),
    "notebook": Case(
        *("Jupyter", "interrupt, restart, shutdown"),
        ["python", "notebook.py"],
        run_notebook,
        recycled=True,
        module="ipykernel",
    ),
}

# What these show is shown by another server, or by another end of the same one.
VARIANTS = {
    *("uvicorn-int", "uvicorn-workers", "hypercorn-int", "gunicorn"),
    *("gunicorn-uvicorn-max-requests", "gunicorn-uvicorn-replace"),
    *("uwsgi", "uwsgi-max-requests", "pools-forkserver", "pools-joblib"),
}


def describe(
    case: Case, recorded: int, account: dict[str, Any], deaths: int
) -> tuple[str, ...]:
    """Return the row of docs/servers.md for a result."""
    states = f"{deaths} died, others ended" if deaths else "ended"
    complete = account["ratio"] == 1 and not account["unknown_seconds"]
    known = "100 %" if complete else f"below 100 %, at most {deaths} s unknown"
    return (
        *(case.title, case.path),
        *(str(recorded), str(account["received"])),
        *(states, known),
    )


def table() -> list[tuple[str, ...]]:
    """Return the rows of the table of results in docs/servers.md."""
    _, _, rest = PAGE.read_text().partition("| server | ends by |")
    rows = itertools.takewhile(lambda line: line.startswith("|"), rest.split("\n")[2:])
    return [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows]


def find_missing(name: str) -> str:
    """Return the missing requirement of a case; empty if there is none."""
    command, module = CASES[name].command, CASES[name].module
    if not (BIN / command[0]).exists():
        return command[0]
    if importlib.util.find_spec(module) is None:
        return module
    if name in NEEDS_REDIS and find("redis-server") is None:
        return "redis-server"
    return ""


class Results(NamedTuple):
    """The servers that ran, and how many events each recorded."""

    servers: dict[str, Server]
    recorded: dict[str, Future[int]]


def run(server: Server) -> int:
    case = CASES[server.name]

    recorded = case.work(server)
    server.stop(case.stop)
    return recorded


@pytest.fixture(scope="module")
def results(installed: str, request: pytest.FixtureRequest) -> Iterator[Results]:
    """The results of all servers that this run tests, from their start to their end."""
    tested = {
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    }
    with running_agent(installed) as agent, contextlib.ExitStack() as stack:
        folder = agent.folder / "apps"
        write_applications(folder)

        def start(name: str, *command: str) -> Server:
            server = Server(name, agent, folder, *command)
            stack.callback(server.kill)
            return server

        if redis := find("redis-server"):
            start("redis", redis, "--port 0", f"--unixsocket {folder / REDIS}")
            until((folder / REDIS).exists, "Redis listens")
        names = [name for name in tested if not find_missing(name)]
        servers = [start(name, *CASES[name].command) for name in names]
        with ThreadPoolExecutor(len(servers)) as pool:
            runs = {server.name: pool.submit(run, server) for server in servers}
        yield Results({server.name: server for server in servers}, runs)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long) if name in VARIANTS else name
        for name in CASES
    ],
)
def test_what_a_server_did_is_counted_and_only_a_kill_is_a_death(
    results: Results, name: str
) -> None:
    if missing := find_missing(name):
        absent(f"{missing} is not installed")
    server, case = results.servers[name], CASES[name]
    until(
        lambda: (
            not {client["state"] for client in server.clients()} - {"ended", "died"}
        ),
        "all workers have ended",
    )
    assert "Exception ignored" not in server.output
    clients, account = server.clients(), server.account()
    died = [client for client in clients if client["state"] == "died"]
    recorded = results.recorded[name].result()
    assert account["received"] == recorded, (account, clients, server.output)
    assert len(died) == account["deaths"] == case.deaths
    # Each death leaves at most one second unknown.
    assert (account["unknown_seconds"] > 0) == (account["ratio"] < 1) == bool(died)
    assert account["unknown_seconds"] <= 1.0 * len(died)
    assert len(clients) > case.recycled
    row = describe(case, recorded, account, len(died))
    assert row in table(), f"{PAGE}: expected the row {row}"


def test_the_table_of_servers_has_no_other_rows() -> None:
    # Each row is compared with its results above.
    documented = [(title, path) for title, path, *_ in table()]
    assert documented == [(case.title, case.path) for case in CASES.values()]
