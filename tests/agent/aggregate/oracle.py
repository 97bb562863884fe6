"""Returns the statistics of some series in a bucket under readable names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate import bucket as bucket_module
from kaywatch_agent.aggregate import histogram
from kaywatch_agent.aggregate.bucket import (
    DIMENSION_SHIFT,
    EMPTY,
    NUMBER_MASK,
    ROW_COLUMNS,
    ROW_SHIFT,
    Bucket,
    Dimension,
)
from kaywatch_agent.aggregate.registry import Registry
from kaywatch_agent.aggregate.view import View
from kaywatch_agent.model.series import EndPoint, ErrorKey, Kind, SeriesKey

__all__ = [
    "Summary",
    "collapse",
    "completeness",
    "facts_of",
    "rows_of",
    "select",
    "summarize",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Summary:
    """Figures of one or several series over one stretch of time.

    Attributes:
        executions: how many events (executions, runs, values).
        attempts: their attempts; for runs, the nodes visited.
        total: the sum of their values, in seconds for nodes and runs.
        last_time: when the latest was, Unix seconds; 0.0 without any.
        last: the latest one's value.
    """

    def __init__(self, bucket: Bucket, registry: Registry) -> None:
        self._bucket = collapse(bucket) if len(bucket.rows) else bucket
        self._registry = registry
        some = bool(len(self._bucket.rows))
        self.executions = int(self._bucket.executions[0]) if some else 0
        self.attempts = int(self._bucket.attempts[0]) if some else 0
        self.total = float(self._bucket.total[0]) if some else 0.0
        self.last_time = float(self._bucket.last_time[0]) if some else 0.0
        self.last = _number(self._bucket.last) if some else None
        self.least = _number(self._bucket.least) if some else None
        self.most = _number(self._bucket.most) if some else None

    @property
    def average(self) -> float | None:
        """The arithmetic mean of the values."""
        return _finite(self.total / self.executions) if self.executions else None

    @property
    def retries(self) -> int:
        """Attempts beyond the first of each execution."""
        return max(0, self.attempts - self.executions)

    @cached_property
    def outcomes(self) -> dict[str, int]:
        """How many executions had each outcome, all of them named."""
        counts = {outcome.name.lower(): 0 for outcome in Outcome}
        for number, count in self._facts(Dimension.OUTCOME):
            counts[Outcome(number).name.lower()] = count
        counts["ok"] = self.executions - sum(counts.values())
        return counts

    @property
    def success_rate(self) -> float | None:
        """The share that did not end in error, cancelled ones left out of account.

        As KayGraph's MetricsNode counts it: a suppressed error and a fallback are
        successes.
        """
        error_rate = self.error_rate
        return None if error_rate is None else 1.0 - error_rate

    @property
    def error_rate(self) -> float | None:
        """The share that ended in error, cancelled ones left out of account."""
        finished = self.executions - self.outcomes["cancelled"]
        return self.outcomes["error"] / finished if finished else None

    @cached_property
    def actions(self) -> dict[str, int]:
        """How many executions ended with each action; those with an error have none."""
        values = self._registry.actions.values
        return {
            values[number]: count for number, count in self._facts(Dimension.ACTION)
        }

    @cached_property
    def ends(self) -> dict[EndPoint, int]:
        """How many runs ended where, and why; for runs, in place of `actions`."""
        values = self._registry.ends.values
        return {
            values[number]: count for number, count in self._facts(Dimension.ACTION)
        }

    @cached_property
    def errors(self) -> dict[ErrorKey, int]:
        """How often each error class ended, or was answered in, an execution."""
        values = self._registry.errors.values
        return {values[number]: count for number, count in self._facts(Dimension.ERROR)}

    @property
    def error_breakdown(self) -> dict[str, int]:
        """`errors` by the exception's type alone, the most frequent first."""
        counts: dict[str, int] = {}
        for key, count in self.errors.items():
            counts[key.type] = counts.get(key.type, 0) + count
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def histogram(self) -> tuple[Ints, Ints]:
        """Return (codes, counts) of the values' histogram, sorted."""
        return facts_of(self._bucket, 0, Dimension.HISTOGRAM)

    def quantiles(self, *wanted: float) -> list[float | None]:
        """Return quantiles of the values, each within 1.1 % of the exact one."""
        if not self.executions:
            return [None] * len(wanted)
        codes, counts = self.histogram
        least, most = float(self._bucket.least[0]), float(self._bucket.most[0])
        result = _quantiles(codes, counts, np.array(wanted), least, most)
        return [_finite(value) for value in result.tolist()]

    def _facts(self, dimension: Dimension) -> list[tuple[int, int]]:
        numbers, counts = facts_of(self._bucket, 0, dimension)
        return list(zip(numbers.tolist(), counts.tolist(), strict=True))


