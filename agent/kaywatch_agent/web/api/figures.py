"""Statistics of places (nodes or graphs) within a window, in columns.

Strategy: one row for each place and one array for each figure, whatever the number of
places. The live stream compares such arrays with those of the previous tick; a response
about few places turns each row into an object.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Annotated, Any, Final, Generic, TypeVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats, Numbers
from kaywatch_agent.model.bounds import Count, Moment, Rate, Seconds
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.web.api.schema import Outcomes, ResponseBody
from kaywatch_agent.web.snapshot import AgentSnapshot, Window

__all__ = [
    "Columns",
    "Figures",
    "PlaceGroups",
    "columns_of",
    "costs_of",
    "figures_of",
]

T = TypeVar("T", bound=Hashable)

Columns = dict[str, NDArray[Any]]
Dollars = Annotated[float, Meta(ge=0, description="US dollars")]

# The sums of model calls that make up the figures.
_CALLS: Final = {
    "llm_calls": 0,
    "llm_cost_usd": 1,
    "llm_wasted_cost_usd": 2,
    "llm_input_tokens": 3,
    "llm_output_tokens": 4,
}

DIMENSIONS: Final = frozenset({Dimension.OUTCOME, Dimension.HISTOGRAM})


class Figures(ResponseBody):
    """The figures of a node or a graph within a window.

    `seconds` is the sum over all executions. `wasted_cost_usd` is the cost of attempts
    that raised an exception. The last three are null without calls of a model.
    """

    executions: Count
    outcomes: Outcomes
    success_rate: Rate | None
    avg: Seconds | None
    p50: Seconds | None
    p95: Seconds | None
    p99: Seconds | None
    seconds: Seconds
    retries: Count
    last_execution: Moment | None
    cost_usd: Dollars | None
    wasted_cost_usd: Dollars | None
    tokens: Count | None


class PlaceGroups(Generic[T]):
    """The series of places: their executions or runs, and their calls of models.

    Attributes:
        groups: the executions or runs by place.
        calls: the number of the cell that a series of calls adds to, by row; -1 for
            none.
    """

    def __init__(
        self,
        snapshot: AgentSnapshot,
        kind: Kind,
        place: Callable[[SeriesKey], T | None],
        names: Iterable[T] = (),
    ) -> None:
        """Group series by place.

        Args:
            snapshot: has the series.
            kind: NODE or RUN.
            place: returns the place of a series; None leaves the series out.
            names: the places that exist in any case, numbered first.
        """
        self.groups = snapshot.groups([kind], place, names)
        number = dict(self.groups.items())
        self.calls: NDArray[np.int64] = np.full(len(snapshot.keys), -1)
        for row in snapshot.rows[Kind.COUNT]:
            key = snapshot.keys[row]
            cell = _CALLS.get(key.metric)
            at = None if cell is None else number.get(place(key))  # type: ignore[arg-type]
            if at is not None:
                self.calls[row] = at * len(_CALLS) + (cell or 0)


def columns_of(
    window: Window,
    places: PlaceGroups[Any],
    dimensions: Collection[Dimension] = DIMENSIONS,
) -> tuple[Columns, GroupStats]:
    """Return the figures of places by name, and the statistics they come from.

    Counts are integers. Floats are NaN where there is no value, and `last` is 0.
    """
    stats = window.stats(places.groups, dimensions)
    # One pass over the buckets for all five sums, rather than one pass for each.
    calls, cost, wasted, tokens_in, tokens_out = _calls(window, places)
    outcomes = stats.outcomes()
    p50, p95, p99 = stats.quantiles(0.5, 0.95, 0.99)
    some = stats.executions > 0
    return {
        "executions": stats.executions,
        "error": outcomes[:, Outcome.ERROR],
        "suppressed": outcomes[:, Outcome.SUPPRESSED],
        "fallback": outcomes[:, Outcome.FALLBACK],
        "cancelled": outcomes[:, Outcome.CANCELLED],
        "retries": stats.retries(),
        # Clients may send any number, but JSON has no infinity.
        "seconds": np.where(np.isfinite(stats.total), stats.total, 0.0),
        "p50": _floats(p50),
        "p95": _floats(p95),
        "p99": _floats(p99),
        "last": np.where(some, stats.last_time, 0.0),
        "cost": np.where(calls > 0, cost, np.nan),
        "wasted": np.where(calls > 0, wasted, np.nan),
        "tokens": np.where(calls > 0, tokens_in + tokens_out, 0.0).astype(np.int64),
    }, stats


def costs_of(window: Window, places: PlaceGroups[Any]) -> dict[str, Numbers]:
    """Return the costs of model calls by key; None for a place without calls."""
    calls, cost, wasted, *_ = _calls(window, places).tolist()
    return {
        key: [
            value if count else None for value, count in zip(column, calls, strict=True)
        ]
        for key, column in (("cost_usd", cost), ("wasted_cost_usd", wasted))
    }


def figures_of(columns: Columns) -> list[dict[str, Any]]:
    """Return the keys of `Figures`, for each place."""
    names = list(columns)
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [_figures(dict(zip(names, row, strict=True))) for row in rows]


# -- inside --------------------------------------------------------------------------


def _calls(window: Window, places: PlaceGroups[Any]) -> NDArray[np.float64]:
    """Return the sums of model calls: a row for each of `_CALLS`."""
    size = len(places.groups)
    cells = window.sums(places.calls, size * len(_CALLS))
    return cells.reshape(size, len(_CALLS)).T


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    executions = row["executions"]
    failed = {name: row[name] for name in ("error", "suppressed", "fallback")}
    finished = executions - row["cancelled"]
    ok = finished - sum(failed.values())
    has_calls = row["cost"] == row["cost"]  # not NaN
    return {
        "executions": executions,
        "outcomes": Outcomes(ok=ok, cancelled=row["cancelled"], **failed),
        # As in rules: cancelled executions neither failed nor succeeded.
        "success_rate": 1.0 - row["error"] / finished if finished else None,
        "avg": row["seconds"] / executions if executions else None,
        "p50": _number(row["p50"]),
        "p95": _number(row["p95"]),
        "p99": _number(row["p99"]),
        "seconds": row["seconds"],
        "retries": row["retries"],
        "last_execution": row["last"] or None,
        "cost_usd": row["cost"] if has_calls else None,
        "wasted_cost_usd": row["wasted"] if has_calls else None,
        "tokens": row["tokens"] if has_calls else None,
    }


def _number(value: float) -> float | None:
    return value if value == value else None


def _floats(numbers: Numbers) -> NDArray[np.float64]:
    return np.array(numbers, np.float64)
