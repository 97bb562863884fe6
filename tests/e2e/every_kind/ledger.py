"""The application's own counts of its nodes' executions.

A node knows the graph that it is wired into, and from its successors whether a run
ends with it. So every figure comes from the application's code, and none from what
called it.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

Place = tuple[str, str]  # (graph, node)


class Ledger:
    """Counts by (graph, "node" or "run", ...), from any thread."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._lock = threading.Lock()

    def execution(
        self, place: Place, outcome: str, repeats: int, action: str | None
    ) -> None:
        """Book one execution of a node; `action` is None if it was left by an error."""
        graph, node = place
        with self._lock:
            self._counts[graph, node, "executions"] += 1
            self._counts[graph, node, outcome] += 1
            self._counts[graph, node, "retries"] += repeats
            if action is not None:
                self._counts[graph, node, f"-> {action}"] += 1
            if graph:
                self._counts[graph, "", "visits"] += 1

    def end(self, place: Place, reason: str, action: str) -> None:
        """Book the end of a run at a node."""
        graph, node = place
        with self._lock:
            self._counts[graph, node, f"ends {reason} {action}".rstrip()] += 1
            self._counts[graph, "", "runs"] += 1

    def rows(self) -> list[tuple[str, str, str, int]]:
        """Return (graph, node, what, how often), sorted."""
        with self._lock:
            return sorted((*key, n) for key, n in self._counts.items() if n)  # type: ignore[misc]


ledger = Ledger()


class Trouble(Exception):
    """An error that this application raises on purpose."""


class Counted:
    """Counts the executions of a node; a mixin for a framework's class.

    Args:
        graph: the graph that the node is wired into, "" for none.
        above: for a nested graph, where that one is a node, and so on outwards: an
            error ends all of these.
        label: the node's name; its class's.
        explained: whether the graph reports why it ends.
    """

    def book(
        self,
        graph: str,
        above: tuple[Place, ...] = (),
        label: str = "",
        explained: bool = True,
    ) -> None:
        self.place = graph, label or type(self).__name__
        self.above = above
        self.explained = explained

    def begin(self) -> None:
        """An execution starts."""
        self.outcome = "ok"
        self.tries = 0
        self.repeated: list[int] = []  # `append` is safe in the threads of a batch
        self.ended = False

    def attempt(self) -> None:
        """The node's `exec` was called."""
        self.tries += 1
        if self.tries > 1:
            self.repeated.append(1)

    def finish(self, action: str | None) -> str | None:
        """An execution ends with an action, and maybe the run with it."""
        taken = action or "default"
        ledger.execution(self.place, self.outcome, len(self.repeated), taken)
        successors: dict[str, Any] = self.successors  # type: ignore[attr-defined]
        if self.place[0] and taken not in successors:
            reason = "unmatched_action" if successors else "no_successors"
            ledger.end(self.place, reason if self.explained else "unknown", taken)
        return action

    def fail(self, error: BaseException, outcome: str = "error") -> BaseException:
        """An error leaves the node, and ends the runs around it; return it."""
        if not self.ended:
            self.ended = True
            ledger.execution(self.place, outcome, len(self.repeated), None)
            for place in (self.place, *self.above):
                if place is not self.place:
                    ledger.execution(place, outcome, 0, None)
                if place[0]:
                    ledger.end(place, outcome, "")
        return error


class Item:
    """One item of a batch, which fails a number of times before it succeeds."""

    def __init__(self, number: int, failures: int, answered: bool = True) -> None:
        self.number = number
        self.failures = failures
        self.answered = answered
        self.tries = 0

    def work(self, node: Counted) -> int:
        self.tries += 1
        if self.tries > 1:
            node.repeated.append(1)
        if self.tries <= self.failures:
            raise Trouble("item", self.number, self.tries)
        return self.number * 10


def visit_random(shared: dict[str, Any], node: Any) -> random.Random:
    """Return the chance of one visit: the same in each run of the same seed."""
    what = f"{node.place}/{node.params.get('item')}"
    visits = shared.setdefault("visits", {})
    visits[what] = visits.get(what, 0) + 1
    return random.Random(f"{shared['seed']}/{what}/{visits[what]}")
