"""Convert rows, as sent by shell scripts, to the columns that the client sends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import (
    EXECUTION_COLUMNS,
    PHASE_COLUMNS,
    PHASES,
    POINT_COLUMNS,
    ErrorCode,
    Outcome,
    PointKind,
)
from kaywatch_agent.model.bounds import MAX_ATTEMPTS, MAX_TIME
from kaywatch_agent.model.series import ErrorKey
from kaywatch_agent.protocol.columns import BAD_INPUT, BatchErrors, Rows
from kaywatch_agent.protocol.limits import MAX_ROWS, MAX_VALUE
from kaywatch_agent.protocol.lists import items
from kaywatch_agent.protocol.names import clean_name
from kaywatch_agent.protocol.table import Table, cut_labels

__all__ = ["read_rows"]


class _Row(msgspec.Struct):
    """One event: an execution (`seconds`), or a metric's value (`metric`, `value`).

    `end` and `time` are the names of the columns; either is accepted. 0 means now, for
    senders without a clock.
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
_NO_PHASES: Final = (None, None, None, None)
_MOST: Final = {"f": float(np.finfo("f").max), "I": np.iinfo("I").max}
_WITHOUT_ACTION: Final = (Outcome.ERROR, Outcome.CANCELLED)  # `post` returned nothing


def read_rows(
    batches: Sequence[msgspec.Raw], errors: Sequence[BatchErrors]
) -> tuple[Table, Rows | None, Rows | None]:
    """Return a table, the valid executions and the valid points of batches of rows.

    Args:
        batches: the `events` of each batch. Their common table is indexed with 16 bits,
            so several batches must have fewer than 65,536 rows in total.
        errors: counts the errors of each batch.
    """
    builder = _Builder()
    for encoded, problems in zip(batches, errors, strict=True):
        rows = items(encoded, "events", MAX_ROWS, ErrorCode.BAD_ROW, problems)
        for number, item in enumerate(rows or ()):
            try:
                builder.add(_row_decoder.decode(item))
            except BAD_INPUT as error:
                problems.count(ErrorCode.BAD_ROW, f"events[{number}]: {error}")
        builder.end_batch()
    return builder.build()


class _Builder:
    """Interns names, and collects the rows of each column."""

    def __init__(self) -> None:
        self._strings: dict[str, int] = {"": 0}
        self._series: dict[tuple[str, str], int] = {}
        self._points: dict[tuple[Any, ...], int] = {}
        self._errors: dict[ErrorKey, int] = {ErrorKey("", ""): 0}
        self._executions = _Section(EXECUTION_COLUMNS, PHASE_COLUMNS)
        self._values = _Section(POINT_COLUMNS)

    def add(self, row: _Row) -> None:
        """Add one row.

        Raises:
            ValueError: a key has an invalid value; the message names it.
        """
        time = row.end or row.time
        if not 0 <= time <= MAX_TIME:
            raise ValueError(f"end={time}: expected Unix seconds")
        if row.metric:
            self._add_point(row, time)
        else:
            self._add_execution(row, time)

    def end_batch(self) -> None:
        """Attribute the rows added since the last call to one batch."""
        self._executions.end_batch()
        self._values.end_batch()

    def build(self) -> tuple[Table, Rows | None, Rows | None]:
        """Return the table and the columns of both sections."""
        table = Table(
            list(self._strings),
            list(self._series),
            list(self._points),
            list(self._errors),
        )
        return table, self._executions.build(), self._values.build()

    def _add_execution(self, row: _Row, end: float) -> None:
        if not row.node:
            raise ValueError("node: missing; give node, or metric and value")
        if row.seconds is None or not 0 <= row.seconds <= MAX_TIME:
            text = f"seconds={row.seconds}: expected a number from 0 to {MAX_TIME:.0f}"
            raise ValueError(text)
        outcome = _OUTCOMES.get(row.outcome or ("error" if row.error else "ok"))
        if outcome is None:
            raise ValueError(
                f"outcome={row.outcome[:40]!r}: expected one of {', '.join(_OUTCOMES)}"
            )
        if row.phase not in PHASES:
            raise ValueError(f"phase={row.phase[:40]!r}: expected prep, exec or post")
        key = (clean_name(row.graph), clean_name(row.node))
        error = ErrorKey(clean_name(row.error), row.phase if row.error else "")
        phases = _phases(row)
        self._executions.add(
            (
                self._series.setdefault(key, len(self._series)),
                end,
                row.seconds,
                outcome,
                min(max(1, row.attempts), MAX_ATTEMPTS),
                self._text("" if outcome in _WITHOUT_ACTION else row.action),
                self._errors.setdefault(error, len(self._errors)),
            ),
            phases,
        )

    def _add_point(self, row: _Row, time: float) -> None:
        if row.value is None or not abs(row.value) <= MAX_VALUE:
            text = f"value={row.value}: expected a number of at most {MAX_VALUE:.0e}"
            raise ValueError(text)
        if row.value < 0 and row.kind is PointKind.COUNT:
            raise ValueError(f"value={row.value}: a count is negative; send a gauge")
        names = (clean_name(row.metric), clean_name(row.graph), clean_name(row.node))
        key = (row.kind, *names, cut_labels(row.labels))
        number = self._points.setdefault(key, len(self._points))
        self._values.add((number, time, row.value))

    def _text(self, text: str) -> int:
        return self._strings.setdefault(clean_name(text), len(self._strings))


