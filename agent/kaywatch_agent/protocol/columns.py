"""Decodes binary columns into numpy arrays; drops and counts invalid rows.

Strategy: the columns of all batches that share a table are joined as bytes and checked
once, because a numpy call costs the same for twenty rows as for a thousand. If a joined
check fails, each batch is checked alone, so that the error is attributed to its batch
and all valid rows are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import (
    EXECUTION_COLUMNS,
    PHASE_COLUMNS,
    POINT_COLUMNS,
    RUN_COLUMNS,
    ErrorCode,
    Outcome,
    PointKind,
)
from kaywatch_agent.model.bounds import MAX_TIME
from kaywatch_agent.protocol.limits import MAX_VALUE
from kaywatch_agent.protocol.table import Table

__all__ = [
    "BAD_INPUT",
    "EXECUTIONS",
    "POINTS",
    "RUNS",
    "BatchErrors",
    "Rows",
    "Section",
]

# The exceptions that msgspec raises for invalid input.
BAD_INPUT: Final = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)

# The wire format is little-endian on every machine.
_TYPES: Final = {code: np.dtype(code).newbyteorder("<") for code in "BHIfd"}
_map_decoder: Final = msgspec.msgpack.Decoder(dict[str, Any])
_LAST_OUTCOME: Final = max(Outcome)

# Calling the reductions directly is 0.3 us faster than calling the arrays' methods.
_max: Final = np.maximum.reduce
_min: Final = np.minimum.reduce
_all: Final = np.logical_and.reduce

Mask = NDArray[np.bool_]
Array = NDArray[Any]
Problem = tuple[ErrorCode, str, Mask]  # the error, and the mask of the valid rows
Check = Callable[[Mapping[str, Array], Table], list[Problem | None]]


class BatchErrors:
    """Collects the errors of a batch, for the counters and for the sender."""

    def __init__(self) -> None:
        self.rejected: Counter[ErrorCode] = Counter()
        self.problem = ""

    def count(self, code: ErrorCode, text: str, events: int = 1) -> None:
        """Count `events` as rejected for the reason `code`."""
        self.rejected[code] += events
        self.problem = self.problem or text


class Rows(NamedTuple):
    """The valid rows of one section of several batches, in the order of the batches.

    Attributes:
        columns: one array for each column.
        optional: one array for each optional column. They have values for the first
            rows of each batch.
        sizes: the number of rows of each batch.
        optional_sizes: the number of rows of each batch with optional values.
    """

    columns: list[Array]
    optional: list[Array]
    sizes: list[int]
    optional_sizes: list[int]


class _BatchColumns(NamedTuple):
    """The columns of one batch, after a check of their lengths."""

    columns: Sequence[Any]  # buffers
    size: int
    optional_size: int


class Section:
    """The encoding of one section of columns, and the checks of its rows."""

    def __init__(
        self,
        name: str,
        columns: Mapping[str, str],
        check: Check,
        optional: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare the decoder.

        Args:
            name: the name of the section in error messages.
            columns: the type codes of required columns by name.
            check: returns the errors in joined columns.
            optional: the type codes of columns that may be absent or shorter.
        """
        self.name = name
        self._required = len(columns)
        self._types = {k: _TYPES[c] for k, c in {**columns, **(optional or {})}.items()}
        self._widths = tuple(dtype.itemsize for dtype in self._types.values())
        self._check = check
        # The decoder requires these columns, ignores others, and copies nothing.
        fields: list[Any] = [(column, memoryview) for column in columns]
        fields += [(column, memoryview, b"") for column in optional or ()]
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
            msgspec.defstruct(name, fields)
        )

    def read(
        self,
        encoded: Sequence[msgspec.Raw],
        table: Table,
        errors: Sequence[BatchErrors],
    ) -> Rows | None:
        """Return the valid rows of batches; None if there are none.

        Args:
            encoded: this section of each batch; empty if the batch has none.
            table: the common table of the batches.
            errors: counts the errors of each batch.
        """
        parts = [
            self._split(raw, result) if raw else None
            for raw, result in zip(encoded, errors, strict=True)
        ]
        return self._check_joined(parts, table, errors)

    def count_claimed(self, encoded: msgspec.Raw) -> int:
        """Return the number of events in an invalid section, at least 1."""
        try:
            columns = _map_decoder.decode(encoded)
        except BAD_INPUT:
            return 1
        lengths = (
            len(column) // dtype.itemsize
            for name, dtype in self._types.items()
            if isinstance(column := columns.get(name), bytes)
        )
        return max([1, *lengths])

    # -- inside ------------------------------------------------------------------------

    def _check_joined(
        self,
        parts: Sequence[_BatchColumns | None],
        table: Table,
        errors: Sequence[BatchErrors],
    ) -> Rows | None:
        """Return the valid rows of batches whose columns have been split."""
        rows = self._join(parts)
        if rows is None:
            return None
        named = dict(zip(self._types, [*rows.columns, *rows.optional], strict=False))
        problems = [problem for problem in self._check(named, table) if problem]
        if not problems:
            return rows
        if len(parts) == 1:
            return _drop_invalid(rows, problems, errors[0])
        return self._check_separately(parts, table, errors)

    def _split(self, encoded: msgspec.Raw, errors: BatchErrors) -> _BatchColumns | None:
        """Return the columns of one batch; None if they are invalid."""
        try:
            columns = msgspec.structs.astuple(self._decoder.decode(encoded))
        except BAD_INPUT as error:
            text = f"{self.name}: {error}"
            errors.count(ErrorCode.BAD_COLUMNS, text, self.count_claimed(encoded))
            return None
        required, widths = self._required, self._widths
        size = len(columns[0]) // widths[0]
        more = len(columns[-1]) // widths[-1] if len(widths) > required else 0
        lengths = list(map(len, columns))
        expected = [size * width for width in widths[:required]]
        expected += [more * width for width in widths[required:]]
        if lengths == expected and more <= size:
            return _BatchColumns(columns, size, more)
        sizes = [n // w for n, w in zip(lengths[:required], widths, strict=False)]
        text = f"{self.name}: {self._describe_lengths(lengths)}"
        errors.count(ErrorCode.BAD_COLUMNS, text, max(1, *sizes))
        return None

    def _describe_lengths(self, lengths: Sequence[int]) -> str:
        """Describe the error in the lengths of columns, given in bytes."""
        sizes = {}
        columns = zip(self._types.items(), lengths, strict=True)
        for number, ((name, dtype), length) in enumerate(columns):
            if number >= self._required and not length:
                continue  # an optional column that was not sent
            width = dtype.itemsize
            if length % width:
                return f"{name}: {length} bytes, not a multiple of {width}: truncated?"
            sizes[name] = length // width
        return f"columns of unequal length: {sizes}"

    def _join(self, parts: Sequence[_BatchColumns | None]) -> Rows | None:
        """Join the columns of several batches."""
        sizes = [part.size if part else 0 for part in parts]
        if not any(sizes):
            return None
        columns = [part.columns for part in parts if part and part.size]
        types = self._types.values()
        if len(columns) == 1:
            buffers: Sequence[Any] = columns[0]
        else:
            buffers = [b"".join(pieces) for pieces in zip(*columns, strict=True)]
        arrays = [
            np.frombuffer(buffer, dtype)
            for buffer, dtype in zip(buffers, types, strict=True)
        ]
        more = [part.optional_size if part else 0 for part in parts]
        optional = arrays[self._required :] if any(more) else []
        return Rows(arrays[: self._required], optional, sizes, more)

    def _check_separately(
        self,
        parts: Sequence[_BatchColumns | None],
        table: Table,
        errors: Sequence[BatchErrors],
    ) -> Rows | None:
        """Check each batch alone, and join the valid rows."""
        sizes, more = [0] * len(parts), [0] * len(parts)
        columns, optional = [], []
        for at, part in enumerate(parts):
            rows = self._check_joined([part], table, [errors[at]])
            if rows is None:
                continue
            sizes[at], more[at] = rows.sizes[0], rows.optional_sizes[0]
            columns.append(rows.columns)
            if rows.optional:
                optional.append(rows.optional)
        if not any(sizes):
            return None
        return Rows(_concatenate(columns), _concatenate(optional), sizes, more)


def _concatenate(parts: list[list[Array]]) -> list[Array]:
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


def _drop_invalid(
    rows: Rows, problems: list[Problem], errors: BatchErrors
) -> Rows | None:
    """Return the valid rows of one batch; count each invalid row once."""
    sound = np.ones(rows.sizes[0], np.bool_)
    for code, text, passed in problems:
        rows_checked = sound[: len(passed)]  # optional columns may be shorter
        invalid = int(np.count_nonzero(rows_checked & ~passed))
        if invalid:
            errors.count(code, text, invalid)
        rows_checked &= passed
    columns = [column[sound] for column in rows.columns]
    optional = [column[sound[: len(column)]] for column in rows.optional]
    if not len(columns[0]):
        return None
    more = len(optional[0]) if optional else 0
    return Rows(columns, optional if more else [], [len(columns[0])], [more])


# -- checks of rows --------------------------------------------------------------------

# Each check tests an extreme first: that takes one pass, and nearly always suffices.


def _check_indexes(where: str, column: Array, size: int) -> Problem | None:
    if _max(column) < size:
        return None
    text = f"{where}: an index outside a table of {size}"
    return ErrorCode.BAD_INDEX, text, column < size


def _check_finite(where: str, column: Array) -> Problem | None:
    sound = np.isfinite(column)
    if _all(sound):
        return None
    return ErrorCode.BAD_VALUE, f"{where}: NaN or infinite", sound


def _check_durations(where: str, column: Array) -> Problem | None:
    # If any value is NaN, so are both extremes, and comparisons with NaN are false.
    if _min(column) >= 0 and _max(column) <= MAX_TIME:
        return None
    text = f"{where}: NaN, negative, or over {MAX_TIME:.0f} seconds"
    return ErrorCode.BAD_VALUE, text, (column >= 0) & (column <= MAX_TIME)


def _check_values(where: str, column: Array) -> Problem | None:
    if _min(column) >= -MAX_VALUE and _max(column) <= MAX_VALUE:
        return None
    text = f"{where}: NaN, or beyond {MAX_VALUE:.0e} in size"
    return ErrorCode.BAD_VALUE, text, np.abs(column) <= MAX_VALUE


def _check_counts(
    where: str, columns: Mapping[str, Array], table: Table
) -> Problem | None:
    """Reject negative counts: Prometheus takes a lower sum for a restart."""
    negative = columns["value"] < 0
    if not negative.any():
        return None
    is_count = np.array(
        [kind is PointKind.COUNT for kind, *_ in table.points] or [False]
    )
    # `_check_indexes` reports an index outside of the table.
    series = np.minimum(columns["series"], len(is_count) - 1)
    sound = ~(negative & is_count[series])
    if sound.all():
        return None
    return ErrorCode.BAD_VALUE, f"{where}: a count is negative; send a gauge", sound


def _check_outcomes(where: str, column: Array) -> Problem | None:
    if _max(column) <= _LAST_OUTCOME:
        return None
    text = f"{where}: over {_LAST_OUTCOME}"
    return ErrorCode.BAD_VALUE, text, column <= _LAST_OUTCOME


def _check_executions(
    columns: Mapping[str, Array], table: Table
) -> list[Problem | None]:
    problems = [
        _check_indexes("executions.series", columns["series"], len(table.series)),
        _check_indexes("executions.action", columns["action"], len(table.strings)),
        _check_indexes("executions.error", columns["error"], len(table.errors)),
        _check_finite("executions.end", columns["end"]),
        _check_durations("executions.seconds", columns["seconds"]),
        _check_outcomes("executions.outcome", columns["outcome"]),
    ]
    if "prep" in columns:
        problems += [
            _check_durations(f"executions.{phase}", columns[phase])
            for phase in ("prep", "exec", "wait")
        ]
    return problems


def _check_points(columns: Mapping[str, Array], table: Table) -> list[Problem | None]:
    return [
        _check_indexes("points.series", columns["series"], len(table.points)),
        _check_finite("points.time", columns["time"]),
        _check_values("points.value", columns["value"]),
        _check_counts("points.value", columns, table),
    ]


def _check_runs(columns: Mapping[str, Array], table: Table) -> list[Problem | None]:
    strings = len(table.strings)
    return [
        *(
            _check_indexes(f"runs.{name}", columns[name], strings)
            for name in ("graph", "reason", "node", "action")
        ),
        _check_finite("runs.end", columns["end"]),
        _check_durations("runs.seconds", columns["seconds"]),
        _check_outcomes("runs.outcome", columns["outcome"]),
    ]


EXECUTIONS: Final = Section(
    "executions", EXECUTION_COLUMNS, _check_executions, PHASE_COLUMNS
)
POINTS: Final = Section("points", POINT_COLUMNS, _check_points)
RUNS: Final = Section("runs", RUN_COLUMNS, _check_runs)
