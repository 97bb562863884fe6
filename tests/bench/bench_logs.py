"""What a node's lines in the log cost, beside KayGraph's f-strings.

A flow of ten nodes that do nothing is run with different set-ups. Files are real.
KayGraph's manner is a node that logs its start and end, with f-strings that are built
at any level: it holds a payload of 1,000 records, as a result of `prep`, which KayGraph
formats for DEBUG.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pocketflow
from tests.bench.bench_frameworks import Step, visit
from tests.bench.report import OURS, Figure, Row, added, figure
from tests.bench.rounds import Effort, in_turns

import kaywatch
from kaywatch.logs import (
    FORMAT,
    remove_logging,
    setup_production_logging,
    setup_structured_logging,
)
from kaywatch.testing import capture

RUNS = 200
REPEAT = 3  # such short measures in one round
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


def visits(setup: Callable[[], object], visited: Callable[[], float]) -> float:
    """Return the microseconds of a visit with a set-up, which is undone after."""
    setup()
    try:
        return visited()
    finally:
        clear()


def ours(folder: Path, setup: Callable[..., None], level: str) -> None:
    """Set ours up, without the console."""
    setup(directory=folder, level=level, console=False)
    watch()


def watch() -> None:
    kaywatch.instrument(modules=[pocketflow])


def measure(effort: Effort) -> list[Row]:
    """Return a row for each manner and level."""
    runs = effort.of(RUNS)
    plain = partial(visit, Step, {}, runs)
    chatty = partial(visit, Chatty, {}, runs)
    loaded = partial(visit, Chatty, {"payload": PAYLOAD}, effort.of(RUNS // 50))
    with tempfile.TemporaryDirectory() as name, capture():
        folder = Path(name)
        production = partial(ours, folder, setup_production_logging)
        structured = partial(ours, folder, setup_structured_logging)
        by_hand = partial(plain_handlers, folder)
        cases: dict[str, tuple[Callable[[], object], Callable[[], float]]] = {
            "bare": (clear, plain),
            "instrumented": (watch, plain),
            "WARNING": (partial(production, "WARNING"), plain),
            "INFO": (partial(production, "INFO"), plain),
            "JSON": (partial(structured, "INFO"), plain),
            "f-strings, WARNING": (partial(by_hand, logging.WARNING), chatty),
            "f-strings, INFO": (partial(by_hand, logging.INFO), chatty),
            "f-strings, 1,000 records": (partial(by_hand, logging.WARNING), loaded),
        }
        measurements = in_turns(
            effort.rounds * REPEAT,
            {case: partial(visits, *value) for case, value in cases.items()},
        )

    def adds(case: str, who: str = OURS, note: str = "") -> Figure:
        return figure(who, added(measurements[case], measurements["bare"]), note)

    strings = "f-strings, as KayGraph logs"
    return [
        Row(
            "added to a node: metrics, logging at WARNING",
            "us",
            adds("WARNING"),
            peers=(
                adds("instrumented", "metrics alone"),
                adds("f-strings, WARNING", strings),
                adds("f-strings, 1,000 records", strings, "1,000 records from `prep`"),
            ),
        ),
        Row(
            "the same, logging at INFO, to files",
            "us",
            adds("INFO", note="3 lines a node"),
            peers=(adds("f-strings, INFO", strings, "2 lines a node"),),
        ),
        Row("the same, as JSON", "us", adds("JSON", note="3 lines a node")),
    ]
