"""Features that only KayGraph has: hooks, ids, validation, metrics, pools, loops."""

from __future__ import annotations

import asyncio
from typing import Any

from kaygraph import (
    AsyncGraph,
    AsyncNode,
    AsyncParallelBatchNode,
    BatchGraph,
    BatchNode,
    Graph,
    InteractiveGraph,
    MetricsNode,
    Node,
    ParallelBatchNode,
    PersistentGraph,
    SubGraphNode,
    ValidatedNode,
)
from ledger import Counted, Item, Trouble, visit_random

Shared = dict[str, Any]


class Hooked(Counted):
    """A plain node's hooks report every error once, and may suppress it."""

    suppresses = 0.0
    fails = 0.0
    answers = 0.0
    actions: tuple[str | None, ...] = (None,)

    def before_prep(self, shared: Shared) -> None:
        self.begin()
        self.dice = visit_random(shared, self)

    def prep(self, shared: Shared) -> Any:
        return self.dice.randrange(100)

    def exec(self, number: Any) -> Any:
        self.attempt()
        if self.dice.random() < self.fails:
            raise Trouble(self.place, self.tries)
        return number

    def exec_fallback(self, number: Any, error: Exception) -> Any:
        if self.dice.random() < self.answers:
            self.outcome = "fallback"
            return -1
        raise error

    def on_error(self, shared: Shared, error: Exception) -> bool:
        if self.dice.random() < self.suppresses:
            self.outcome = "suppressed"
            self.finish(None)
            return True
        self.fail(error)
        return False

    def post(self, shared: Shared, prepared: Any, number: Any) -> Any:
        shared.setdefault("trail", []).append([self.place[1], number])
        return self.finish(self.dice.choice(self.actions))


def set_behavior(node: Any, graph: str, label: str = "", **settings: Any) -> Any:
    """Set the place and the behaviour of a node."""
    node.book(graph, label=label, explained=settings.pop("explained", True))
    vars(node).update(settings)
    return node


class Work(Hooked, Node):
    pass


class Validated(Hooked, ValidatedNode):
    """Refuses one number in ten before `exec`, and one after it."""

    def validate_input(self, number: Any) -> Any:
        if number % 10 == 0:
            raise Trouble("input", number)
        return number

    def validate_output(self, number: Any) -> Any:
        if number % 10 == 1:
            raise Trouble("output", number)
        return number


class Measured(Hooked, MetricsNode):
    pass


class Batch(Hooked, BatchNode):
    def prep(self, shared: Shared) -> Any:
        return [Item(n, self.dice.randrange(3)) for n in range(4)]

    def exec(self, item: Any) -> Any:
        return item.work(self)


class Pool(Hooked, ParallelBatchNode):
    """Four threads; the framework's retry counter is shared, so nothing fails."""

    def prep(self, shared: Shared) -> Any:
        return [Item(n, 0) for n in range(8)]

    def exec(self, item: Any) -> Any:
        return item.work(self)


class PoolOfOne(Pool):
    """One thread, in which items may fail as the counter is theirs alone.

    None fails permanently: the pool would cancel the items that have not begun.
    """

    def prep(self, shared: Shared) -> Any:
        return [Item(n, self.dice.randrange(4)) for n in range(4)]


class Sub(Hooked, SubGraphNode):
    """Gives its graph a copy of `shared`, and takes over what that one left."""

    prep = SubGraphNode.prep

    def exec(self, shared: Any) -> Any:
        self.attempt()
        return SubGraphNode.exec(self, shared)

    def post(self, shared: Shared, prepared: Any, result: Any) -> Any:
        SubGraphNode.post(self, shared, prepared, result)
        return self.finish(None)


class Awaited(Counted, AsyncNode):
    async def prep_async(self, shared: Shared) -> Any:
        self.begin()
        self.dice = visit_random(shared, self)
        return self.dice.randrange(100)

    async def exec_async(self, number: Any) -> Any:
        self.attempt()
        await asyncio.sleep(0)
        if self.dice.random() < 0.4:
            raise Trouble(self.place, self.tries)
        return number

    async def exec_fallback_async(self, number: Any, error: Exception) -> Any:
        if self.dice.random() < 0.5:
            self.outcome = "fallback"
            return -1
        raise self.fail(error)

    async def post_async(self, shared: Shared, prepared: Any, number: Any) -> Any:
        shared.setdefault("trail", []).append([self.place[1], number])
        return self.finish(None)


