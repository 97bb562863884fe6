"""Find the benchmark modules. Each has `measure(effort) -> list[Row]`."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.bench.report import Row
from tests.bench.rounds import Effort

__all__ = ["NAMES", "measure_module"]

NAMES = sorted(
    path.stem.removeprefix("bench_")
    for path in Path(__file__).parent.glob("bench_*.py")
)


def measure_module(name: str, effort: Effort) -> list[Row]:
    """Return the rows of one module."""
    rows: list[Row] = importlib.import_module(f"tests.bench.bench_{name}").measure(
        effort
    )
    return rows
