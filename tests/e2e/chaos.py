"""Kill the agent repeatedly under load, and compare all counts at the end.

    python -m tests.e2e.chaos --kills 100 --processes 8

Each process records executions as fast as the agent accepts them, forks children that
do the same and exit, and keeps its own counts. The agent is killed with SIGKILL at
random moments, half of them within a commit, and started again. At the end, the
executions, outcomes, retries and actions of every node must be what the processes
counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.agents import DEADLINE, Agent, running_agent, until

from kaywatch.errors import QueryError

CLIENT = """
import json, os, random, sys, time
import kaywatch
from kaywatch._process import process
from kaywatch.wire import Outcome

folder, seed, stop = sys.argv[1], int(sys.argv[2]), sys.argv[3]
pause = float(sys.argv[4])

def work(rng, rounds):
    counts = {}
    nodes = [(f"g{n % 3}", f"g{n % 3}.n{n}") for n in range(12)]
    records = [process.recorder.series(*node).record for node in nodes]
    while rounds and not os.path.exists(stop):
        rounds -= 1
        # As many as can be without overflow: what is dropped is no test of the agent.
        while kaywatch.client_stats()["buffer_bytes"] > 16_000_000:
            time.sleep(0.05)
        for _ in range(1000):
            at = rng.randrange(12)
            outcome, attempts = rng.choice((0, 0, 0, 1, 2, 3, 4)), rng.randrange(1, 4)
            action = rng.choice(("default", "next", "again"))
            error = ("ValueError", "exec") if outcome else None
            records[at](rng.random() / 100, outcome, attempts, action, error)
            key = f"{nodes[at][1]} {outcome} {attempts} {action}"
            counts[key] = counts.get(key, 0) + 1
        time.sleep(pause)
    return counts

def leave(counts):
    # Where no agent has been seen yet, flush doesn't wait for one.
    settled, end = kaywatch.flush(60), time.monotonic() + 60
    while not settled and time.monotonic() < end:
        time.sleep(0.1)
        settled = kaywatch.flush(60)
    stats = kaywatch.client_stats()
    told = {"counts": counts, "settled": settled, "stats": stats}
    with open(f"{folder}/{os.getpid()}.json", "w") as out:
        json.dump(told, out)

rng, total = random.Random(seed), {}
while not os.path.exists(stop):
    for key, count in work(rng, rng.randrange(20, 60)).items():
        total[key] = total.get(key, 0) + count
    child = os.fork()
    if child == 0:
        leave(work(random.Random(rng.random()), 3))
        os._exit(0)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        for key, count in work(rng, 1).items():
            total[key] = total.get(key, 0) + count
        if os.path.exists(stop):
            os.waitpid(child, 0)
            break
leave(total)
"""


# The pause after each thousand events: a process records almost at full speed.
PAUSE = 0.002

# In the short forms, because even a few processes at full speed keep all cores busy.
SHORT_PAUSE = 0.02


class Outcome(NamedTuple):
    """The result of a chaos run."""

    events: int
    processes: int
    kills: int
    within_commits: int
    duplicates: int
    differences: list[str]
    slowest_start: float  # seconds from the start of a process to its readiness
    longest_commit_gap: float  # seconds, including those without an agent


def run(
    agent: Agent,
    folder: Path,
    *,
    kills: int,
    processes: int,
    seed: int = 1,
    pause: float = PAUSE,
    strike: Callable[[random.Random], None] | None = None,
    trouble: Callable[[Agent], None] | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> Outcome:
    """Run the processes, disturb the agent, and compare the counts.

    Args:
        agent: a running agent, which is killed and started.
        folder: where the processes write their counts.
        kills: the number of disturbances.
        processes: the number of processes that record at a time.
        seed: the seed of the random numbers.
        pause: seconds to wait after each thousand events of a process.
        strike: the disturbance; by default, the agent is killed and started.
        trouble: a further disturbance, in the middle of the run.
        tell: called with a progress line from time to time.
    """
    rng = random.Random(seed)
    stop = folder / "stop"
    clients = [
        agent.spawn(CLIENT, str(folder), str(rng.random())[2:9], str(stop), str(pause))
        for _ in range(processes)
    ]
    within, slowest, gaps = 0, 0.0, Gaps(Path(agent.store))
    try:
        for number in range(kills):
            gaps.watch(rng.uniform(0.1, 1.2))
            if rng.random() < 0.5:
                within += gaps.wait_for_commit()
            if strike is not None:
                strike(rng)
            else:
                slowest = max(slowest, restart(agent))
            if trouble is not None and number == kills // 2:
                trouble(agent)
            if number % 10 == 9:
                tell(f"{number + 1} kills, {_events(agent):,} events counted")
    finally:
        stop.touch()
    for client in clients:
        client.wait(120)
    reports = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    until(lambda: _have_all_ended(agent), "everybody said goodbye")
    return Outcome(
        events=sum(sum(one["counts"].values()) for one in reports),
        processes=len(reports),
        kills=kills,
        within_commits=within,
        duplicates=_counter(agent, "kaywatch_duplicate_batches_total"),
        differences=_differences(agent, reports),
        slowest_start=slowest,
        longest_commit_gap=gaps.longest,
    )


def restart(agent: Agent) -> float:
    """Kill the agent and start it; return the seconds that this took."""
    agent.stop(signal.SIGKILL)
    started = time.monotonic()
    agent.start()
    return time.monotonic() - started


class Gaps:
    """Watches the store's write-ahead log for commits."""

    def __init__(self, store: Path) -> None:
        self._wal = Path(f"{store}-wal")
        self._seen = self._state()
        self._since = time.monotonic()
        self.longest = 0.0

    def watch(self, seconds: float) -> None:
        """Watch for commits for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._look()
            time.sleep(0.005)

    def wait_for_commit(self, seconds: float = 2.0) -> bool:
        """Wait until a commit writes; return whether one did."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._look():
                return True
        return False

    def _look(self) -> bool:
        state, now = self._state(), time.monotonic()
        if state == self._seen:
            return False
        self.longest = max(self.longest, now - self._since)
        self._seen, self._since = state, now
        return True

    def _state(self) -> tuple[int, int]:
        try:
            status = self._wal.stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_mtime_ns, status.st_size


