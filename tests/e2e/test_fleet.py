"""Three agents write to one Prometheus; one of them is cut off, killed, and back."""

from __future__ import annotations

import contextlib
import math
import signal
import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Self

from tests.agents import DEADLINE, Agent, until
from tests.e2e.test_prometheus import DURATIONS, EXECUTIONS, RECORD, counts, expected
from tests.e2e.test_remote_write import (
    BUCKET,
    INTERVAL,
    RECEIVER,
    agent_that_writes,
    health,
    unsent,
    wait_executions,
    write_url,
)
from tests.prometheus import NATIVE, Prometheus, running_prometheus

NAMES = ("one", "two", "three")
TIMES = 400  # executions in a round of an agent
ROUNDS = 3


class Link:
    """A network between an agent and a server, which can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._cut = threading.Event()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        # Closing a socket does not wake up a thread that accepts connections.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()

    def cut(self) -> None:
        """Reset all connections, and those that follow."""
        self._cut.set()
        for pair in self._pairs:
            for side in pair:
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def restore(self) -> None:
        """Pass on connections again."""
        self._cut.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                if self._cut.is_set():
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
                self._pairs.append((client, server))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=pass_on, args=pair, daemon=True).start()


def pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError), source:
        while data := source.recv(65_536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def record(agents: dict[str, Agent], number: int) -> None:
    """Let every agent get a round of executions, each with a seed of its own."""
    for agent, name in zip(agents.values(), NAMES, strict=True):
        seed = seed_of(name, number)
        agent.run(f"{RECORD}\nrecord({seed}, {TIMES})\nassert kaywatch.flush(10)")


def seed_of(name: str, number: int) -> int:
    return 100 * (1 + NAMES.index(name)) + number


def totals(rounds: dict[str, int]) -> dict[str, int]:
    """Return the executions by node after some rounds of each agent."""
    result: dict[str, int] = {}
    for name, number in rounds.items():
        first = seed_of(name, 0)
        for node, count in counts(range(first, first + number), TIMES).items():
            result[node] = result.get(node, 0) + count
    return result


@contextlib.contextmanager
def fleet(url: str, link: Link) -> Iterator[dict[str, Agent]]:
    """Run three agents, of which the last one writes through a link."""
    with contextlib.ExitStack() as stack:
        agents = {}
        for name in NAMES:
            own = url if name != NAMES[-1] else f"http://127.0.0.1:{link.port}"
            target = own if name != NAMES[-1] else f"{own}/api/v1/write"
            labels = {"instance": name}
            agents[name] = stack.enter_context(
                agent_that_writes(target, labels=labels, histograms="native")
            )
        yield agents


def test_an_agent_that_was_cut_off_is_complete_again(tmp_path: Path) -> None:
    with (
        running_prometheus(tmp_path, (), NATIVE, RECEIVER) as server,
        Link(server.port) as link,
        fleet(write_url(server), link) as agents,
    ):
        record(agents, 0)
        wait_executions(server, totals(dict.fromkeys(NAMES, 1)))

        link.cut()
        away = agents[NAMES[-1]]
        until(lambda: health(away), "the outage is on /health")
        began = time.time()
        record(agents, 1)
        # The others are not affected; the one that is cut off is incomplete.
        wait_executions(server, totals({"one": 2, "two": 2, "three": 1}))
        waiting = len(unsent(away))
        until(lambda: len(unsent(away)) >= waiting + 3, "snapshots wait")
        away.stop(signal.SIGKILL)
        away.start()
        record(agents, 2)
        wait_executions(server, totals({"one": 3, "two": 3, "three": 1}))
        ended = time.time()

        link.restore()
        wait_executions(server, totals(dict.fromkeys(NAMES, ROUNDS)))
        until(lambda: health(away) == "", "everything is well again")
        check_curves(server, began, ended)
        check_quantiles(server)


def check_curves(server: Prometheus, began: float, ended: float) -> None:
    """Check that no sample is missing, and that none is there twice."""
    expression = f"{EXECUTIONS}[{DEADLINE * 10:.0f}s]"
    curves = server.ask("query", query=expression)["result"]
    assert {curve["metric"]["instance"] for curve in curves} == set(NAMES)
    for curve in curves:
        times = [at for at, _ in curve["values"]]
        values = [float(value) for _, value in curve["values"]]
        assert all(one < other for one, other in pairwise(times))
        assert all(one <= other for one, other in pairwise(values))
        # The outage of one agent is no gap in its curve.
        assert [at for at in times if began + INTERVAL < at < ended], curve["metric"]


def check_quantiles(server: Prometheus) -> None:
    """Check that the quantiles of the fleet are those of all raw values."""
    durations: dict[str, list[float]] = {}
    for name in NAMES:
        for number in range(ROUNDS):
            for node, values in expected(seed_of(name, number), TIMES).items():
                durations.setdefault(node, []).extend(values)
    for node, values in durations.items():
        values.sort()
        select = f'sum({DURATIONS}{{node="{node}"}})'
        assert server.value(f"histogram_count({select})") == len(values)
        for q in (0.5, 0.95, 0.99):
            quantile = server.value(f"histogram_quantile({q}, {select})")
            exact = values[math.ceil(q * len(values)) - 1]
            assert quantile is not None
            # With at most 160 buckets, each is up to four of the agent's.
            assert exact / BUCKET**4 <= quantile <= exact * BUCKET**4
