"""Starts an agent and the workload, and holds the agent's figures against theirs."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from kaywatch.errors import QueryError
from kaywatch.query import fetch
from kaywatch_agent.cli import tables
from kaywatch_agent.errors import StartError
from kaywatch_agent.units import duration, percent

__all__ = ["run"]

READY_SECONDS: Final = 15.0
STOP_SECONDS: Final = 15.0
REFRESH_SECONDS: Final = 5.0

Counts = Counter[tuple[str, str]]


def run(seconds: float | None, processes: int, listen: str | None) -> int:
    """Run the demo; return the exit code.

    Args:
        seconds: how long, or None until Ctrl-C.
        processes: how many workload processes.
        listen: where the agent serves HTTP; a free port if that one is taken.

    Returns:
        0 when every figure of the agent equals what the application counted.

    Raises:
        StartError: if PocketFlow isn't installed, or the agent doesn't start.
    """
    if importlib.util.find_spec("pocketflow") is None:
        raise StartError(
            "the demo runs a PocketFlow application, and PocketFlow is not installed;"
            " install it with: pip install 'kaywatch[demo]'"
        )
    out = tables.console()
    with (
        tempfile.TemporaryDirectory(prefix="kw-") as folder,
        contextlib.ExitStack() as s,
    ):
        endpoint = os.path.join(folder, "ingest.sock")
        address = listen or _address()
        url = f"http://{address}"
        agent = s.enter_context(_process(_agent_command(endpoint, address), {}))
        _wait_until_ready(url, agent)
        workers = [
            s.enter_context(_worker(number, folder, endpoint))
            for number in range(processes)
        ]
        _say_where(out, url, processes)
        _watch(out, url, seconds, workers)
        counts = _stop_and_count(workers, folder)
        return _compare(out, url, counts)


# -- processes -----------------------------------------------------------------------


def _address() -> str:
    """Return the default address, or one with a free port if that is taken."""
    for port in (9477, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return f"127.0.0.1:{probe.getsockname()[1]}"
    raise StartError("no port is free on 127.0.0.1")


def _agent_command(endpoint: str, address: str) -> list[str]:
    return [
        *("-m", "kaywatch_agent", "serve", "--store", ":memory:"),
        *("--socket", endpoint, "--http", address),
    ]


@contextlib.contextmanager
def _process(
    arguments: list[str], environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a Python process; end it, and wait for it, when the block is left."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        stderr=None if environment else subprocess.DEVNULL,
        # Ctrl-C is for us; we end our children in order.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _worker(
    number: int, folder: str, endpoint: str
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    return _process(
        [
            "-m",
            "kaywatch_agent.cli.demo.workload",
            f"--counts={folder}/{number}.json",
            f"--seed={number}",
        ],
        {
            "KAYWATCH_ENDPOINT": f"unix://{endpoint}",
            "KAYWATCH_SERVICE": "support-desk",
            "KAYGRAPH_COLLECT_METRICS": "true",
        },
    )


def _wait_until_ready(url: str, agent: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and agent.poll() is None:
        with contextlib.suppress(QueryError):
            fetch("/health", url=url)
            return
        time.sleep(0.05)
    raise StartError(f"the agent does not answer at {url}; is the port taken?")


# -- while it runs -------------------------------------------------------------------


def _say_where(out: Console, url: str, processes: int) -> None:
    out.print(f"The agent serves {url}, and {processes} processes push to it.")
    out.print("Look at it from another terminal:")
    command = _command()
    out.print(f"  {command} top --url {url}")
    out.print(f"  {command} tail --failures --url {url}")
    out.print(f"  {command} status --url {url}")
    out.print(f"  {command} stats Draft --url {url}")
    out.print(f"  curl {url}/api/v1/graphs/SupportDesk/stats")
    out.print(f"  curl {url}/metrics")
    out.print()


def _command() -> str:
    """Return how to call this very installation's command."""
    own = Path(sys.executable).with_name("kaywatch")
    if shutil.which("kaywatch") == str(own) or not own.exists():
        return "kaywatch"
    return os.path.relpath(own)


def _watch(
    out: Console,
    url: str,
    seconds: float | None,
    workers: list[subprocess.Popen[bytes]],
) -> None:
    """Show the nodes now and then, until the time is up or Ctrl-C."""
    started = time.monotonic()
    end = started + seconds if seconds is not None else float("inf")
    with contextlib.suppress(KeyboardInterrupt):
        while time.monotonic() < end:
            time.sleep(min(REFRESH_SECONDS, max(0.0, end - time.monotonic())))
            if any(worker.poll() is not None for worker in workers):
                raise StartError("a process of the workload ended by itself")
            nodes = fetch("/api/v1/nodes", {"window": "1m"}, url)["nodes"]
            after = duration(time.monotonic() - started)
            tables.show_nodes(out, nodes, f"After {after}, the last minute:")
            out.print()


def _stop_and_count(workers: list[subprocess.Popen[bytes]], folder: str) -> Counts:
    """End the workload, and add up what its processes counted."""
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    counts: Counts = Counter()
    for number, worker in enumerate(workers):
        worker.wait(STOP_SECONDS)
        for node, what, times in json.loads(Path(folder, f"{number}.json").read_text()):
            counts[node, what] += times
    return counts


# -- at the end ----------------------------------------------------------------------


def _compare(out: Console, url: str, counts: Counts) -> int:
    export = fetch("/api/v1/export", url=url)
    agent = _agent_counts(export)
    table = tables.plain_table("what", "application", "agent", "same")
    wrong = 0
    for key in sorted({*counts, *agent}):
        same = counts[key] == agent[key]
        wrong += not same
        table.add_row(
            " ".join(key),
            f"{counts[key]:,}",
            f"{agent[key]:,}",
            "equal" if same else "DIFFERENT",
        )
    out.print("What the application counted, and what the agent says", style="bold")
    out.print(table)
    out.print()
    clients = fetch("/api/v1/clients", url=url)["clients"]
    for client in clients:
        share = tables.known(client["completeness"], percent)
        out.print(
            f"pid {client['pid']}: {client['state']},"
            f" {client['events']:,} of {client['recorded']:,} events arrived ({share})"
        )
    if wrong:
        out.print(f"{wrong} figures differ.")
        return 1
    out.print(f"All {len({*counts, *agent})} figures are equal.")
    return 0


def _agent_counts(export: dict[str, Any]) -> Counts:
    """Return the agent's figures under the names of the application's own."""
    counts: Counts = Counter()
    for name, node in export["nodes"].items():
        counts[name, "executions"] = node["total_executions"]
        counts[name, "errors"] = node["outcomes"]["error"]
        counts[name, "fallbacks"] = node["outcomes"]["fallback"]
        counts[name, "retries"] = node["total_retries"]
        for action, times in node["actions"].items():
            counts[name, f"-> {action}"] = times
    for name, graph in export["graphs"].items():
        counts[name, "runs"] = graph["total_executions"]
        counts[name, "errors"] = graph["outcomes"]["error"]
    return +counts
