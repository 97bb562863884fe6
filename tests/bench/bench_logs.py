"""What a node's lines in the log cost, beside KayGraph's f-strings.

    python -m tests.bench.bench_logs

A flow of ten nodes that do nothing is run with different set-ups, in turns, so that a
change of the machine's speed meets all. Files are real. KayGraph's manner is a node
that logs its start and end, with f-strings that are built at any level: it holds a
payload of 1,000 records, as a result of `prep`, which KayGraph formats for DEBUG.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pocketflow
from tests.bench.bench_frameworks import Step, chain

import kaywatch
from kaywatch.logs import (
    FORMAT,
    remove_logging,
    setup_production_logging,
    setup_structured_logging,
)
from kaywatch.testing import capture

clock = time.thread_time
NODES = 10
RUNS = 200
ROUNDS = 7
PAYLOAD = [{"id": number, "text": "some text"} for number in range(1_000)]


class Chatty(Step):
    """Logs as KayGraph does: an f-string for each line, built at any level."""

    def __init__(self) -> None:
        super().__init__()
        self.logger = logging.getLogger(type(self).__name__)

    def prep(self, shared: dict[str, Any]) -> Any:
        return shared.get("payload", 1)

    def post(self, shared: dict[str, Any], prep_res: Any, exec_res: Any) -> str:
        return "default"

    def _run(self, shared: dict[str, Any]) -> Any:
        started = time.time()
        name = f"{type(self).__name__}_{id(self)}"
        self.logger.info(f"Node {name}: Starting execution with params: {self.params}")
        prepared = self.prep(shared)
        self.logger.debug(f"Node {name}: prep() returned: {prepared}")
        result = self._exec(prepared)
        self.logger.debug(f"Node {name}: exec() returned: {result}")
        action = self.post(shared, prepared, result)
        seconds = time.time() - started
        text = f"Node {name}: Completed in {seconds:.3f}s with action: '{action}'"
        self.logger.info(text)
        return action


def microseconds(step: type, shared: dict[str, Any], runs: int) -> float:
    """Return the microseconds that one visit of a node takes."""
    flow = chain(pocketflow.Flow, step)
    started = clock()
    for _ in range(runs):
        flow.run(dict(shared))
    return (clock() - started) / (runs * NODES) * 1e6


def plain_handlers(folder: Path, level: int) -> None:
    """Set logging up as KayGraph's page does, without its console."""
    root = logging.getLogger()
    root.setLevel(level)
    for name, least in (("page.log", logging.DEBUG), ("errors.log", logging.ERROR)):
        handler = logging.FileHandler(folder / name)
        handler.setFormatter(logging.Formatter(FORMAT))
        handler.setLevel(least)
        root.addHandler(handler)


def clear() -> None:
    """Undo any of the set-ups."""
    remove_logging()
    kaywatch.uninstrument()
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.WARNING)


def ours(folder: Path, setup: Callable[..., None], level: str) -> None:
    """Set ours up, without the console."""
    setup(directory=folder, level=level, console=False)
    kaywatch.instrument(modules=[pocketflow])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=RUNS, help="of the flow, a round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    production, structured = setup_production_logging, setup_structured_logging
    payload = {"payload": PAYLOAD}
    with tempfile.TemporaryDirectory() as name, capture():
        folder = Path(name)
        cases: dict[str, tuple[Callable[[], Any], type, dict[str, Any]]] = {
            "bare": (lambda: None, Step, {}),
            "instrumented, no logging": (
                lambda: kaywatch.instrument(modules=[pocketflow]),
                Step,
                {},
            ),
            "ours, level WARNING": (
                lambda: ours(folder, production, "WARNING"),
                Step,
                {},
            ),
            "ours, level INFO": (lambda: ours(folder, production, "INFO"), Step, {}),
            "ours, JSON, INFO": (lambda: ours(folder, structured, "INFO"), Step, {}),
            "f-strings, level WARNING": (
                lambda: plain_handlers(folder, logging.WARNING),
                Chatty,
                {},
            ),
            "f-strings, level INFO": (
                lambda: plain_handlers(folder, logging.INFO),
                Chatty,
                {},
            ),
            "f-strings, WARNING, 1,000 records": (
                lambda: plain_handlers(folder, logging.WARNING),
                Chatty,
                payload,
            ),
        }
        measured: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(options.rounds):
            for case, (setup, step, shared) in cases.items():
                setup()
                runs = options.runs if not shared else max(1, options.runs // 50)
                measured[case].append(microseconds(step, shared, runs))
                clear()
    bare = statistics.median(measured["bare"])
    print(f"{'us per node':<36}{'all':>9}{'added':>9}")
    for case, values in measured.items():
        median = statistics.median(values)
        print(f"{case:<36}{median:>9.2f}{median - bare:>9.2f}")


if __name__ == "__main__":
    main()
