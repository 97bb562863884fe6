"""The costs of LLM calls, by attempt and by run, until it is known what came of them.

Strategy: the calls of an attempt are added to its `AttemptCost`, held by the span. If
an exception leaves the attempt, its entries are counted as wasted, and so are later
ones, such as the usage of a stream. An attempt that succeeds hands its entries to the
attempt around it, which may still fail. The calls of a run are added to its `RunCost`,
observed once the run and its calls have ended.

No lock is taken to add: an entry is appended, and the thread that pops it counts it, so
each is counted once. Spans without LLM calls have none of this.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from kaywatch._process import process
from kaywatch._spans.runs import Run
from kaywatch._spans.spans import Span

__all__ = ["RunCost", "CostEntry", "AttemptCost", "run_costs_of", "attempt_cost_of"]

# Entries are summed up beyond so many: a job of a million calls holds a few kB.
MAX_HELD: Final = 256

# Executions within one attempt that made calls and weren't closed by us, such as the
# nodes of a flow that `exec` runs; the first so many are looked at when it fails.
MAX_INNER: Final = 10_000


class CostEntry(NamedTuple):
    """What some calls of one model cost one node.

    Attributes:
        wasted: counts (input tokens, output tokens, US dollars) as wasted.
        input, output: tokens.
        cost: US dollars, 0.0 where unknown.
    """

    wasted: Callable[[float, float, float], None]
    input: float
    output: float
    cost: float


class AttemptCost:
    """What the calls of one attempt cost.

    Args:
        outer: that of the attempt in which this one takes place.

    Attributes:
        inner: those of attempts within this one.
    """

    __slots__ = ("_closed", "_held", "_outer", "_wasted", "inner")

    def __init__(self, outer: AttemptCost | None) -> None:
        self._outer = outer
        self._held: list[CostEntry] = []
        self.inner: set[AttemptCost] = set()
        self._wasted = False
        self._closed = False
        if outer is not None and len(outer.inner) < MAX_INNER:
            outer.inner.add(self)

    def add(self, entry: CostEntry) -> None:
        """Take in what a call cost, be the attempt under way or over."""
        self._held.append(entry)
        if len(self._held) > MAX_HELD:
            self._held.extend(_summed(_taken(self._held)))
        if self._wasted or self._closed:
            self._pass_on()

    def waste(self) -> None:
        """Count all of it as wasted: an exception left the attempt."""
        self._wasted = True
        for inner in list(self.inner):
            inner.waste()
        self._pass_on()

    def close(self) -> None:
        """Hand it to the attempt around this one, which went well."""
        self._closed = True
        if self._outer is not None:
            self._outer.inner.discard(self)
        self._pass_on()

    def _pass_on(self) -> None:
        # After the flag was set: whoever sees it or whoever set it pops an entry.
        for entry in _taken(self._held):
            if self._wasted:
                entry.wasted(entry.input, entry.output, entry.cost)
            elif self._outer is not None:
                self._outer.add(entry)


class RunCost:
    """What the calls of one run cost in all."""

    __slots__ = ("_amounts", "_ended", "_graph", "_open", "_unsent")

    def __init__(self, graph: str) -> None:
        self._graph = graph
        self._amounts: list[tuple[float, bool, float, bool]] = []
        self._open: list[None] = []  # an entry for each call under way
        self._unsent = [None]  # whoever pops it observes
        self._ended = False

    def begin(self) -> None:
        """Expect a call."""
        self._open.append(None)

    def add(self, cost: float | None, tokens: float | None) -> None:
        """Take in what a call cost that `begin` announced; None where unknown."""
        amounts = self._amounts
        amounts.append((cost or 0.0, cost is not None, tokens or 0.0, bool(tokens)))
        if len(amounts) > MAX_HELD:
            amounts.append(_total(_taken(amounts)))
        self._open.pop()
        self._observe()

    def end(self) -> None:
        """Observe it, as the run has ended, once the calls under way have too."""
        self._ended = True
        self._observe()

    def _observe(self) -> None:
        if not self._ended or self._open or not _taken(self._unsent):
            return
        cost, priced, tokens, counted = _total(_taken(self._amounts))
        point = process.recorder.point
        if priced:
            point("observe", "llm_run_cost_usd", self._graph, "")(cost)
        if counted:
            point("observe", "llm_run_tokens", self._graph, "")(tokens)


def attempt_cost_of(span: Span) -> AttemptCost:
    """Return the cost of the attempt that is under way in a span."""
    details = span.details
    if details is not None and isinstance(details.cost, AttemptCost):
        return details.cost
    with _making:
        details = span.ensure_details()
        if isinstance(details.cost, AttemptCost):
            return details.cost
        outer = _around(span)
        made = AttemptCost(attempt_cost_of(outer) if outer is not None else None)
        details.cost = made
        return made


def run_costs_of(run: Run | None) -> list[RunCost]:
    """Return the costs of a run and of those around it, as far as they go on."""
    found = []
    while isinstance(run, Run):
        if run.parent is not run:  # not left yet
            found.append(_run_cost(run))
        run = run.token.old_value
    return found


def _run_cost(run: Run) -> RunCost:
    if isinstance(run.cost, RunCost):
        return run.cost
    with _making:
        if isinstance(run.cost, RunCost):
            return run.cost
        run.cost = made = RunCost(run.graph)
        return made


def _around(span: Span) -> Span | None:
    # A batch's item knows its batch, also in a thread that has lost the context.
    root = getattr(span, "execution", None)
    outer = span.token.old_value if root is None else root
    return outer if isinstance(outer, Span) else None


def _taken(entries: list[Any]) -> list[Any]:
    """Take all entries out of a list that others append to and take from."""
    taken = []
    while entries:
        try:
            taken.append(entries.pop())
        except IndexError:
            break
    return taken


def _summed(entries: list[CostEntry]) -> list[CostEntry]:
    sums: dict[Any, CostEntry] = {}
    for entry in entries:
        wasted, *amounts = sums.get(
            entry.wasted, CostEntry(entry.wasted, 0.0, 0.0, 0.0)
        )
        more = (a + b for a, b in zip(amounts, entry[1:], strict=True))
        sums[wasted] = CostEntry(wasted, *more)
    return list(sums.values())


def _total(
    amounts: list[tuple[float, bool, float, bool]],
) -> tuple[float, bool, float, bool]:
    return (
        sum(a[0] for a in amounts),
        any(a[1] for a in amounts),
        sum(a[2] for a in amounts),
        any(a[3] for a in amounts),
    )


# Re-entrant, for a finalizer of the application's may make a call in the middle.
_making = threading.RLock()


def _after_fork() -> None:
    global _making  # noqa: PLW0603 - another thread of the parent may hold it
    _making = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
