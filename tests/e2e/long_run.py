"""Compare the counts of an application with every kind of node with the agent's.

    python -m tests.e2e.long_run --minutes 10

First the application runs twice with the same seed, with and without `kaywatch run`;
its output and its log must be the same. Then several processes run for a while, and
the agent's figures must equal the processes' own counts.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from tests.agents import Agent, running_agent

HERE = Path(__file__).parent
APPLICATION = str(HERE / "every_kind")
STANDIN = HERE.parent / "client/instrument/kaygraph_standin.py"

# Times and addresses differ between two runs of the same program.
VOLATILE = re.compile(r"\d+\.\d+s\b|(?<=_)\d{9,}|0x[0-9a-f]+")

Key = tuple[str, str, str]  # (graph, node, what)


class Difference(NamedTuple):
    """One figure that differs."""

    key: Key
    recorded: int
    counted: int


def environment(agent: Agent, folder: Path) -> dict[str, str]:
    """Return the application's environment: the agent, and a module `kaygraph`."""
    shutil.copy(STANDIN, folder / "kaygraph.py")
    return {
        **agent.environment,
        "PYTHONPATH": str(folder),
        "PYTHONHASHSEED": "0",
        "KAYWATCH_SERVICE": "every-kind",
    }


def command(agent: Agent, watched: bool, *arguments: str) -> list[str]:
    """Return the command that runs the application, with or without `kaywatch run`."""
    run = [agent.python, "-m", "kaywatch", "run", "--"] if watched else []
    return [*run, agent.python, APPLICATION, *arguments]


def behaviour(agent: Agent, folder: Path, rounds: int, *, watched: bool) -> list[str]:
    """Return the lines that the application prints, logs and warns with."""
    done = subprocess.run(
        command(agent, watched, "--rounds", str(rounds), "--verbose"),
        env=environment(agent, folder),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [VOLATILE.sub("*", line) for line in (done.stdout + done.stderr).split("\n")]


def run_application(
    agent: Agent, folder: Path, processes: int, *arguments: str
) -> Counter[Key]:
    """Run the application in several processes; return their counts."""
    running = [
        subprocess.Popen(
            command(agent, True, "--seed", str(seed), *arguments),
            env=environment(agent, folder),
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(processes)
    ]
    counts: Counter[Key] = Counter()
    for process in running:
        printed, _ = process.communicate()
        assert process.returncode == 0
        for graph, node, what, count in json.loads(printed)["counts"]:
            counts[graph, node, what] += count
    return counts


def read_agent_figures(agent: Agent) -> Counter[Key]:
    """Return the agent's figures under the application's names."""
    counts: Counter[Key] = Counter()
    for node in agent.get("/api/v1/nodes")["nodes"]:
        for graph in node["graphs"]:
            stats = agent.node(node["node"], graph=graph)
            counts.update(
                {(graph, node["node"], w): n for w, n in _of_node(stats).items()}
            )
    for listed in agent.get("/api/v1/graphs")["graphs"]:
        name = listed["graph"]
        stats = agent.get(f"/api/v1/graphs/{name}/stats")
        counts[name, "", "runs"] = stats["total_executions"]
        counts[name, "", "visits"] = stats["visits"]
        for end in stats["ends"]:
            what = f"ends {end['reason']} {end['action']}".rstrip()
            counts[name, end["node"], what] += end["count"]
    return Counter({key: count for key, count in counts.items() if count})


def _of_node(stats: dict[str, Any]) -> dict[str, int]:
    return {
        "executions": stats["total_executions"],
        "retries": stats["total_retries"],
        **stats["outcomes"],
        **{f"-> {action}": count for action, count in stats["actions"].items()},
    }


def differences(ours: Counter[Key], theirs: Counter[Key]) -> list[Difference]:
    """Return the figures that differ."""
    return [
        Difference(key, ours[key], theirs[key])
        for key in sorted(ours.keys() | theirs.keys())
        if ours[key] != theirs[key]
    ]


def main() -> None:
    """Run the long form from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=50, help="of the comparison")
    options = parser.parse_args()
    with running_agent() as agent, tempfile.TemporaryDirectory(prefix="kw-") as name:
        folder = Path(name)
        alone, watched = (
            behaviour(agent, folder, options.rounds, watched=watched)
            for watched in (False, True)
        )
        print(
            f"{options.rounds} rounds, alone and watched: {len(alone):,} lines,"
            f" {'the same' if alone == watched else 'DIFFERENT'}",
            flush=True,
        )
        before = read_agent_figures(agent)
        seconds = str(options.minutes * 60)
        ours = run_application(
            agent, folder, options.processes, "--seconds", seconds, "--pause", "0.05"
        )
        theirs = read_agent_figures(agent) - before
        wrong = differences(ours, theirs)
    for key, mine, other in wrong:
        print(f"{' / '.join(key)}: recorded {mine:,}, counted {other:,}")
    executions = sum(n for (_, _, what), n in ours.items() if what == "executions")
    print(
        f"{options.processes} processes, {options.minutes:g} minutes:"
        f" {executions:,} executions, {len(ours)} figures,"
        f" {'all equal' if not wrong else f'{len(wrong)} DIFFERENT'}"
    )
    sys.exit(bool(wrong) or alone != watched)


if __name__ == "__main__":
    main()
