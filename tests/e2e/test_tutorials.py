"""The tutorials work: their files are written, and their commands run, in order."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agents import Agent, free_port, new_agent, until

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)
PORT = "8088"


class Tutorial:
    """The files and commands of a tutorial, with an agent and a folder of its own."""

    def __init__(self, name: str, folder: Path, agent: Agent) -> None:
        self.folder, self.agent = folder, agent
        self.port = str(free_port())
        self.commands: list[str] = []
        self.output: dict[str, str] = {}
        for language, file, text in BLOCK.findall((TUTORIALS / name).read_text()):
            if file:
                (folder / file).write_text(text.replace(PORT, self.port))
            elif language == "sh":
                self.commands += text.splitlines()

    def run(self, *started: str) -> None:
        """Run the commands in order, except those that a fixture has started."""
        for command in self.commands:
            if command not in started:
                self.output[command] = self.run_command(command)

    def run_command(self, command: str) -> str:
        program, *arguments = shlex.split(command)
        if program == "kaywatch" and arguments[0] != "run":
            arguments = [
                str(self.folder / word) if (self.folder / word).is_file() else word
                for word in arguments
            ]
            return self.agent.command(*arguments)
        python = [self.agent.python]
        if program == "kaywatch":
            python += ["-m", "kaywatch_agent"]
            arguments = [self.agent.python if w == "python" else w for w in arguments]
        else:
            assert program == "python", command
        child = self.agent.start_process(
            *python, *arguments, cwd=self.folder, stdout=subprocess.PIPE
        )
        output, _ = child.communicate(timeout=60)
        assert child.returncode == 0, output
        return str(output)


@pytest.fixture
def agent(installed: str) -> Iterator[Agent]:
    with new_agent(installed) as agent:
        yield agent


INSTALL = (
    "python3 -m venv .venv",
    ". .venv/bin/activate",
    "pip install '../kaywatch[agent]' pocketflow",
)


def test_the_first_graph(agent: Agent, tmp_path: Path) -> None:
    agent.start()
    tutorial = Tutorial("first-graph.md", tmp_path, agent)

    tutorial.run(*INSTALL, "kaywatch serve")

    graph = agent.get("/api/v1/graphs/Support/stats")
    assert graph["total_executions"] == 60, (graph, tutorial.output)
    shown = tutorial.output["kaywatch stats Support"]
    assert re.search(r"dead ends?\D+10\b|\b10\D+dead end", shown), shown
    answer = agent.node("Answer")
    assert (answer["total_executions"], answer["success_rate"]) == (50, 1.0)
    for line in ("retried errors", "retries", "fallback"):
        assert line in tutorial.output["kaywatch stats Answer"]


def test_the_first_alert(agent: Agent, tmp_path: Path) -> None:
    tutorial = Tutorial("first-alert.md", tmp_path, agent)
    agent.options = ("--config", str(tmp_path / "kaywatch.toml"))
    agent.start()
    with (tmp_path / "printed").open("w") as printed:
        agent.start_process(agent.python, str(tmp_path / "receiver.py"), stdout=printed)
    read = (tmp_path / "printed").read_text
    started = ("python receiver.py", "kaywatch serve --config kaywatch.toml")
    before, after = split(tutorial.commands, "python failing.py")

    tutorial.commands = before
    tutorial.run(*started)
    assert re.findall(r"^\[TEST.*?\]", read(), re.MULTILINE) == [
        "[TEST, FIRING]",
        "[TEST, RESOLVED]",
    ]
    until(lambda: "[FIRING] pay-fails: " in read(), "it is notified")
    tutorial.commands = after
    tutorial.run()

    assert "pay-fails" in tutorial.output["kaywatch alerts"]
    why = tutorial.output["kaywatch why pay-fails"]
    assert "TimeoutError 10" in why
    assert "ops notified: firing" in why
    assert "the bank knows" in tutorial.output["kaywatch silence list"]


def split(commands: list[str], last: str) -> tuple[list[str], list[str]]:
    at = commands.index(last) + 1
    return commands[:at], commands[at:]