class _Section:
    """The rows of one section, batch after batch."""

    def __init__(
        self, columns: Mapping[str, str], optional: Mapping[str, str] | None = None
    ) -> None:
        self._types = list(columns.values())
        self._optional_types = list((optional or {}).values())
        self._rows: list[tuple[Any, ...]] = []
        self._optional: list[tuple[Any, ...]] = []
        self._others: list[tuple[Any, ...]] = []  # this batch's without optional values
        self._ends: list[int] = []
        self._optional_ends: list[int] = []

    def add(
        self, row: tuple[Any, ...], optional: tuple[Any, ...] | None = None
    ) -> None:
        """Add a row to the current batch."""
        if optional is None:
            self._others.append(row)
        else:
            self._rows.append(row)
            self._optional.append(optional)

    def end_batch(self) -> None:
        """Append the rows without optional values after the rows with them."""
        self._rows += self._others
        self._others.clear()
        self._ends.append(len(self._rows))
        self._optional_ends.append(len(self._optional))

    def build(self) -> Rows | None:
        """Return the columns; None if there are no rows."""
        if not self._rows:
            return None
        optional: list[NDArray[Any]] = []
        if self._optional:
            optional = _columns(self._optional, self._optional_types)
        return Rows(
            _columns(self._rows, self._types),
            optional,
            _differences(self._ends),
            _differences(self._optional_ends),
        )


def _columns(rows: list[tuple[Any, ...]], types: list[str]) -> list[NDArray[Any]]:
    columns = zip(*rows, strict=True)
    return [np.array(column, code) for column, code in zip(columns, types, strict=True)]


def _differences(ends: list[int]) -> list[int]:
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _phases(row: _Row) -> tuple[float, float, float, int] | None:
    """Return the values of PHASE_COLUMNS; None if the row has none of them.

    Raises:
        ValueError: a key has an invalid value; the message names it.
    """
    values = row.prep, row.exec, row.wait, row.items
    if values == _NO_PHASES:
        return None
    for (name, code), value in zip(PHASE_COLUMNS.items(), values, strict=True):
        if value is not None and not 0 <= value <= _MOST[code]:
            raise ValueError(f"{name}={value}: expected a number of at least 0")
    return row.prep or 0.0, row.exec or 0.0, row.wait or 0.0, row.items or 0
