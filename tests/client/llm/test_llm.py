"""Calls that the application records with `record_llm`, and wasted costs."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pocketflow import (
    AsyncFlow,
    AsyncParallelBatchNode,
    BatchFlow,
    BatchNode,
    Flow,
    Node,
)
from tests.client.instrument import kaygraph_standin as kaygraph

import kaywatch
from kaywatch._llm import calls as _llm
from kaywatch._llm import costs as _costs
from kaywatch._llm.usage import Usage
from kaywatch.testing import CapturedEvents, capture


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    kaywatch.instrument(modules=["pocketflow", kaygraph])
    yield
    kaywatch.uninstrument()


class Failed(Exception): ...


def spend(tokens: float = 10, model: str = "mine") -> None:
    kaywatch.record_llm(model=model, input_tokens=tokens, cost_usd=tokens / 100)


def sums(captured: CapturedEvents, *names: str) -> dict[str, float]:
    totals: Counter[str] = Counter()
    for point in captured.points():
        if point.kind == "count" and (not names or point.name in names):
            totals[point.name] += point.value  # type: ignore[assignment]
    return dict(totals)


def wasted_tokens(captured: CapturedEvents) -> dict[str, float]:
    """Return the wasted input tokens by node."""
    totals: Counter[str] = Counter()
    for point in captured.points("llm_wasted_input_tokens"):
        totals[point.node] += point.value  # type: ignore[assignment]
    return dict(totals)


# -- record_llm ----------------------------------------------------------------------


def test_a_call_is_recorded_with_all_arguments() -> None:
    with capture() as captured:
        kaywatch.record_llm(
            model="gpt-4o",
            input_tokens=1_000_000,
            output_tokens=100_000,
            cached_tokens=400_000,
            seconds=1.5,
            first_token_seconds=0.25,
        )

    totals = {p.name: p.value for p in captured.points()}
    assert totals == {
        "llm_calls": 1,
        "llm_input_tokens": 1_000_000,
        "llm_output_tokens": 100_000,
        "llm_cached_tokens": 400_000,
        "llm_cost_usd": pytest.approx(0.6 * 2.5 + 0.4 * 1.25 + 1.0),
        "llm_seconds": 1.5,
        "llm_first_token_seconds": 0.25,
    }
    assert {p.labels["model"] for p in captured.points()} == {"gpt-4o"}


def test_an_explicit_cost_overrides_the_prices() -> None:
    with capture() as captured:
        kaywatch.record_llm(model="gpt-4o", input_tokens=1_000, cost_usd=7)

    assert sums(captured)["llm_cost_usd"] == 7


def test_a_call_without_a_price_is_counted_as_unpriced() -> None:
    with capture() as captured:
        kaywatch.record_llm(model="nobody-knows", input_tokens=1_000)

    totals = sums(captured)
    assert totals["llm_unpriced_calls"] == 1
    assert "llm_cost_usd" not in totals


class Refused(Exception):
    status_code = 429


@pytest.mark.parametrize(
    ("error", "labels", "limited"),
    [
        (KeyError("x"), {"type": "KeyError"}, 0),
        (Refused(), {"type": "Refused", "status": "429"}, 1),
        ("Overloaded", {"type": "Overloaded"}, 0),
    ],
)
def test_an_error_is_counted_by_type(
    error: Any, labels: dict[str, str], limited: int
) -> None:
    with capture() as captured:
        kaywatch.record_llm(model="m", error=error)

    (point,) = captured.points("llm_errors")
    assert point.labels == {"model": "m", **labels}
    assert len(captured.points("llm_rate_limited")) == limited
    assert len(captured.points()) == 2 + limited


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("wrong", ["x", None, float("nan"), -1, float("inf"), object()])
def test_an_invalid_amount_is_ignored(wrong: Any) -> None:
    with capture() as captured:
        kaywatch.record_llm(
            model=wrong, input_tokens=wrong, cost_usd=wrong, seconds=wrong
        )
        kaywatch.record_llm(model=Hostile(), error=Hostile())  # type: ignore[arg-type]

    assert sums(captured) == {
        "llm_calls": 1,
        "llm_input_tokens": 0,
        "llm_output_tokens": 0,
    }


# -- wasted --------------------------------------------------------------------------


class Failing(Node):
    def exec(self, prep_res: Any) -> Any:
        spend()
        raise Failed

    def exec_fallback(self, prep_res: Any, exc: Exception) -> Any:
        spend(3)
        return None


def test_each_attempt_that_failed_is_wasted_and_the_fallback_is_not() -> None:
    with capture() as captured:
        Flow(start=Failing(max_retries=4)).run({})

    assert sums(captured)["llm_input_tokens"] == 43
    assert wasted_tokens(captured) == {"Failing": 40}
    assert sums(captured)["llm_wasted_cost_usd"] == pytest.approx(0.4)


def test_the_calls_of_an_execution_whose_post_fails_are_wasted() -> None:
    class Ask(Node):
        def exec(self, prep_res: Any) -> Any:
            spend()

        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            raise Failed

    with capture() as captured, pytest.raises(Failed):
        Flow(start=Ask()).run({})

    assert wasted_tokens(captured) == {"Ask": 10}


class Items(BatchNode):
    """Fails at the first attempt for odd items, and always for negative ones."""

    def prep(self, shared: Any) -> Any:
        self.seen = set()
        return shared["items"]

    def exec(self, item: Any) -> Any:
        spend(item if item > 0 else 1)
        if item < 0 or (item % 2 and item not in self.seen):
            self.seen.add(item)
            raise Failed(item)


def test_failed_attempts_of_batch_items_are_wasted() -> None:
    with capture() as captured:
        Flow(start=Items(max_retries=2)).run({"items": [2, 3, 4, 5]})

    assert wasted_tokens(captured) == {"Items": 8}


def test_a_failed_batch_wastes_its_successful_items_once() -> None:
    with capture() as captured, pytest.raises(Failed):
        Flow(start=Items(max_retries=2)).run({"items": [2, 3, -1]})

    assert sums(captured)["llm_input_tokens"] == 2 + 3 + 3 + 1 + 1
    assert wasted_tokens(captured) == {"Items": 10}


def test_items_in_tasks_waste_only_their_own_calls() -> None:
    class Ask(AsyncParallelBatchNode):
        async def prep_async(self, shared: Any) -> Any:
            return list(range(8))

        async def exec_async(self, item: Any) -> Any:
            await asyncio.sleep(0)
            spend(100 + item)
            await asyncio.sleep(0)
            if item % 2:
                raise Failed

        async def exec_fallback_async(self, prep_res: Any, exc: Any) -> Any:
            return None

    with capture() as captured:
        asyncio.run(AsyncFlow(start=Ask()).run_async({}))

    assert wasted_tokens(captured) == {"Ask": 101 + 103 + 105 + 107}


def test_items_in_threads_waste_only_their_own_calls() -> None:
    class Ask(kaygraph.ParallelBatchNode):
        def prep(self, shared: Any) -> Any:
            return list(range(8))

        def exec(self, item: Any) -> Any:
            spend(100 + item)
            if item % 2:
                raise Failed

        def exec_fallback(self, prep_res: Any, exc: Any) -> Any:
            return None

    with capture() as captured:
        kaygraph.Graph(start=Ask()).run({})

    assert wasted_tokens(captured) == {"Ask": 101 + 103 + 105 + 107}


def test_a_block_that_fails_is_wasted_with_everything_in_it() -> None:
    def work() -> None:
        with kaywatch.execution("g", "outer"):
            spend(1)
            with kaywatch.execution("g", "inner"):
                spend(2)
            Flow(start=Spender()).run({})
            raise Failed

    with capture() as captured, pytest.raises(Failed):
        work()

    assert wasted_tokens(captured) == {"outer": 1, "inner": 2, "Spender": 10}


def test_a_block_that_succeeds_is_wasted_only_with_its_enclosing_attempt() -> None:
    class Ask(Node):
        def exec(self, prep_res: Any) -> Any:
            with kaywatch.execution("g", "inner"):
                spend()
            if self.cur_retry == 0:
                raise Failed

    with capture() as captured:
        Flow(start=Ask(max_retries=2)).run({})

    assert sums(captured)["llm_input_tokens"] == 20
    assert wasted_tokens(captured) == {"inner": 10}


class Spender(Node):
    def exec(self, prep_res: Any) -> Any:
        spend()


def test_threads_of_an_attempt_count_each_of_their_calls_once() -> None:
    class Ask(Node):
        def exec(self, prep_res: Any) -> Any:
            ready = threading.Barrier(8)

            def work() -> None:
                ready.wait()
                for _ in range(200):
                    spend(1)

            with ThreadPoolExecutor(8) as pool:
                for _ in range(8):
                    pool.submit(contextvars.copy_context().run, work)
            raise Failed

    with capture() as captured, pytest.raises(Failed):
        Flow(start=Ask()).run({})

    assert wasted_tokens(captured) == {"Ask": 1_600}
    (tokens,) = captured.points("llm_run_tokens")
    assert tokens.value == 1_600


def test_usage_reported_after_the_attempt_failed_is_wasted() -> None:
    calls = []

    @kaywatch.execution("g", "n")
    def work() -> None:
        calls.append(_llm.Call("m"))
        raise Failed

    with capture() as captured:
        with pytest.raises(Failed):
            work()
        calls[0].end(Usage(input=5))

    assert wasted_tokens(captured) == {"n": 5}


def test_the_memory_of_many_calls_is_bounded() -> None:
    with capture() as captured, kaywatch.execution("g", "job"):
        for _ in range(3_000):
            with kaywatch.execution("g", "step"):
                spend(1)
        gc.collect()
        alive = [o for o in gc.get_objects() if isinstance(o, _costs.CostEntry)]

    assert len(alive) <= 2 * _costs.MAX_ENTRIES
    assert sums(captured)["llm_input_tokens"] == 3_000


def test_calls_that_succeeded_leave_no_objects() -> None:
    with capture():
        Flow(start=Spender()).run({})
    gc.collect()

    types = (_costs.AttemptCost, _costs.RunCost, _llm.Call)
    assert [o for o in gc.get_objects() if isinstance(o, types)] == []


# -- runs ----------------------------------------------------------------------------


def runs(
    captured: CapturedEvents, name: str = "llm_run_tokens"
) -> list[tuple[str, float]]:
    return [(p.graph, p.value) for p in captured.points(name)]


def test_a_run_s_cost_is_the_sum_of_its_calls() -> None:
    first, second = Spender(), Spender()
    first >> second
    flow = kaywatch.name(Flow(start=first), "checkout")

    with capture() as captured:
        flow.run({})
        flow.run({})

    assert runs(captured) == [("checkout", 20)] * 2
    assert runs(captured, "llm_run_cost_usd") == [("checkout", pytest.approx(0.2))] * 2


def test_a_run_without_calls_is_not_observed() -> None:
    with capture() as captured:
        Flow(start=Node()).run({})

    assert captured.points() == []


def test_a_run_of_unpriced_calls_has_tokens_and_no_cost() -> None:
    class Ask(Node):
        def exec(self, prep_res: Any) -> Any:
            kaywatch.record_llm(model="unheard-of", input_tokens=4)

    with capture() as captured:
        Flow(start=Ask()).run({})

    assert runs(captured) == [("Flow[Ask]", 4)]
    assert runs(captured, "llm_run_cost_usd") == []


def test_the_cost_of_a_run_in_progress_is_sent() -> None:
    class Ask(Node):
        def exec(self, prep_res: Any) -> Any:
            kaywatch.record_llm(model="unheard-of", input_tokens=4, output_tokens=3)
            kaywatch.flush()

    sent: list[list[Any]] = []
    with capture() as captured:
        free, first, ask = Node(), Spender(), Ask()
        free >> first >> ask
        Flow(start=free).run({})
    for message in captured.messages:
        sent += [each for each in message.get("in_flight", ()) if each[1] == "Ask"]
    # Ten tokens for ten cents, and seven without a price.
    assert sent[-1][7:] == [pytest.approx(0.1), 17, 7]


def test_the_cost_of_many_calls_so_far_is_exact() -> None:
    cost = _costs.RunCost("checkout")
    for _ in range(3 * _costs.MAX_ENTRIES):
        cost.begin()
        cost.add(0.25, 10)
        cost.begin()
        cost.add(None, 2)
    calls = 3 * _costs.MAX_ENTRIES
    assert cost.so_far() == (0.25 * calls, 12 * calls, 2 * calls)


def test_a_graph_within_a_graph_counts_for_both() -> None:
    inner = kaywatch.name(Flow(start=Spender()), "inner")
    inner >> Spender()
    outer = kaywatch.name(Flow(start=inner), "outer")

    with capture() as captured:
        outer.run({})

    assert runs(captured) == [("inner", 10), ("outer", 20)]


def test_each_item_of_a_batch_of_runs_is_observed() -> None:
    class Three(BatchFlow):
        def prep(self, shared: Any) -> Any:
            return [{"n": n} for n in range(3)]

    with capture() as captured:
        Three(start=Spender()).run({})

    assert runs(captured) == [("Three", 10)] * 3


def test_a_run_that_failed_is_observed() -> None:
    class Ask(Node):
        def exec(self, prep_res: Any) -> Any:
            spend()
            raise Failed

    with capture() as captured, pytest.raises(Failed):
        Flow(start=Ask()).run({})

    assert runs(captured) == [("Flow[Ask]", 10)]
