"""Runs an agent and an application, and compares the counts of both."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Final

import click

from kaywatch.errors import QueryError
from kaywatch.query import fetch
from kaywatch_agent.cli import tables
from kaywatch_agent.cli.demo.faults import FAULT_SECONDS, FAULTS
from kaywatch_agent.cli.places import fetch_nodes
from kaywatch_agent.errors import StartError
from kaywatch_agent.units import duration, percent

__all__ = ["run_demo"]

READY_SECONDS: Final = 15.0
STOP_SECONDS: Final = 15.0
REFRESH_SECONDS: Final = 5.0
LOG: Final = "agent.log"

# The retries of Draft make the rule fire within a minute. Examples in the README use
# the names of the rule and the receiver.
CONFIG: Final = """\
[receiver.ops]
type = "webhook"
url = "http://127.0.0.1:{port}/"

[[rule]]
name = "Draft-is-slow"
metric = "latency_p95"
op = ">"
value = 0.02
match = ['node="Draft"']
window = "1m"
for = "5s"
"""

Counts = Counter[tuple[str, str]]


def run_demo(
    seconds: float | None, processes: int, listen: str | None, fault: str | None = None
) -> int:
    """Run the demo; return the exit code.

    Args:
        seconds: how long; None until Ctrl-C.
        processes: the number of processes of the application.
        listen: the agent's HTTP address, with port 0 for a free port; None for the
            default, or a free port if it is taken.
        fault: the name of a fault of the application; None for none.

    Returns:
        0 if the agent counted exactly what the application counted, otherwise 1.

    Raises:
        StartError: PocketFlow is not installed, or the agent does not start.
    """
    if importlib.util.find_spec("pocketflow") is None:
        raise StartError(
            "the demo needs PocketFlow; install it with: pip install 'kaywatch[demo]'"
        )
    # Children are stopped after SIGTERM just as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        tempfile.TemporaryDirectory(prefix="kw-") as folder,
        contextlib.ExitStack() as stack,
    ):
        address = _free_address(listen)
        url = f"http://{address}"
        port = stack.enter_context(_receiver())
        Path(folder, "kaywatch.toml").write_text(CONFIG.format(port=port))
        agent = stack.enter_context(_agent(folder, address))
        _wait_until_ready(url, folder, agent)
        workers = [
            stack.enter_context(_worker(folder, number, fault))
            for number in range(processes)
        ]
        _show_commands(url, processes)
        if fault is not None:
            begin = duration(FAULT_SECONDS)
            click.echo(f"The fault begins in {begin}: {FAULTS[fault]}.\n")
        _watch(url, seconds, workers)
        return _compare(url, _stop_and_count(folder, workers))


# -- processes -----------------------------------------------------------------------


def _free_address(listen: str | None) -> str:
    """Return an address as it is, or with a free port instead of port 0.

    None stands for the default address, or a free port if the default is taken.
    """
    host, _, text = (listen or "127.0.0.1:").rpartition(":")
    if text not in ("", "0"):
        # The agent reports whether it can listen there.
        return f"{host}:{text}"
    reason = ""
    for port in (0,) if text else (9477, 0):
        try:
            family, *_, target = socket.getaddrinfo(host.strip("[]"), port)[0]
            with socket.create_server(target, family=family) as probe:
                return f"{host}:{probe.getsockname()[1]}"
        except OSError as error:
            reason = str(error)
    raise StartError(f"cannot listen on {host}: {reason}")


@contextlib.contextmanager
def _process(
    *arguments: str, errors: IO[bytes] | None = None, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a Python process; terminate it at the end of the block.

    Args:
        arguments: the arguments of `python -m`.
        errors: where it logs; None for the terminal.
        environment: variables beyond those of this process.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env={**os.environ, **environment},
        stderr=errors,
        # Ctrl-C must not reach the children: they are stopped in order.
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


@contextlib.contextmanager
def _agent(folder: str, address: str) -> Iterator[subprocess.Popen[bytes]]:
    arguments = (
        *("kaywatch_agent", "serve", "--store", ":memory:", "--http", address),
        *("--socket", f"{folder}/ingest.sock", "--config", f"{folder}/kaywatch.toml"),
    )
    with (
        Path(folder, LOG).open("wb") as log,
        _process(*arguments, errors=log) as process,
    ):
        yield process


def _worker(
    folder: str, number: int, fault: str | None
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    return _process(
        "kaywatch_agent.cli.demo.workload",
        *(f"--counts={folder}/{number}.json", f"--seed={number}"),
        *([f"--fault={fault}"] if fault else []),
        KAYWATCH_ENDPOINT=f"unix://{folder}/ingest.sock",
        KAYWATCH_SERVICE="support-desk",
        KAYGRAPH_COLLECT_METRICS="true",
    )


@contextlib.contextmanager
def _receiver() -> Iterator[int]:
    """Print the notifications that arrive at a port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _NotificationPrinter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