def rows_of(bucket: Bucket, selected: Ints) -> Bucket:
    """Return the part of a bucket that concerns the `selected` rows, given sorted."""
    if not len(bucket.rows):
        return EMPTY
    at = np.minimum(np.searchsorted(bucket.rows, selected), len(bucket.rows) - 1)
    at = at[bucket.rows[at] == selected]
    if not len(at):
        return EMPTY
    rows = bucket.rows[at]
    low = np.searchsorted(bucket.fact_keys, rows << ROW_SHIFT)
    high = np.searchsorted(bucket.fact_keys, (rows + 1) << ROW_SHIFT)
    facts = np.concatenate([np.arange(a, b) for a, b in zip(low, high, strict=True)])
    columns = [column[at] for column in bucket[:ROW_COLUMNS]]
    return Bucket._make([*columns, bucket.fact_keys[facts], bucket.fact_counts[facts]])


def collapse(bucket: Bucket) -> Bucket:
    """Return all series of a bucket as if they were one, with row 0."""
    one = np.zeros(len(bucket.rows), np.int64)
    keys = bucket.fact_keys & ((1 << ROW_SHIFT) - 1)
    order = np.argsort(keys, kind="stable")
    flat = bucket._replace(
        rows=one, fact_keys=keys[order], fact_counts=bucket.fact_counts[order]
    )
    # Merging with nothing would return it as it is, with its duplicate rows.
    return bucket_module._sort([flat])


def facts_of(bucket: Bucket, row: int, dimension: Dimension) -> tuple[Ints, Ints]:
    """Return (numbers, counts) of one dimension of one series, sorted by number."""
    low = (row << ROW_SHIFT) | (dimension << DIMENSION_SHIFT)
    bounds = np.searchsorted(bucket.fact_keys, [low, low + (1 << DIMENSION_SHIFT)])
    part = slice(int(bounds[0]), int(bounds[1]))
    numbers = bucket.fact_keys[part] & NUMBER_MASK
    if dimension is Dimension.HISTOGRAM:
        numbers = numbers - histogram.CODE_LIMIT
    return numbers, bucket.fact_counts[part]


def _quantiles(
    code: Ints, count: Ints, ranks: Floats, least: float, most: float
) -> Floats:
    """Return quantiles of a histogram, each within 1.1 % of the exact one.

    "Exact" is the sample of rank ceil(q * n) (numpy's `inverted_cdf`): a value that
    occurred, never one between two.

    Args:
        code: sorted codes.
        count: how many samples each has, all positive.
        ranks: quantiles in [0, 1].
        least: the exact minimum; no estimate is below it.
        most: the exact maximum; no estimate is above it.

    Returns:
        An array of the shape of `ranks`; NaN everywhere for an empty histogram.
    """
    if not len(code):
        return np.full(len(ranks), np.nan)
    cumulative = np.cumsum(count)
    total = cumulative[-1]
    rank = np.clip(np.ceil(ranks * total), 1, total)
    position = np.searchsorted(cumulative, rank, side="left")
    return np.clip(histogram.values(code[position]), least, most)


def summarize(bucket: Bucket, rows: list[int], registry: Registry) -> Summary:
    """Return the stats of some series, taken together."""
    return Summary(rows_of(bucket, np.array(sorted(rows), np.int64)), registry)


def select(
    registry: Registry,
    kind: Kind,
    *,
    service: str | None = None,
    graph: str | None = None,
    node: str | None = None,
    metric: str | None = None,
) -> dict[SeriesKey, int]:
    """Return the series that match all that is given, with their rows."""
    return {
        key: row
        for row, key in enumerate(registry.keys)
        if key.kind is kind
        and (service is None or key.service == service)
        and (graph is None or key.graph == graph)
        and (node is None or key.node == node)
        and (metric is None or key.metric == metric)
    }


def completeness(
    view: View, bucket: Bucket, service: str | None = None
) -> float | None:
    """Return the share of the recorded events that is in `bucket`, 0 to 1.

    What arrived over what the clients say they recorded, by service: a loss can't be
    distinguished by node, since lost events cannot be inspected.
    """
    received = lost = 0.0
    keys = view.registry.keys
    stats: Mapping[str, list[float]] = {
        "rows": bucket.rows.tolist(),
        "executions": bucket.executions.tolist(),
        "total": bucket.total.tolist(),
    }
    for row, executions, total in zip(*stats.values(), strict=True):
        key = keys[int(row)]
        if service is not None and key.service != service:
            continue
        if key.kind is Kind.LOSS:
            lost += total
        elif key.kind is not Kind.LATE:
            received += executions
    return received / (received + lost) if received + lost else None


def _number(column: NDArray[np.float64]) -> float | None:
    return _finite(float(column[0]))


def _finite(value: float) -> float | None:
    """Return the value, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None
