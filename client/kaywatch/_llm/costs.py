"""The costs of LLM calls, by attempt and by run, until their outcome is known.

Strategy: the calls of an attempt are added to its `AttemptCost`, held by the span. If
an exception leaves the attempt, its entries are counted as wasted, and so are later
ones, such as the usage of a stream. An attempt that succeeds passes its entries on to
the enclosing attempt, which may still fail. The calls of a run are added to its
`RunCost`, which is observed once the run and its calls have ended.

Adding takes no lock: an entry is appended, and the thread that pops it counts it, so
each is counted once. Spans without LLM calls have none of this.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Final, NamedTuple

from kaywatch._llm.meter import Meter
from kaywatch._process import process
from kaywatch._spans.runs import Run
from kaywatch._spans.spans import Span

__all__ = ["AttemptCost", "CostEntry", "RunCost", "attempt_cost_of", "run_costs_of"]

# Beyond this, entries are summed up: a job of a million calls holds a few kB.
MAX_ENTRIES: Final = 256

# Executions within one attempt that made calls and that nothing closes, such as the
# nodes of a flow that `exec` runs. These are wasted with the attempt; later ones not.
MAX_INNER: Final = 10_000


class CostEntry(NamedTuple):
    """The cost of some calls to one model by one node.

    Attributes:
        meter: counts them if they are wasted.
        input: tokens.
        output: tokens.
        cost: US dollars, 0.0 if unknown.
    """

    meter: Meter
    input: float
    output: float
    cost: float


class AttemptCost:
    """The cost of the calls of one attempt.

    Args:
        outer: the cost of the enclosing attempt.

    Attributes:
        inner: the costs of attempts within this one.
    """

    __slots__ = ("_entries", "_is_closed", "_is_wasted", "_outer", "inner")

    def __init__(self, outer: AttemptCost | None) -> None:
        self._outer = outer
        self._entries: list[CostEntry] = []
        self.inner: set[AttemptCost] = set()
        self._is_wasted = False
        self._is_closed = False
        if outer is not None and len(outer.inner) < MAX_INNER:
            outer.inner.add(self)

    def add(self, entry: CostEntry) -> None:
        """Add the cost of a call; the attempt may have ended already."""
        self._entries.append(entry)
        if len(self._entries) > MAX_ENTRIES:
            self._entries.extend(_sum_entries(_pop_all(self._entries)))
        if self._is_wasted or self._is_closed:
            self._pass_on()

    def waste(self) -> None:
        """Count all of it as wasted: an exception left the attempt."""
        self._is_wasted = True
        for inner in list(self.inner):
            inner.waste()
        self._pass_on()

    def close(self) -> None:
        """Pass the costs on to the enclosing attempt, since this attempt succeeded."""
        self._is_closed = True
        if self._outer is not None:
            self._outer.inner.discard(self)
        self._pass_on()

    def _pass_on(self) -> None:
        # After the flag was set: the thread that sets it or one that sees it pops each
        # entry.
        for entry in _pop_all(self._entries):
            if self._is_wasted:
                entry.meter.count_wasted(entry.input, entry.output, entry.cost)
            elif self._outer is not None:
                self._outer.add(entry)


class _Amount(NamedTuple):
    """The cost of one call or of several: dollars, None if unknown, and tokens."""

    cost: float | None
    tokens: float
    unpriced_tokens: float


class RunCost:
    """The total cost of the calls of one run."""

    __slots__ = ("_amounts", "_graph", "_is_ended", "_open_calls", "_unobserved")

    def __init__(self, graph: str) -> None:
        self._graph = graph
        self._amounts: list[_Amount] = []
        self._open_calls: list[None] = []  # an entry for each call in progress
        self._unobserved = [None]  # the thread that pops it observes the total
        self._is_ended = False

    def begin(self) -> None:
        """Expect a call."""
        self._open_calls.append(None)

    def add(self, cost: float | None, tokens: float) -> None:
        """Add the cost of a call that `begin` announced; None if unknown."""
        amounts = self._amounts
        amounts.append(_Amount(cost, tokens, tokens if cost is None else 0.0))
        if len(amounts) > MAX_ENTRIES:
            amounts.append(_total(_pop_all(amounts)))
        self._open_calls.pop()
        self._observe()

    def so_far(self) -> tuple[float, float, float]:
        """Return the dollars, the tokens, and the tokens without a price up to now.

        While another thread sums up the amounts, some are missing for a moment.
        """
        cost, tokens, unpriced = _total(self._amounts.copy())
        return cost or 0.0, tokens, unpriced

    def end(self) -> None:
        """Observe the total, now or after the last call: the run has ended."""
        self._is_ended = True
        self._observe()

    def _observe(self) -> None:
        if not self._is_ended or self._open_calls or not _pop_all(self._unobserved):
            return
        cost, tokens, _ = _total(_pop_all(self._amounts))
        point = process.recorder.point
        if cost is not None:
            point("observe", "llm_run_cost_usd", self._graph, "")(cost)
        if tokens:
            point("observe", "llm_run_tokens", self._graph, "")(tokens)


def attempt_cost_of(span: Span) -> AttemptCost:
    """Return the cost of the attempt in progress in a span."""
    details = span.details
    if details is not None and isinstance(details.cost, AttemptCost):
        return details.cost
    with _creation:
        details = span.ensure_details()
        if isinstance(details.cost, AttemptCost):
            return details.cost
        outer = _enclosing(span)
        cost = AttemptCost(attempt_cost_of(outer) if outer is not None else None)
        details.cost = cost
        return cost


def run_costs_of(run: Run | None) -> list[RunCost]:
    """Return the costs of a run and of the runs around it that have not ended."""
    costs = []
    while isinstance(run, Run):
        if run.parent is not run:  # not left yet
            with _creation:
                if not isinstance(run.cost, RunCost):
                    run.cost = RunCost(run.graph)
                costs.append(run.cost)
        run = run.token.old_value
    return costs


def _enclosing(span: Span) -> Span | None:
    # A batch's item knows its execution, also in a thread that has lost the context.
    execution = getattr(span, "execution", None)
    outer = span.token.old_value if execution is None else execution
    return outer if isinstance(outer, Span) else None


def _pop_all(entries: list[Any]) -> list[Any]:
    """Remove all entries of a list that other threads append to and pop from."""
    popped = []
    while entries:
        try:
            popped.append(entries.pop())
        except IndexError:
            break
    return popped


def _sum_entries(entries: list[CostEntry]) -> list[CostEntry]:
    """Return one entry for each meter."""
    sums: dict[Meter, list[float]] = {}
    for meter, *amounts in entries:
        before = sums.get(meter, [0.0, 0.0, 0.0])
        sums[meter] = [a + b for a, b in zip(before, amounts, strict=True)]
    return [CostEntry(meter, *amounts) for meter, amounts in sums.items()]


def _total(amounts: list[_Amount]) -> _Amount:
    costs = [each.cost for each in amounts if each.cost is not None]
    return _Amount(
        sum(costs) if costs else None,
        sum(each.tokens for each in amounts),
        sum(each.unpriced_tokens for each in amounts),
    )


# Re-entrant, because a finalizer of the application may make a call meanwhile.
_creation = threading.RLock()


def _after_fork() -> None:
    global _creation  # noqa: PLW0603 - another thread of the parent may hold it
    _creation = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
