"""An agent: a node that decides which tool to use, until it can answer.

python tool_agent.py 20
"""

from __future__ import annotations

import random
import sys
from typing import Any

import model
from pocketflow import Flow, Node

import kaywatch

kaywatch.configure(service="assistant")
kaywatch.instrument()


class Decide(Node):
    """Asks the model what to do next."""

    def prep(self, shared: dict[str, Any]) -> str:
        return " ".join([shared["question"], *shared["facts"]])

    def exec(self, prompt: str) -> str:
        model.ask(prompt)
        enough = random.random() < 0.2 * len(prompt.split())
        return "answer" if enough else random.choice(["search", "calculate"])

    def exec_fallback(self, prompt: str, error: Exception) -> str:
        return "answer"

    def post(self, shared: dict[str, Any], prep_res: str, exec_res: str) -> str:
        return exec_res  # the action chooses the next node


class Search(Node):
    """A tool: looks up a fact."""

    def exec(self, prep_res: None) -> str:
        return "fact"

    def post(self, shared: dict[str, Any], prep_res: None, exec_res: str) -> None:
        shared["facts"].append(exec_res)


class Calculate(Node):
    """A tool: adds two numbers."""

    def exec(self, prep_res: None) -> str:
        return str(random.randrange(10) + random.randrange(10))

    def post(self, shared: dict[str, Any], prep_res: None, exec_res: str) -> None:
        shared["facts"].append(exec_res)


class Answer(Node):
    """Answers with the facts."""

    def exec(self, prep_res: None) -> str:
        return model.ask("answer", failing=0.0)


class ToolAgent(Flow):
    """Decides, uses tools, answers."""


def build() -> ToolAgent:
    """Return the graph of the agent."""
    decide, search, calculate, answer = (
        Decide(max_retries=3),
        Search(),
        Calculate(),
        Answer(),
    )
    decide - "search" >> search >> decide
    decide - "calculate" >> calculate >> decide
    decide - "answer" >> answer
    return ToolAgent(start=decide)


def main() -> None:
    """Answer as many questions as the command line asks for."""
    for number in range(int(sys.argv[1])):
        build().run({"question": f"question {number}", "facts": []})


if __name__ == "__main__":
    main()