class Gathered(Counted, AsyncParallelBatchNode):
    async def prep_async(self, shared: Shared) -> Any:
        self.begin()
        return iter([Item(n, 0) for n in range(5)])

    async def exec_async(self, item: Any) -> Any:
        await asyncio.sleep(0)
        return item.work(self)

    async def post_async(self, shared: Shared, prepared: Any, results: Any) -> Any:
        shared.setdefault("trail", []).append([self.place[1], *results])
        return self.finish(None)


class Shop(Graph):
    pass


class Lookup(Graph):
    pass


class PerCustomer(BatchGraph):
    def prep(self, shared: Shared) -> Any:
        return [{"item": n} for n in range(3)]


class Chat(InteractiveGraph):
    pass


class Durable(PersistentGraph):
    pass


class Live(AsyncGraph):
    pass


def shop(seed: str) -> Any:
    """Ids as names; retries, fallbacks, suppressed errors, an unmatched action."""
    shared = {"seed": seed}
    work = Work(node_id="load", max_retries=3)
    set_behavior(work, "Shop", "load", fails=0.5, answers=0.3, suppresses=0.3)
    valid = Validated(max_retries=2)
    set_behavior(valid, "Shop", fails=0.2, suppresses=0.5, actions=("go", "on", None))
    measured = set_behavior(Measured(max_retries=2), "Shop", fails=0.3, answers=0.8)
    work >> valid
    valid - "go" >> measured
    valid >> set_behavior(Work(node_id="spare"), "Shop", "spare")
    return Shop(work).run(shared), shared, measured.get_stats()["total_executions"]


def pools(seed: str) -> Any:
    shared = {"seed": seed}
    batch = set_behavior(Batch(max_retries=2), "Graph[Batch]", answers=1.0)
    pool = set_behavior(Pool(max_workers=4), "Graph[Batch]")
    one = set_behavior(
        PoolOfOne(max_workers=1, max_retries=3), "Graph[Batch]", answers=1.0
    )
    batch >> pool >> one
    return Graph(batch).run(shared), shared


def subgraph(seed: str) -> Any:
    shared = {"seed": seed}
    look = set_behavior(Work(), "Lookup", fails=0.3)
    sub = Sub(Lookup(look), node_id="lookup")
    set_behavior(sub, "Graph[lookup]", "lookup", suppresses=0.5)
    sub >> set_behavior(Work(node_id="after"), "Graph[lookup]", "after")
    return Graph(sub).run(shared), shared


def batch_graph(seed: str) -> Any:
    shared = {"seed": seed}
    return PerCustomer(set_behavior(Work(), "PerCustomer", fails=0.1)).run(
        shared
    ), shared


def interactive(seed: str) -> Any:
    shared = {"seed": seed}
    work = set_behavior(Work(), "Chat", fails=0.2, suppresses=0.8)
    return Chat(work).run_interactive(shared, 3)


def persistent(seed: str) -> Any:
    """A graph with a loop of its own, which does not report why it ends."""
    shared = {"seed": seed}
    first = set_behavior(Work(node_id="first"), "Durable", "first", explained=False)
    second = set_behavior(Work(node_id="second"), "Durable", "second", explained=False)
    second.fails = 0.3
    first >> second
    graph = Durable(first)
    return graph.run(shared), graph.checkpoints


def live(seed: str) -> Any:
    shared = {"seed": seed}
    awaited = set_behavior(Awaited(max_retries=2), "Live")
    (
        awaited
        >> set_behavior(Gathered(), "Live")
        >> set_behavior(Work(), "Live", suppresses=1.0)
    )
    return asyncio.run(Live(awaited).run_async(shared)), shared


SCENARIOS = [shop, pools, subgraph, batch_graph, interactive, persistent, live]