class _NotificationPrinter(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        click.echo(f"Notification to {body['receiver']}: {body['title']}\n")
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def _wait_until_ready(url: str, folder: str, agent: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and agent.poll() is None:
        with contextlib.suppress(QueryError):
            # Another agent may have the port.
            if fetch("/api/v1/clients", url=url)["socket"] == f"{folder}/ingest.sock":
                return
        time.sleep(0.05)
    reason = "it does not answer"
    if agent.poll() is not None:
        # The last line of the log contains the error, after the name of the program and
        # "Error".
        *_, last = ["it ended", *Path(folder, LOG).read_text().splitlines()]
        reason = re.sub("^(kaywatch|Error): ", "", last)
    raise StartError(f"cannot start an agent at {url}: {reason}")


# -- while it runs -------------------------------------------------------------------


def _show_commands(url: str, processes: int) -> None:
    own = Path(sys.executable).with_name("kaywatch")
    on_path = shutil.which("kaywatch") == str(own) or not own.exists()
    command = "kaywatch" if on_path else os.path.relpath(own)
    click.echo(f"{url}/ shows what {processes} processes of a support desk do.")
    click.echo("Open it in a browser, or try in another terminal:")
    for arguments in (
        *("top", "tail --failures", "status", "stats Draft", "why Draft-is-slow"),
        *("silence add node=Draft", "notify test ops"),
        "capture demo.kwcap.gz --seconds 5",
    ):
        click.echo(f"  {command} {arguments} --url {url}")
    click.echo(f"  curl {url}/api/v1/graphs/SupportDesk/stats")
    click.echo(f"  curl {url}/metrics\n")


def _watch(
    url: str, seconds: float | None, workers: list[subprocess.Popen[bytes]]
) -> None:
    """Show the nodes every few seconds, until the time is up or Ctrl-C."""
    started = time.monotonic()
    end = started + seconds if seconds is not None else float("inf")
    with contextlib.suppress(KeyboardInterrupt):
        while time.monotonic() < end:
            time.sleep(min(REFRESH_SECONDS, max(0.0, end - time.monotonic())))
            if any(worker.poll() is not None for worker in workers):
                raise StartError("a process of the application ended unexpectedly")
            nodes = fetch_nodes(url, {"window": "1m"})
            title = f"After {duration(time.monotonic() - started)}, the last minute:"
            tables.show_nodes(tables.console(), nodes, title)
            click.echo()


def _stop_and_count(folder: str, workers: list[subprocess.Popen[bytes]]) -> Counts:
    """Stop the application, and return the sum of its processes' counts."""
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    counts: Counts = Counter()
    for number, worker in enumerate(workers):
        worker.wait(STOP_SECONDS)
        rows = json.loads(Path(folder, f"{number}.json").read_text())
        counts.update({(node, what): count for node, what, count in rows})
    return counts


# -- at the end ----------------------------------------------------------------------


def _compare(url: str, counts: Counts) -> int:
    agent = _agent_counts(fetch("/api/v1/export", url=url))
    keys = sorted({*counts, *agent})
    different = [key for key in keys if counts[key] != agent[key]]
    table = tables.plain_table("figure", "application", "agent", "same")
    for key in keys:
        verdict = "DIFFERENT" if key in different else "equal"
        table.add_row(" ".join(key), f"{counts[key]:,}", f"{agent[key]:,}", verdict)
    out = tables.console()
    out.print("Counted by the application and by the agent", style="bold")
    out.print(table)
    out.print()
    for client in fetch("/api/v1/clients", url=url)["clients"]:
        share = tables.or_dash(client["completeness"], percent)
        out.print(
            f"pid {client['pid']}: {client['state']},"
            f" {client['events']:,} of {client['recorded']:,} events arrived ({share})"
        )
    if different:
        out.print(f"{len(different)} figures differ.")
        return 1
    out.print(f"All {len(keys)} figures are equal.")
    return 0


def _agent_counts(export: dict[str, Any]) -> Counts:
    """Return the agent's figures under the application's names."""
    counts: Counts = Counter()
    for name, node in export["nodes"].items():
        counts[name, "executions"] = node["total_executions"]
        counts[name, "errors"] = node["outcomes"]["error"]
        counts[name, "fallbacks"] = node["outcomes"]["fallback"]
        counts[name, "retries"] = node["total_retries"]
        for action, count in node["actions"].items():
            counts[name, f"-> {action}"] = count
    for name, graph in export["graphs"].items():
        counts[name, "runs"] = graph["total_executions"]
        counts[name, "errors"] = graph["outcomes"]["error"]
    return +counts
