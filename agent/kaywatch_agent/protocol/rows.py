"""Rows, as a shell script sends them, become the same columns that our client sends."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from kaywatch.wire import (
    EXECUTION_COLUMNS,
    MAX_NAME,
    PHASE_COLUMNS,
    PHASES,
    POINT_COLUMNS,
    ErrorCode,
    Outcome,
    PointKind,
)
from kaywatch_agent.model.bounds import MAX_ATTEMPTS, MAX_TIME
from kaywatch_agent.model.series import ErrorKey
from kaywatch_agent.protocol.columns import BAD_INPUT, Checked
from kaywatch_agent.protocol.limits import MAX_ROWS
from kaywatch_agent.protocol.lists import items
from kaywatch_agent.protocol.messages import Executions, Phases, Points
from kaywatch_agent.protocol.table import Table, cut_labels

__all__ = ["columns_of_rows"]


class _Row(msgspec.Struct):
    """One event: an execution (`seconds`), or a metric's value (`metric`, `value`).

    `end` and `time` are the names of the columns; either will do, and 0 means now,
    for senders without a clock.
    """

    node: str = ""
    graph: str = ""
    end: float = 0.0
    time: float = 0.0
    seconds: float | None = None
    outcome: str = ""
    attempts: int = 1
    action: str = "default"
    error: str = ""
    phase: str = ""
    prep: float | None = None
    exec: float | None = None
    wait: float | None = None
    items: int | None = None
    metric: str = ""
    kind: PointKind = PointKind.OBSERVE
    value: float | None = None
    labels: dict[str, str] = {}


_row_decoder = msgspec.msgpack.Decoder(_Row)
_OUTCOMES: Final = {outcome.name.lower(): outcome for outcome in Outcome}
_MOST: Final = {"f": float(np.finfo("f").max), "I": np.iinfo("I").max}
_WITHOUT_ACTION: Final = (Outcome.ERROR, Outcome.CANCELLED)  # `post` returned nothing


def columns_of_rows(
    encoded: msgspec.Raw, checked: Checked
) -> tuple[Table, Executions, Points]:
    """Return a table and columns for the sound rows; the others are counted."""
    columns = _Builder()
    rows = items(encoded, "events", MAX_ROWS, ErrorCode.BAD_ROW, checked)
    for number, item in enumerate(rows or ()):
        try:
            columns.add(_row_decoder.decode(item))
        except BAD_INPUT as error:
            checked.count(ErrorCode.BAD_ROW, f"events[{number}]: {error}")
    return columns.build()


class _Builder:
    """Interns names, and collects one list per column."""

    def __init__(self) -> None:
        self._strings: dict[str, int] = {"": 0}
        self._series: dict[tuple[str, str], int] = {}
        self._points: dict[tuple[Any, ...], int] = {}
        self._errors: dict[ErrorKey, int] = {ErrorKey("", ""): 0}
        self._execution_rows: list[tuple[Any, ...]] = []
        self._phased_rows: list[tuple[Any, ...]] = []
        self._point_rows: list[tuple[Any, ...]] = []

    def add(self, row: _Row) -> None:
        """Take one row.

        Raises:
            ValueError: naming the key that can't be used.
        """
        time = row.end or row.time
        if not 0 <= time <= MAX_TIME:
            raise ValueError(f"end={time}: expected Unix seconds")
        if row.metric:
            self._add_point(row, time)
        else:
            self._add_execution(row, time)

    def build(self) -> tuple[Table, Executions, Points]:
        """Return what was collected."""
        table = Table(
            list(self._strings),
            list(self._series),
            list(self._points),
            list(self._errors),
        )
        known = len(EXECUTION_COLUMNS)
        rows = [row[:known] for row in self._phased_rows] + self._execution_rows
        phases = _arrays([row[known:] for row in self._phased_rows], PHASE_COLUMNS)
        first = slice(len(self._phased_rows))
        executions = Executions(
            **_arrays(rows, EXECUTION_COLUMNS),
            phases=Phases(**phases, of=first) if self._phased_rows else None,
        )
        points = _arrays(self._point_rows, POINT_COLUMNS)
        return table, executions, Points(**points)

    def _add_execution(self, row: _Row, end: float) -> None:
        if not row.node:
            raise ValueError("node: missing (or give metric and value)")
        if row.seconds is None or not 0 <= row.seconds < np.inf:
            raise ValueError(f"seconds={row.seconds}: expected a number from 0")
        outcome = _OUTCOMES.get(row.outcome or ("error" if row.error else "ok"))
        if outcome is None:
            raise ValueError(
                f"outcome={row.outcome[:40]!r}: expected one of {', '.join(_OUTCOMES)}"
            )
        if row.phase not in PHASES:
            raise ValueError(f"phase={row.phase[:40]!r}: expected prep, exec or post")
        key = (row.graph[:MAX_NAME], row.node[:MAX_NAME])
        error = ErrorKey(row.error[:MAX_NAME], row.phase if row.error else "")
        phases = _phases(row)
        rows = self._execution_rows if phases is None else self._phased_rows
        rows.append(
            (
                self._series.setdefault(key, len(self._series)),
                end,
                row.seconds,
                outcome,
                min(max(1, row.attempts), MAX_ATTEMPTS),
                self._text("" if outcome in _WITHOUT_ACTION else row.action),
                self._errors.setdefault(error, len(self._errors)),
                *(phases or ()),
            )
        )

    def _add_point(self, row: _Row, time: float) -> None:
        if row.value is None or not -np.inf < row.value < np.inf:
            raise ValueError(f"value={row.value}: expected a finite number")
        names = (row.metric[:MAX_NAME], row.graph[:MAX_NAME], row.node[:MAX_NAME])
        key = (row.kind, *names, cut_labels(row.labels))
        number = self._points.setdefault(key, len(self._points))
        self._point_rows.append((number, time, row.value))

    def _text(self, text: str) -> int:
        return self._strings.setdefault(text[:MAX_NAME], len(self._strings))


def _phases(row: _Row) -> tuple[float, float, float, int] | None:
    """Return what is in PHASE_COLUMNS, None where the row tells nothing of it.

    Raises:
        ValueError: naming the key that can't be used.
    """
    given = {name: getattr(row, name) for name in PHASE_COLUMNS}
    if all(value is None for value in given.values()):
        return None
    for name, value in given.items():
        if value is not None and not 0 <= value <= _MOST[PHASE_COLUMNS[name]]:
            raise ValueError(f"{name}={value}: expected a number from 0")
    return row.prep or 0.0, row.exec or 0.0, row.wait or 0.0, row.items or 0


def _arrays(rows: list[tuple[Any, ...]], columns: Any) -> dict[str, Any]:
    values = zip(*rows, strict=True) if rows else ([] for _ in columns)
    return {
        name: np.array(column, code)
        for (name, code), column in zip(columns.items(), values, strict=True)
    }
