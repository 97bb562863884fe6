from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.aggregate.oracle import completeness, select, summarize
from tests.agent.aggregate.samples import to_naive
from tests.agent.protocol.samples import (
    CLIENT,
    FAILURE,
    ROW,
    TOPOLOGY,
    batch,
    calm,
    executions,
    phases,
    points,
    rows,
    runs,
)

from kaywatch import wire
from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.bucket import Bucket, Dimension, PhaseSum, merge
from kaywatch_agent.aggregate.change import AggregateChanges
from kaywatch_agent.aggregate.client_clocks import FUTURE_SECONDS
from kaywatch_agent.aggregate.details import MAX_FAILURES, MAX_VISITED
from kaywatch_agent.aggregate.pending import MAX_PENDING, OutOfRange
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.aggregate.uncommitted import MAX_UNCOMMITTED
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, HISTORY_BUCKETS, View
from kaywatch_agent.model.series import OTHER, Kind, SeriesKey
from kaywatch_agent.protocol.batches import BatchReader
from kaywatch_agent.protocol.columns import BatchErrors
from kaywatch_agent.protocol.decoder import decode
from kaywatch_agent.protocol.messages import Batch

NOW = 1_700_000_005.0
CURRENT = int(NOW // BUCKET_SECONDS)


class Aggregation:
    """An aggregator that is fed with messages."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.registry = Registry(limits or Limits())
        self.aggregator = Aggregator(self.registry, NOW)
        self._reader = BatchReader()

    def accept(self, packed: bytes, now: float = NOW, service: str = "shop") -> int:
        result, checked = decode(packed), BatchErrors()
        assert isinstance(result, Batch)
        details = self._reader.details(result, checked)
        taken = 0
        for joined in self._reader.events([result], [service], [checked]):
            taken += sum(self.aggregator.accept(joined, [result.client], now).events)
        assert not checked.rejected, checked.problem
        self.aggregator.take_details(
            details, service, result.client, result.client, now
        )
        return taken

    def at(self, *ends: float, now: float = NOW) -> int:
        """Take in executions of the first node that ended at these times."""
        size = len(ends)
        encoded = executions(size, end=list(ends), series=[0] * size)
        return self.accept(batch(executions=encoded), now)

    def out_of_range(self) -> dict[str, float]:
        """Return the events whose time needed care, by reason."""
        samples = self.aggregator.metrics.out_of_range.samples()
        return {reason: count for (reason,), count in samples.items()}

    def advance(self, now: float = NOW) -> View:
        self.commit(now)
        return self.aggregator.view(now)

    def commit(self, now: float = NOW) -> AggregateChanges:
        self.aggregator.advance(now)
        return self.aggregator.changes(full=False)


@pytest.fixture
def aggregation() -> Aggregation:
    return Aggregation()


def count(bucket: Bucket) -> int:
    return int(bucket.executions.sum())


def counts(view: View) -> dict[int, int]:
    """Return the executions by bucket, counted from now's."""
    return {number - CURRENT: count(bucket) for number, bucket in view.buckets.items()}


# -- ticks -----------------------------------------------------------------------------


def test_counting_begins_with_the_earliest_event(aggregation: Aggregation) -> None:
    # The bucket of the first event began before it.
    aggregation.at(NOW)
    assert aggregation.advance().since == NOW
    aggregation.at(NOW - 600)
    assert aggregation.commit().since == (CURRENT - 60) * BUCKET_SECONDS


def test_accepted_events_are_visible_after_the_tick(aggregation: Aggregation) -> None:
    assert aggregation.accept(batch(points=points(2), runs=runs(1))) == 6
    assert count(aggregation.aggregator.view(NOW).totals) == 0
    assert count(aggregation.advance().totals) == 6


def new(change: AggregateChanges) -> int:
    """Return how many events a change has, in buckets or not."""
    return count(merge([*change.buckets.values(), change.late]))


def values_by_bucket(change: AggregateChanges) -> dict[int, int]:
    return {n - CURRENT: count(bucket) for n, bucket in change.buckets.items()}


def test_a_write_batch_holds_only_new_data(aggregation: Aggregation) -> None:
    aggregation.at(NOW, NOW - 10, NOW - 5_000)
    first = aggregation.commit()
    # Three events, and that one of them was late.
    assert (first.now, new(first), count(first.late)) == (NOW, 4, 1)
    assert values_by_bucket(first) == {0: 2, -1: 1}
    aggregation.at(NOW)
    second = aggregation.commit()
    assert (new(second), values_by_bucket(second), count(second.totals)) == (
        1,
        {0: 1},
        5,
    )
    third = aggregation.commit()
    assert (new(third), third.buckets) == (0, {})
    assert counts(aggregation.aggregator.view(NOW)) == {-1: 1, 0: 3}


def test_data_in_no_write_batch_is_in_the_next_one(aggregation: Aggregation) -> None:
    aggregation.at(NOW)
    aggregation.aggregator.advance(NOW)
    aggregation.at(NOW, NOW - 10)
    assert values_by_bucket(aggregation.commit()) == {0: 2, -1: 1}
    assert counts(aggregation.aggregator.view(NOW)) == {-1: 1, 0: 2}


def test_a_returned_write_batch_is_in_the_next_one(
    aggregation: Aggregation,
) -> None:
    aggregation.accept(batch(failures=[FAILURE], topologies=[TOPOLOGY]))
    aggregation.at(NOW, NOW - 5_000)
    first = aggregation.commit()
    aggregation.at(NOW, NOW - 10)
    aggregation.aggregator.advance(NOW)
    aggregation.aggregator.refused(first)
    again = aggregation.commit()

    assert values_by_bucket(again)[0] == values_by_bucket(first)[0] + 1
    assert (count(again.late), values_by_bucket(again)[-1]) == (1, 1)
    assert (again.failures, again.topologies) == (first.failures, first.topologies)
    assert (len(again.failures), len(again.topologies)) == (1, 1)
    third = aggregation.commit()
    assert (new(third), third.failures, third.topologies) == (0, (), ())


def test_a_topology_is_in_a_change_when_it_changed(aggregation: Aggregation) -> None:
    aggregation.accept(batch(topologies=[TOPOLOGY]))
    assert len(aggregation.commit().topologies) == 1
    aggregation.accept(batch(topologies=[TOPOLOGY]))
    assert aggregation.commit().topologies == ()


def test_a_store_that_can_not_be_written_to_for_days_gets_hours(
    aggregation: Aggregation,
) -> None:
    buckets = 3 * 8_640
    change = None
    for number in range(0, buckets, 20):
        now = NOW + number * BUCKET_SECONDS
        aggregation.at(now, now=now)
        if change is not None:
            aggregation.aggregator.refused(change)
        aggregation.aggregator.advance(now)
        change = aggregation.commit(now)
    assert change is not None
    assert new(change) == count(change.totals) == buckets / 20
    assert len(change.buckets) <= MAX_UNCOMMITTED + 1


def test_a_full_write_batch_holds_everything(aggregation: Aggregation) -> None:
    aggregation.accept(batch(failures=[FAILURE], topologies=[TOPOLOGY]))
    aggregation.at(NOW, NOW - 100, NOW - 5_000)
    aggregation.commit()
    aggregation.at(NOW)
    aggregation.aggregator.advance(NOW)
    whole = aggregation.aggregator.changes(full=True)

    assert values_by_bucket(whole)[-10] == 1
    assert count(whole.totals) == new(whole) + 1  # late events are in no bucket
    assert (len(whole.failures), len(whole.topologies)) == (1, 1)
    assert new(aggregation.commit()) == 0


def test_the_changes_add_up_to_the_view(aggregation: Aggregation) -> None:
    changes = []
    for second in range(50):
        aggregation.at(NOW + second, NOW + second - 15, now=NOW + second)
        changes.append(aggregation.commit(NOW + second))
    view = aggregation.aggregator.view(NOW + 50)
    parts = [bucket for change in changes for bucket in change.buckets.values()]
    assert to_naive(merge(parts)) == to_naive(view.totals)
    for number, bucket in view.buckets.items():
        parts = [
            change.buckets[number] for change in changes if number in change.buckets
        ]
        assert to_naive(merge(parts)) == to_naive(bucket)


def test_a_view_stays_as_it_is(aggregation: Aggregation) -> None:
    aggregation.accept(batch(failures=[FAILURE], topologies=[TOPOLOGY]))
    view = aggregation.advance()
    before = (counts(view), to_naive(view.totals), view.failures, dict(view.topologies))
    other = {**TOPOLOGY, "graph": "other"}
    aggregation.accept(batch(failures=[FAILURE], topologies=[other]))
    aggregation.advance(NOW + 5_000)
    assert (
        counts(view),
        to_naive(view.totals),
        view.failures,
        dict(view.topologies),
    ) == before


def test_many_events_between_two_ticks_are_reduced_as_they_come(
    aggregation: Aggregation,
) -> None:
    for _ in range(MAX_PENDING // 50_000 + 1):
        aggregation.at(*[NOW] * 50_000)
    assert not aggregation.aggregator._pending.full
    assert count(aggregation.advance().totals) == MAX_PENDING + 50_000


# -- time ------------------------------------------------------------------------------


def test_an_event_belongs_to_the_bucket_in_which_it_ended(
    aggregation: Aggregation,
) -> None:
    start = CURRENT * BUCKET_SECONDS
    aggregation.at(start, start + 9.999, start - 0.001, start - 30)
    assert counts(aggregation.advance()) == {0: 2, -1: 1, -3: 1}


def test_a_late_event_goes_to_its_own_bucket_within_the_hour(
    aggregation: Aggregation,
) -> None:
    aggregation.at(NOW)
    aggregation.advance()
    aggregation.at(NOW - 1_800, NOW - 3_600)
    view = aggregation.advance()
    assert counts(view) == {0: 1, -180: 1, -360: 1}
    assert not aggregation.out_of_range()


def test_an_event_over_an_hour_late_is_in_the_totals_only(
    aggregation: Aggregation,
) -> None:
    aggregation.at(NOW, NOW - 3_610, NOW - 86_400, 1.0)
    view = aggregation.advance()
    assert view.buckets.keys() == {CURRENT}
    names = [key.kind for key in aggregation.registry.keys]
    assert names == [Kind.NODE, Kind.LATE]
    # How many were late is known of the time when they came.
    assert view.buckets[CURRENT].executions.tolist() == [1, 3]
    assert view.totals.executions.tolist() == [4, 3]
    assert completeness(view, view.totals) == 1.0
    assert aggregation.out_of_range() == {OutOfRange.LATE: 3}


def test_an_event_from_the_future_is_put_to_now(aggregation: Aggregation) -> None:
    aggregation.at(NOW + FUTURE_SECONDS + 0.1, NOW + 1e9, 1e300)
    view = aggregation.advance()
    assert counts(view) == {0: 3}
    assert view.totals.last_time.tolist() == [NOW]
    assert aggregation.out_of_range() == {OutOfRange.FUTURE: 3}


def test_a_little_ahead_is_no_future(aggregation: Aggregation) -> None:
    aggregation.at(NOW + FUTURE_SECONDS)
    assert counts(aggregation.advance()) == {1: 1}
    assert not aggregation.out_of_range()


@pytest.mark.parametrize("end", [0.0, -1.0, -1e300])
def test_without_a_clock_now_is_the_time(aggregation: Aggregation, end: float) -> None:
    aggregation.at(end)
    aggregation.accept(rows(ROW, {"metric": "m", "value": 1}))
    assert counts(aggregation.advance()) == {0: 3}
    assert not aggregation.out_of_range()


@pytest.mark.parametrize(
    ("end", "number"),
    [(NOW, CURRENT), (NOW - 600, CURRENT - 60), (NOW + 60, CURRENT), (0.0, CURRENT)],
)
def test_phases_belong_to_the_bucket_of_their_execution(
    aggregation: Aggregation, end: float, number: int
) -> None:
    size = 3
    columns = executions(size, end=[end] * size, series=[0] * size)
    aggregation.accept(batch(executions={**columns, **phases(2)}))
    view = aggregation.advance()
    assert list(view.buckets) == [number]
    for bucket in (view.buckets[number], view.totals):
        (stats,) = to_naive(bucket).values()
        assert stats["executions"] == 3
        assert stats[Dimension.PHASES][PhaseSum.EXECUTIONS] == 2
        assert stats[Dimension.PHASES][PhaseSum.EXEC] == 2_500_000
        assert stats[Dimension.PHASES][PhaseSum.ITEMS] == 1


def test_phases_over_an_hour_late_are_in_the_totals_only(
    aggregation: Aggregation,
) -> None:
    columns = executions(2, end=[NOW, NOW - 4_000], series=[0, 0])
    aggregation.accept(batch(executions={**columns, **phases(2)}))
    view = aggregation.advance()
    assert view.buckets.keys() == {CURRENT}
    for bucket, known in ((view.totals, 2), (view.buckets[CURRENT], 1)):
        stats = to_naive(bucket)[0]
        assert stats[Dimension.PHASES][PhaseSum.EXECUTIONS] == known


def test_an_hour_of_buckets_is_kept_and_the_one_now(aggregation: Aggregation) -> None:
    for number in range(HISTORY_BUCKETS + 50):
        now = NOW + number * BUCKET_SECONDS
        aggregation.at(now, now=now)
        view = aggregation.advance(now)
    assert len(view.buckets) == HISTORY_BUCKETS + 1 == 361
    last = CURRENT + HISTORY_BUCKETS + 49
    assert sorted(view.buckets) == list(range(last - HISTORY_BUCKETS, last + 1))
    assert count(view.totals) == HISTORY_BUCKETS + 50


def test_a_clock_that_buckets_back_loses_nothing(aggregation: Aggregation) -> None:
    aggregation.at(NOW)
    aggregation.advance()
    aggregation.at(NOW - 7_200, now=NOW - 7_200)
    view = aggregation.advance(NOW - 7_200)
    assert count(view.totals) == 2
    assert counts(view) == {0: 1, -720: 1}


# -- windows ---------------------------------------------------------------------------


def numbers_of(view: View, start: float, end: float) -> list[int]:
    """Return the buckets of a range, which hold as many events as their number says."""
    return [count(bucket) - 1 for _, bucket in view.between(start, end)]


def window(view: View, seconds: float) -> Bucket:
    """Return the last seconds of a view, in whole buckets."""
    buckets = view.between(view.now - seconds, view.now + BUCKET_SECONDS)
    return merge(bucket for _, bucket in buckets)


@pytest.fixture
def ten_buckets() -> View:
    """Buckets 0 to 9 before now; bucket n has n + 1 events, each at second 5."""
    aggregation = Aggregation()
    now = 10 * BUCKET_SECONDS * 1_000_000 + 95.0
    for number in range(10):
        time = now - 90 + number * BUCKET_SECONDS
        aggregation.at(*[time] * (number + 1), now=now)
    aggregation.aggregator.advance(now)
    return aggregation.aggregator.view(now)


@pytest.mark.parametrize(
    ("start", "end", "buckets"),
    [
        (0, 100, list(range(10))),
        (-50, 1_000, list(range(10))),
        (20, 40, [2, 3]),
        (20.1, 40, [2, 3]),
        (29.9, 40, [2, 3]),
        (20, 40.1, [2, 3, 4]),
        (25, 25, [2]),
        (20, 20, []),
        (40, 20, []),
        (100, 200, []),
        (-20, 0, []),
    ],
)
def test_a_range_is_the_buckets_that_overlap_it(
    ten_buckets: View, start: float, end: float, buckets: list[int]
) -> None:
    zero = ten_buckets.now - 95
    assert numbers_of(ten_buckets, zero + start, zero + end) == buckets


@pytest.mark.parametrize(
    ("seconds", "buckets"),
    [(0, [9]), (1, [9]), (5, [9]), (5.1, [8, 9]), (15, [8, 9]), (60, range(3, 10))],
)
def test_a_window_is_the_buckets_that_overlap_the_last_seconds(
    ten_buckets: View, seconds: float, buckets: Any
) -> None:
    assert count(window(ten_buckets, seconds)) == sum(number + 1 for number in buckets)


def test_a_window_of_all_buckets_is_the_totals(ten_buckets: View) -> None:
    assert count(ten_buckets.totals) == 55
    assert to_naive(window(ten_buckets, 3_600)) == to_naive(ten_buckets.totals)


def test_a_window_has_the_events_a_little_ahead_of_our_clock(
    aggregation: Aggregation,
) -> None:
    aggregation.at(NOW + FUTURE_SECONDS)
    assert count(window(aggregation.advance(), 60)) == 1


# -- any order, any batches, any ticks -------------------------------------------------

events = st.lists(
    st.fixed_dictionaries(
        {
            "node": st.sampled_from("abc"),
            "graph": st.sampled_from("gh"),
            "seconds": st.integers(0, 800).map(lambda n: n / 8),
            "outcome": st.sampled_from([o.name.lower() for o in wire.Outcome]),
            "attempts": st.integers(1, 4),
            "action": st.sampled_from("xy"),
            "end": st.integers(-5_000, 5).map(lambda n: NOW + n),
        },
        optional={
            "prep": st.integers(0, 80).map(lambda n: n / 8),
            "exec": st.integers(0, 800).map(lambda n: n / 8),
            "items": st.integers(0, 9),
        },
    ),
    max_size=40,
)


def aggregate(batches: list[list[Any]], ticks: list[bool]) -> dict[str, Any]:
    """Return all that is known after these batches, with ticks between some."""
    aggregation = Aggregation()
    for part, tick in zip(batches, ticks, strict=True):
        aggregation.accept(rows(*part))
        if tick:
            aggregation.advance()
    view = aggregation.advance()
    keys, actions = aggregation.registry.keys, aggregation.registry.actions.values

    def named(bucket: Bucket) -> dict[SeriesKey, Any]:
        result = {}
        for row, stats in to_naive(bucket).items():
            of_actions = stats.pop(Dimension.ACTION)  # type: ignore[call-overload]
            stats["actions"] = {actions[n]: times for n, times in of_actions.items()}
            # Of events at the very same time, the last to arrive counts.
            stats.pop("last")
            result[keys[row]] = stats
        return result

    return {
        "totals": named(view.totals),
        "buckets": {number: named(bucket) for number, bucket in view.buckets.items()},
        "misplaced": aggregation.out_of_range(),
    }


@calm
@given(events, st.integers(0, 2**32), st.integers(1, 6))
def test_any_order_batches_and_ticks_give_the_same_totals_and_buckets(
    generated: list[Any], seed: int, parts: int
) -> None:
    chance = random.Random(seed)
    shuffled = chance.sample(generated, len(generated))
    batches: list[list[Any]] = [[] for _ in range(parts)]
    for event in shuffled:
        chance.choice(batches).append(event)
    ticks = [chance.random() < 0.5 for _ in range(parts)]
    assert aggregate(batches, ticks) == aggregate([generated], [True])


# -- failures and topologies -----------------------------------------------------------


def test_failures_are_kept_with_their_client(aggregation: Aggregation) -> None:
    aggregation.accept(batch(failures=[FAILURE]))
    (failure,) = aggregation.advance().failures
    assert (failure.service, failure.client) == ("shop", CLIENT.hex())
    assert (failure.node, failure.type, failure.outcome) == ("pay", "Timeout", "error")


def test_only_the_newest_failures_are_kept(aggregation: Aggregation) -> None:
    for number in range(MAX_FAILURES + 10):
        aggregation.accept(batch(failures=[{**FAILURE, "run": f"r{number}"}]))
    failures = aggregation.advance().failures
    assert len(failures) == MAX_FAILURES
    assert (failures[0].run, failures[-1].run) == ("r10", f"r{MAX_FAILURES + 9}")


def test_the_newest_topology_of_a_graph_counts_by_service(
    aggregation: Aggregation,
) -> None:
    aggregation.accept(batch(topologies=[TOPOLOGY, {**TOPOLOGY, "start": "ship"}]))
    aggregation.accept(batch(topologies=[TOPOLOGY]), service="cron")
    topologies = aggregation.advance().topologies
    assert {key: result.start for key, result in topologies.items()} == {
        ("shop", "checkout"): "ship",
        ("cron", "checkout"): "pay",
    }
    assert topologies["shop", "checkout"].edges == (("pay", "default", "ship"),)


# -- losses and caps -------------------------------------------------------------------


def most_visits(view: View) -> dict[str, int]:
    """Return the most visits of each node in one run of the only bucket there is."""
    (rows,) = view.longest.values()
    return {view.registry.keys[row].node: most for row, most in rows.items()}


def test_the_most_visits_of_a_node_in_one_run_are_remembered_by_bucket(
    aggregation: Aggregation,
) -> None:
    aggregation.accept(batch(looped=[["g", "a", 3], ["g", "b", 2]]))
    before = aggregation.advance()
    aggregation.accept(batch(looped=[["g", "a", 2], ["g", "b", 9]]))

    assert most_visits(aggregation.advance()) == {"a": 3, "b": 9}
    assert most_visits(before) == {"a": 3, "b": 2}


def test_the_loops_with_the_most_visits_are_kept(
    aggregation: Aggregation,
) -> None:
    for start in (0, 1_500):
        nodes = [["g", f"n{n}", n + 2] for n in range(start, start + 1_500)]
        aggregation.accept(batch(looped=nodes))

    result = most_visits(aggregation.advance())
    assert len(result) == MAX_VISITED
    assert min(result.values()) == 3_000 - MAX_VISITED + 2
    assert aggregation.aggregator.metrics.visits_left_out.value == 3_000 - MAX_VISITED


def test_the_overflow_node_has_no_loop() -> None:
    aggregation = Aggregation(Limits(series=4))
    aggregation.accept(
        batch(looped=[["g", name, 5] for name in ("a", "b", "c", OTHER)])
    )

    assert most_visits(aggregation.advance()) == {"a": 5, "b": 5}


def test_losses_count_against_completeness(aggregation: Aggregation) -> None:
    aggregation.accept(batch())
    aggregation.aggregator.count_lost("shop", {"buffer_full": 5, "rejected": 1}, NOW)
    view = aggregation.advance()
    assert completeness(view, view.totals, "shop") == 3 / 9
    assert completeness(view, window(view, 60), "shop") == 3 / 9
    losses = select(aggregation.registry, Kind.LOSS, service="shop")
    assert {key.metric for key in losses} == {"buffer_full", "rejected"}


def test_totals_stay_true_beyond_the_caps() -> None:
    capped = Aggregation(Limits(series=20, series_per_client=15, names=5))
    free = Aggregation()
    chance = random.Random(1)
    for number in range(40):
        client = bytes([number % 3]) * 16
        result = [
            {
                "graph": chance.choice("gh"),
                "node": f"n{chance.randrange(50)}",
                "seconds": chance.randrange(80) / 8,
                "outcome": chance.choice(["ok", "error", "fallback"]),
                "error": chance.choice(["", f"E{chance.randrange(9)}"]),
                "action": f"a{chance.randrange(9)}",
                "end": NOW,
            }
            for _ in range(30)
        ]
        for aggregation in (capped, free):
            aggregation.accept(rows(*result, client=client, seq=number + 1))
    views = [aggregation.advance() for aggregation in (capped, free)]
    for graph in (None, "g", "h"):
        stats = []
        for view in views:
            series = select(view.registry, Kind.NODE, graph=graph)
            found_ = summarize(view.totals, list(series.values()), view.registry)
            stats.append(
                (
                    found_.executions,
                    found_.total,
                    found_.least,
                    found_.most,
                    found_.outcomes,
                    found_.retries,
                    sum(found_.actions.values()),
                    sum(found_.errors.values()),
                    found_.quantiles(0.5, 0.9, 0.99),
                )
            )
        assert stats[0] == stats[1]
    registry = capped.registry
    assert len(registry.keys) <= 2 * 20
    assert SeriesKey(Kind.NODE, "shop", "g", OTHER) in registry.keys
    assert max(registry.quota.by_client.values()) <= 15
    assert sum(capped.aggregator.metrics.overflow.samples().values()) > 0
    assert OTHER in registry.actions.values
    assert len(registry.actions.values) == 6


def test_200_000_distinct_names_are_bounded_and_all_counted() -> None:
    limits = Limits()
    aggregation = Aggregation(limits)
    size, clients, rounds = 5_000, 20, 2
    encoded = executions(
        size,
        series=list(range(size)),
        end=[NOW] * size,
        action=list(range(size)),
        error=[0] * size,
    )
    for number in range(rounds * clients):
        strings = [f"n{number}-{at}" for at in range(size)]
        table = {"strings": strings, "series": [[0, at] for at in range(size)]}
        client = bytes([number % clients]) * 16
        packed = batch(client=client, table=wire.pack(table), executions=encoded)
        assert aggregation.accept(packed) == size
        if number % 20 == 19:
            aggregation.advance()
    view = aggregation.advance()
    registry = aggregation.registry
    assert count(view.totals) == rounds * clients * size == 200_000
    assert len(registry.keys) <= 2 * limits.series + len(Kind)
    assert max(registry.quota.by_client.values()) == limits.series_per_client
    # Their user is unknown, so it is one. Beside its names: "", and __other__.
    assert sum(registry.quota.by_client.values()) == limits.series_per_user
    assert len(registry.actions.values) == limits.names_per_user + 2
    overflow = aggregation.aggregator.metrics.overflow.samples()
    assert set(overflow) == {("process",), ("user",)}
    assert sum(overflow.values()) == 200_000 - limits.series_per_user
    actions = view.totals.fact_counts.sum() - count(view.totals)
    assert int(actions) == 200_000
    assert np.all(np.diff(view.totals.rows) > 0)