def _have_all_ended(agent: Agent) -> bool:
    return all(client["state"] in ("ended", "died") for client in agent.clients())


def _events(agent: Agent) -> int:
    with contextlib.suppress(QueryError):
        return sum(agent.executions().values())
    return 0


def _counter(agent: Agent, name: str) -> int:
    from urllib.request import urlopen

    with urlopen(f"{agent.url}/metrics", timeout=DEADLINE) as response:
        for line in response.read().decode().splitlines():
            if line.startswith(name + " "):
                return int(float(line.split()[1]))
    return 0


def _differences(agent: Agent, reports: list[dict[str, Any]]) -> list[str]:
    """Return the differences, one line each."""
    expected: dict[str, Counter[str]] = {}
    words = ("ok", "error", "suppressed", "fallback", "cancelled")
    for one in reports:
        for key, count in one["counts"].items():
            node, outcome, attempts, action = key.split()
            figures = expected.setdefault(node, Counter())
            figures["executions"] += count
            figures["retries"] += (int(attempts) - 1) * count
            figures[words[int(outcome)]] += count
            figures[f"-> {action}"] += count
    lines = [f"{one['stats']} was not settled" for one in reports if not one["settled"]]
    lines += [
        f"pid {c['pid']} lost {c['dropped']}" for c in agent.clients() if c["dropped"]
    ]
    nodes = agent.get("/api/v1/export")["nodes"]
    for node, figures in expected.items():
        result = nodes[node]
        counted = Counter(
            {
                "executions": result["total_executions"],
                "retries": result["total_retries"],
                **result["outcomes"],
                **{f"-> {name}": count for name, count in result["actions"].items()},
            }
        )
        lines += [
            f"{node} {what}: recorded {figures[what]:,}, counted {counted[what]:,}"
            for what in sorted(figures.keys() | counted.keys())
            if figures[what] != counted[what]
        ]
    return lines


def check_store(path: str) -> str:
    """Return the result of SQLite's integrity check: `ok`."""
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


def freeze(seconds: float) -> Callable[[Agent], None]:
    """Return a function that stops the agent's process for a while (SIGSTOP)."""

    def trouble(agent: Agent) -> None:
        assert agent.process is not None
        os.kill(agent.process.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(agent.process.pid, signal.SIGCONT)

    return trouble


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system of a few megabytes; needs root.

    Raises:
        OSError: this environment does not permit mounting.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "kw-test", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, seconds: float) -> Callable[[Agent], None]:
    """Return a function that fills the disk until some time after the store noticed."""

    def trouble(agent: Agent) -> None:
        filler = folder / "filler"
        with filler.open("wb", buffering=0) as out, contextlib.suppress(OSError):
            while True:
                out.write(b"x" * 4096)
        until(lambda: agent.get("/health")["status"] == "degraded", "it is noticed")
        problem = agent.get("/health")["stages"]["store"]["problem"]
        assert "full" in problem, problem
        time.sleep(seconds)
        filler.unlink()
        until(lambda: agent.get("/health")["status"] == "healthy", "it recovers")

    return trouble


def main() -> None:
    """Run the long form from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--freeze", type=float, default=0, help="seconds of SIGSTOP")
    parser.add_argument("--full", type=float, default=0, help="seconds of a full disk")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kw-")))
        agent = stack.enter_context(running_agent())
        troubles = [freeze(options.freeze)] if options.freeze else []
        if options.full:
            disk = stack.enter_context(small_disk(folder / "disk", 64))
            agent.stop()
            agent.store = str(disk / "kaywatch.db")
            agent.start()
            troubles.append(fill(disk, options.full))
            stack.callback(agent.close)  # before the disk is unmounted

        def trouble(agent: Agent) -> None:
            for one in troubles:
                one(agent)

        result = run(
            agent,
            folder,
            kills=options.kills,
            processes=options.processes,
            seed=options.seed,
            trouble=trouble,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
        agent.stop()
        integrity = check_store(agent.store)
    for line in result.differences:
        print(line)
    print(
        f"{result.events:,} events of {result.processes} processes,"
        f" {result.kills} kills ({result.within_commits} within a commit),"
        f" {result.duplicates:,} batches sent again and dropped;"
        f" slowest start {result.slowest_start:.2f} s,"
        f" longest time without a commit {result.longest_commit_gap:.2f} s;"
        f" integrity check: {integrity}"
    )
    print("all equal" if not result.differences else "DIFFERENT")
    sys.exit(bool(result.differences) or integrity != "ok")


if __name__ == "__main__":
    main()
