"""Measure the cost of log lines per node; compare with KayGraph's f-strings.

A flow of ten nodes that do nothing runs with different logging set-ups and real files.
The peer logs as KayGraph does: a node logs its start and end, and formats f-strings at
any level, including those for DEBUG with a payload of 1,000 records from `prep`.
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
from tests.bench.bench_frameworks import Step, measure_visit
from tests.bench.report import OURS, Figure, Row, differences, summarize
from tests.bench.rounds import Effort, interleave

import kaywatch
from kaywatch.logs import (
    FORMAT,
    remove_logging,
    setup_production_logging,
    setup_structured_logging,
)
from kaywatch.testing import capture

RUNS = 200
REPEAT = 3  # measurements per round, as they are short
PAYLOAD = [{"id": number, "text": "some text"} for number in range(1_000)]


class LoggingStep(Step):
    """Logs as KayGraph does: an f-string for each line, formatted at any level."""

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


def set_up_plain_handlers(folder: Path, level: int) -> None:
    """Set logging up as KayGraph's page does, without its console."""
    root = logging.getLogger()
    root.setLevel(level)
    for name, least in (("page.log", logging.DEBUG), ("errors.log", logging.ERROR)):
        handler = logging.FileHandler(folder / name)
        handler.setFormatter(logging.Formatter(FORMAT))
        handler.setLevel(least)
        root.addHandler(handler)


def remove_setup() -> None:
    """Undo any of the set-ups."""
    remove_logging()
    kaywatch.uninstrument()
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.WARNING)


def measure_with_setup(
    setup: Callable[[], object], visited: Callable[[], float]
) -> float:
    """Return the microseconds of a visit with a set-up, which is removed afterwards."""
    setup()
    try:
        return visited()
    finally:
        remove_setup()


def set_up_kaywatch(folder: Path, setup: Callable[..., None], level: str) -> None:
    """Set up kaywatch's logging without the console."""
    setup(directory=folder, level=level, console=False)
    instrument()


def instrument() -> None:
    kaywatch.instrument(modules=[pocketflow])


def measure(effort: Effort) -> list[Row]:
    """Return a row for each kind and level of logging."""
    runs = effort.of(RUNS)
    plain = partial(measure_visit, Step, {}, runs)
    chatty = partial(measure_visit, LoggingStep, {}, runs)
    loaded = partial(
        measure_visit, LoggingStep, {"payload": PAYLOAD}, effort.of(RUNS // 50)
    )
    with tempfile.TemporaryDirectory() as name, capture():
        folder = Path(name)
        production = partial(set_up_kaywatch, folder, setup_production_logging)
        structured = partial(set_up_kaywatch, folder, setup_structured_logging)
        by_hand = partial(set_up_plain_handlers, folder)
        cases: dict[str, tuple[Callable[[], object], Callable[[], float]]] = {
            "bare": (remove_setup, plain),
            "instrumented": (instrument, plain),
            "WARNING": (partial(production, "WARNING"), plain),
            "INFO": (partial(production, "INFO"), plain),
            "JSON": (partial(structured, "INFO"), plain),
            "f-strings, WARNING": (partial(by_hand, logging.WARNING), chatty),
            "f-strings, INFO": (partial(by_hand, logging.INFO), chatty),
            "f-strings, 1,000 records": (partial(by_hand, logging.WARNING), loaded),
        }
        measurements = interleave(
            effort.rounds * effort.whole(REPEAT, 1),
            {
                case: partial(measure_with_setup, *value)
                for case, value in cases.items()
            },
        )

    def adds(case: str, who: str = OURS, note: str = "") -> Figure:
        return summarize(
            who, differences(measurements[case], measurements["bare"]), note
        )

    strings = "f-strings, as KayGraph logs"
    return [
        Row(
            "overhead per node: metrics, logging at WARNING",
            "us",
            adds("WARNING"),
            peers=(
                adds("instrumented", "metrics only"),
                adds("f-strings, WARNING", strings),
                adds("f-strings, 1,000 records", strings, "1,000 records from `prep`"),
            ),
        ),
        Row(
            "the same, logging at INFO, to files",
            "us",
            adds("INFO", note="3 lines per node"),
            peers=(adds("f-strings, INFO", strings, "2 lines per node"),),
        ),
        Row("the same, as JSON", "us", adds("JSON", note="3 lines per node")),
    ]
