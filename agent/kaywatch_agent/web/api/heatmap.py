"""Durations over time: the number of executions by duration, for each step."""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec import Struct

from kaywatch_agent.aggregate import histogram
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.model.bounds import Count, Moment, Seconds
from kaywatch_agent.model.series import Kind
from kaywatch_agent.web.api.parameters import Graph, MomentText, Node, Service
from kaywatch_agent.web.api.query import check_names
from kaywatch_agent.web.api.ranges import (
    StepText,
    archived_points,
    recent_points,
    time_range,
)
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.series_filter import SeriesFilter
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["heatmap"]

# Rows for each doubling of a duration: 19 % from one to the next.
ROWS_PER_OCTAVE: Final = 4

DEFAULT_COLUMNS: Final = 120


class HeatmapQuery(Struct, frozen=True):
    """Filters of executions, and a range."""

    graph: Graph | None = None
    node: Node | None = None
    service: Service | None = None
    start: MomentText | None = None
    end: MomentText | None = None
    step: StepText | None = None


class HeatmapResponse(ResponseBody):
    """Executions by duration and time.

    Column n begins at `first` + n * `step`. `bounds` are the upper bounds of the rows
    in seconds, ascending. `cells` are those with executions, each as [column, row,
    executions].
    """

    step: Count
    start: Moment
    end: Moment
    first: Moment
    columns: Count
    bounds: list[Seconds]
    cells: list[tuple[int, int, int]]


def heatmap(snapshot: AgentSnapshot, query: HeatmapQuery) -> HeatmapResponse:
    """Return the number of executions by duration and time.

    Raises:
        Problem: 400 for an invalid range; 404 for an unknown name.
    """
    range = time_range(
        query.start, query.end, query.step, snapshot.now, DEFAULT_COLUMNS
    )
    matches = SeriesFilter(service=query.service, graph=query.graph, node=query.node)
    groups = snapshot.groups([Kind.NODE], lambda _: 0, matches=matches)
    if not len(groups):
        check_names(snapshot, query)
    dimensions = {Dimension.HISTOGRAM}
    stats = GroupStats(groups.numbers, range.points, dimensions)
    rows = snapshot.rows_of(matches)
    for number, bucket in archived_points(snapshot.view, range):
        stats.add(bucket, offset=number)
    stats.add_all(recent_points(snapshot.view, range, rows, dimensions))
    bounds, cells = _cells(stats)
    return HeatmapResponse(
        step=range.step,
        start=range.start,
        end=range.end,
        first=float(max(0, range.first)),
        columns=range.points,
        bounds=bounds,
        cells=cells,
    )


# -- inside --------------------------------------------------------------------------


def _cells(stats: GroupStats) -> tuple[list[float], list[tuple[int, int, int]]]:
    """Return the upper bounds of the rows, and the cells with executions."""
    column, code, count = stats.facts(Dimension.HISTOGRAM)
    # A histogram has 32 buckets per octave, more than a chart has pixels for.
    row = histogram.rows(code, ROWS_PER_OCTAVE)
    # Only rows with executions are sent: durations span from microseconds to hours.
    lowest = int(row.min()) if len(row) else 0
    rows = int(row.max()) - lowest + 1 if len(row) else 0
    cells = np.zeros((len(stats), rows), np.int64)
    np.add.at(cells, (column, row - lowest), count)
    at = np.nonzero(cells)
    columns, numbers = (axis.tolist() for axis in at)
    bounds = histogram.row_bounds(lowest + np.arange(rows), ROWS_PER_OCTAVE)
    return bounds.tolist(), list(zip(columns, numbers, cells[at].tolist(), strict=True))
