"""A healthy PocketFlow application, as healthy as real ones are.

`python healthy_app.py web` runs graphs until it is ended: some calls fail and are
retried, one run in a hundred fails, an agent loops, and models cost money.
`python healthy_app.py batch` runs for a while, and ends.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import Any

from pocketflow import Flow, Node

import kaywatch

ended = threading.Event()
Shared = dict[str, Any]


class Read(Node):
    def exec(self, prep_res: object) -> None:
        ended.wait(0.01)


class Think(Node):
    """Calls a model; one first attempt in twenty fails."""

    def __init__(self) -> None:
        super().__init__(max_retries=3)

    def prep(self, shared: Shared) -> int:
        run: int = shared["run"]
        return run

    def exec(self, prep_res: int) -> None:
        if prep_res % 20 == 19 and self.cur_retry == 0:
            raise TimeoutError("the model was busy")
        kaywatch.record_llm(
            model="m", input_tokens=900, output_tokens=90, cost_usd=0.002
        )

    def post(self, shared: Shared, prep_res: int, exec_res: object) -> str:
        shared["steps"] = shared.get("steps", 0) + 1
        return "again" if shared["steps"] < 1 + prep_res % 4 else "done"


class Write(Node):
    def prep(self, shared: Shared) -> int:
        run: int = shared["run"]
        return run

    def exec(self, prep_res: int) -> None:
        if prep_res % 100 == 99:
            raise ValueError("the text was too long")

    def post(self, shared: Shared, prep_res: int, exec_res: object) -> str:
        return "archive" if prep_res % 30 == 5 else "done"


class Archive(Node):
    pass


class Chat(Flow):
    pass


def chat() -> Flow:
    read, think, write = Read(), Think(), Write()
    read >> think
    think - "again" >> think
    think - "done" >> write
    write - "archive" >> Archive()
    write - "done" >> Read()
    return Chat(start=read)


def run(times: int) -> None:
    graph = chat()
    for number in range(times):
        if ended.wait(0.02):
            return
        with contextlib.suppress(ValueError):
            graph.run({"run": number})


def end_with_stdin() -> None:
    sys.stdin.read()
    ended.set()


if __name__ == "__main__":
    role = sys.argv[1]
    kaywatch.configure(service=role)
    kaywatch.instrument()
    threading.Thread(target=end_with_stdin, daemon=True).start()
    run(50 if role == "batch" else 10**9)
