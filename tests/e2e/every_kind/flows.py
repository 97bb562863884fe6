"""Each kind of node and flow that PocketFlow has, alone and within each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ledger import Counted, Item, Place, Trouble, visit_random
from pocketflow import (
    AsyncBatchFlow,
    AsyncBatchNode,
    AsyncFlow,
    AsyncNode,
    AsyncParallelBatchFlow,
    AsyncParallelBatchNode,
    BatchFlow,
    BatchNode,
    Flow,
    Node,
)

Shared = dict[str, Any]

# -- nodes ---------------------------------------------------------------------------


class Step(Counted, Node):
    """Fails in its phases as often as configured, and chooses an action."""

    def __init__(
        self,
        graph: str,
        actions: tuple[str | None, ...] = (None,),
        *,
        fails: float = 0.0,
        answers: float = 0.0,
        fails_in: dict[str, float] | None = None,
        above: tuple[Place, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.book(graph, above)
        self.actions = actions
        self.fails = fails
        self.answers = answers
        self.fails_in = fails_in or {}

    def prep(self, shared: Shared) -> Any:
        self.begin()
        self.dice = visit_random(shared, self)
        self.maybe_fail("prep")
        number = self.dice.randrange(100)
        return (number + n for n in range(3))

    def exec(self, stream: Any) -> Any:
        self.attempt()
        if self.dice.random() < self.fails:
            raise Trouble(self.place, "exec", self.tries)
        return stream

    def exec_fallback(self, stream: Any, error: Exception) -> Any:
        if self.dice.random() < self.answers:
            self.outcome = "fallback"
            return stream
        raise self.fail(error)

    def post(self, shared: Shared, prepared: Any, stream: Any) -> Any:
        shared.setdefault("trail", []).append([self.place[1], *stream])
        self.maybe_fail("post")
        return self.finish(self.dice.choice(self.actions))

    def maybe_fail(self, phase: str) -> None:
        if self.dice.random() < self.fails_in.get(phase, 0.0):
            raise self.fail(Trouble(self.place, phase))


class Load(Step):
    pass


class Check(Step):
    pass


class Charge(Step):
    pass


class Ship(Step):
    pass


class Never(Step):
    """Is wired, and nothing leads to it."""


class Ask(Step):
    """A loop: asks until it has heard enough."""


class Interrupted(Step):
    def exec(self, stream: Any) -> Any:
        self.attempt()
        raise self.fail(KeyboardInterrupt("stop"), "cancelled")


class Delegates(Step):
    """Runs a flow of its own within `exec`, again if that one fails."""

    def prep(self, shared: Shared) -> Any:
        super().prep(shared)
        return shared

    def exec(self, shared: Any) -> Any:
        self.attempt()
        inner = {"seed": f"{shared['seed']}/{self.tries}"}
        Flow(start=Charge("Flow[Charge]", fails=0.4)).run(inner)
        return inner["trail"]


class Lines(Counted, BatchNode):
    """A batch, given as an iterator."""

    def __init__(self, graph: str, failures: int, answered: bool, **kwargs: Any):
        super().__init__(**kwargs)
        self.book(graph)
        self.failures = failures
        self.answered = answered

    def prep(self, shared: Shared) -> Iterator[Item]:
        self.begin()
        chance = visit_random(shared, self)
        failing = chance.randrange(5)
        return iter(
            Item(n, self.failures if n == failing else 0, self.answered)
            for n in range(chance.randrange(6))
        )

    def exec(self, item: Item) -> int:
        return item.work(self)

    def exec_fallback(self, item: Item, error: Exception) -> Any:
        if not item.answered:
            raise self.fail(error)
        self.outcome = "fallback"
        return -item.number

    def post(self, shared: Shared, prepared: Any, results: Any) -> Any:
        shared.setdefault("trail", []).append([self.place[1], *results])
        return self.finish(None)


class Strict(Lines):
    pass


class AsyncStep(Counted, AsyncNode):
    def __init__(
        self,
        graph: str,
        actions: tuple[str | None, ...] = (None,),
        *,
        fails: float = 0.0,
        answers: float = 0.0,
        above: tuple[Place, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.book(graph, above)
        self.actions = actions
        self.fails = fails
        self.answers = answers

    async def prep_async(self, shared: Shared) -> Any:
        self.begin()
        self.dice = visit_random(shared, self)
        await self.wait_for(asyncio.sleep(0))
        return self.dice.randrange(100)

    async def exec_async(self, number: int) -> Any:
        self.attempt()
        await self.wait_for(self.linger())
        if self.dice.random() < self.fails:
            raise Trouble(self.place, self.tries)
        return number + 1

    async def wait_for(self, something: Awaitable[None]) -> None:
        """Wait where a timeout may come, however loaded the machine is."""
        try:
            await something
        except asyncio.CancelledError as error:
            self.fail(error, "cancelled")
            raise

    async def linger(self) -> None:
        await asyncio.sleep(0)

    async def exec_fallback_async(self, number: int, error: Exception) -> Any:
        if self.dice.random() < self.answers:
            self.outcome = "fallback"
            return -number
        raise self.fail(error)

    async def post_async(self, shared: Shared, prepared: Any, number: Any) -> Any:
        trail = shared.setdefault("trail", [])
        trail.append([self.place[1], self.params.get("item"), number])
        return self.finish(self.dice.choice(self.actions))


class Fetch(AsyncStep):
    pass


class Summarize(AsyncStep):
    pass


class Endless(AsyncStep):
    """Waits until it is cancelled."""

    async def linger(self) -> None:
        await asyncio.sleep(3600)


class Paged(Counted):
    """Items, some of which need another try."""

    def __init__(self, graph: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.book(graph)

    async def prep_async(self, shared: Shared) -> Any:
        self.begin()
        chance = visit_random(shared, self)
        return iter([Item(n, chance.randrange(4)) for n in range(4)])

    async def exec_async(self, item: Item) -> int:
        await asyncio.sleep(0)
        return item.work(self)

    async def exec_fallback_async(self, item: Item, error: Exception) -> int:
        self.outcome = "fallback"
        return -item.number

    async def post_async(self, shared: Shared, prepared: Any, results: Any) -> Any:
        shared.setdefault("trail", []).append([self.place[1], *results])
        return self.finish(None)


class Pages(Paged, AsyncBatchNode):
    """One after the other."""


class Crawl(Paged, AsyncParallelBatchNode):
    """All at once."""


# -- flows ---------------------------------------------------------------------------


class Nested(Counted, Flow):
    """A flow that is a node of another one."""

    def prep(self, shared: Shared) -> None:
        self.begin()

    def post(self, shared: Shared, prepared: Any, action: Any) -> Any:
        return self.finish(action)


class Checkout(Flow):
    pass


class Order(Flow):
    pass


class Payment(Nested):
    pass


class Retry(Nested):
    pass


class Parcels(Counted, BatchFlow):
    """A batch flow that is a node of another one."""

    def prep(self, shared: Shared) -> Any:
        self.begin()
        return [{"item": n} for n in range(3)]

    def post(self, shared: Shared, prepared: Any, action: Any) -> Any:
        return self.finish(action)


class PerFile(BatchFlow):
    def prep(self, shared: Shared) -> Any:
        return [{"item": name} for name in "abc"]


class Research(AsyncFlow):
    pass


class Deep(AsyncFlow):
    pass


class Inner(Counted, AsyncFlow):
    async def prep_async(self, shared: Shared) -> None:
        self.begin()

    async def post_async(self, shared: Shared, prepared: Any, action: Any) -> Any:
        return self.finish(action)


class PerPage(AsyncBatchFlow):
    async def prep_async(self, shared: Shared) -> Any:
        return [{"item": name} for name in "abc"]


class AllPages(AsyncParallelBatchFlow):
    async def prep_async(self, shared: Shared) -> Any:
        return [{"item": name} for name in "abcd"]


class Impatient(AsyncFlow):
    pass


def a_checkout() -> Flow:
    load = Load("Checkout", ("default", "skip", None), fails_in={"prep": 0.1})
    check = Check("Checkout", ("ok", "bad", "typo"), fails=0.3, max_retries=3)
    charge = Charge("Checkout", fails=0.6, answers=0.7, max_retries=2)
    ship = Ship("Checkout", fails_in={"post": 0.2})
    load >> check
    load - "skip" >> ship
    check - "ok" >> charge
    check - "bad" >> load
    check - "never" >> Never("Checkout")
    charge >> ship
    return Checkout(start=load)


def an_order() -> Flow:
    """Flows within a flow: one that may fail, one of two levels, a batch flow."""
    payment_at = ("Order", "Payment")
    payment = Payment(
        start=Check("Payment", ("yes", None), fails=0.2, above=(payment_at,))
    )
    payment.book("Order")
    innermost = Retry(
        start=Charge(
            "Retry", fails=0.2, above=(("Parcels", "Retry"), ("Order", "Parcels"))
        )
    )
    innermost.book("Parcels", above=(("Order", "Parcels"),))
    parcels = Parcels(start=innermost)
    parcels.book("Order")
    load = Load("Order")
    load >> payment
    payment - "yes" >> parcels
    parcels >> Ship("Order")
    return Order(start=load)


# -- scenarios -----------------------------------------------------------------------


def checkout(seed: str) -> Any:
    shared = {"seed": seed}
    return a_checkout().run(shared), shared


def order(seed: str) -> Any:
    shared = {"seed": seed}
    return an_order().run(shared), shared


def alone(seed: str) -> Any:
    """A node outside any graph, which warns of its successors."""
    shared = {"seed": seed}
    node = Ship("", fails=0.3, answers=0.5, max_retries=2)
    node >> Never("")
    return node.run(shared), shared


def loop(seed: str) -> Any:
    shared = {"seed": seed}
    ask = Ask("Flow[Ask]", ("again", "again", "again", "enough"))
    ask - "again" >> ask
    return Flow(start=ask).run(shared), shared


def batches(seed: str) -> Any:
    shared = {"seed": seed}
    lines = Lines("Flow[Lines]", failures=2, answered=True, max_retries=2)
    strict = Strict("Flow[Lines]", failures=2, answered=False, max_retries=2)
    lines >> strict
    return Flow(start=lines).run(shared), shared


def batch_flow(seed: str) -> Any:
    shared = {"seed": seed}
    load = Load("PerFile")
    load >> Check("PerFile", fails=0.1)
    return PerFile(start=load).run(shared), shared


def delegation(seed: str) -> Any:
    shared = {"seed": seed}
    node = Delegates("Flow[Delegates]", answers=0.5, max_retries=2)
    return Flow(start=node).run(shared), shared


def interruption(seed: str) -> Any:
    load = Load("Flow[Load]")
    load >> Interrupted("Flow[Load]")
    return Flow(start=load).run({"seed": seed})


def threads(seed: str) -> Any:
    """One flow, run by four threads at once."""
    flow = a_checkout()

    def one(number: int) -> Any:
        shared = {"seed": f"{seed}/{number}"}
        try:
            return flow.run(shared), shared
        except Trouble as error:
            return repr(error), shared

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, range(8)))


def research(seed: str) -> Any:
    shared = {"seed": seed}
    fetch = Fetch("Research", ("more", None), fails=0.3, max_retries=2)
    load = Load("Research", fails=0.3, answers=1.0)
    summarize = Summarize("Research", fails=0.5, answers=0.5, max_retries=3)
    pages = Pages("Research", max_retries=3)
    fetch >> load >> summarize
    fetch - "more" >> pages >> Crawl("Research", max_retries=3)
    return asyncio.run(Research(start=fetch).run_async(shared)), shared


def deep(seed: str) -> Any:
    shared = {"seed": seed}
    inner = Inner(start=Fetch("Inner", fails=0.2, above=(("Deep", "Inner"),)))
    inner.book("Deep")
    inner >> Load("Deep")
    return asyncio.run(Deep(start=inner).run_async(shared)), shared


def async_batch_flow(seed: str) -> Any:
    shared = {"seed": seed}
    flow = PerPage(start=Fetch("PerPage", fails=0.1))
    return asyncio.run(flow.run_async(shared)), shared


def async_parallel_batch_flow(seed: str) -> Any:
    """One item that fails leaves the others running: they end, or are cancelled."""
    shared = {"seed": seed}
    fetch = Fetch("AllPages", fails=0.1)
    fetch >> Summarize("AllPages")
    try:
        return asyncio.run(AllPages(start=fetch).run_async(shared)), shared
    except Trouble as error:
        return repr(error), shared


def tasks(seed: str) -> Any:
    """One flow, run by many tasks at once."""
    flow = Research(start=Fetch("Research", fails=0.2, answers=1.0))

    async def all_of_them() -> Any:
        shareds = [{"seed": f"{seed}/{n}"} for n in range(10)]
        await asyncio.gather(*(flow.run_async(shared) for shared in shareds))
        return shareds

    return asyncio.run(all_of_them())


def cancellation(seed: str) -> Any:
    fetch = Fetch("Impatient")
    fetch >> Endless("Impatient")

    async def impatient() -> Any:
        async with asyncio.timeout(0.01):
            await Impatient(start=fetch).run_async({"seed": seed})

    return asyncio.run(impatient())


SCENARIOS = [
    checkout,
    order,
    alone,
    loop,
    batches,
    batch_flow,
    delegation,
    interruption,
    threads,
    research,
    deep,
    async_batch_flow,
    async_parallel_batch_flow,
    tasks,
    cancellation,
]
