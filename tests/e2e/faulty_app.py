"""Processes of a PocketFlow application, each graph of which fails in its own way.

`python faulty_app.py ROLE`: `shop` has the faults of graphs, `cache` uses too much
memory, and `worker` waits within a node to be killed. Each ends when its stdin does.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from pocketflow import Flow, Node

import kaywatch

ended = threading.Event()
Shared = dict[str, Any]


class Step(Node):
    """Does nothing, or what a subclass says."""


def flow(name: str, start: Node) -> Flow:
    """Return a graph with a name of its own."""
    graph: Flow = type(name, (Flow,), {})(start=start)
    return graph


def repeat(times: int, graph: Flow) -> None:
    """Run a graph several times; its failures are the application's own business."""
    for run in range(times):
        with contextlib.suppress(ValueError):
            graph.run({"run": run})


# -- faults, by their graphs -----------------------------------------------------------


class Declines(Step):
    def exec(self, prep_res: object) -> None:
        raise ValueError("the card was declined")


def failing() -> None:
    repeat(40, flow("Failing", Declines()))


def rare() -> None:
    """As few executions as the page's thresholds never judge."""
    repeat(6, flow("Rare", Declines()))


class Thinks(Step):
    def exec(self, prep_res: object) -> None:
        time.sleep(5.3)


def slow() -> None:
    graph = flow("Slow", Thinks())
    threads = [threading.Thread(target=repeat, args=(1, graph)) for _ in range(22)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Routes(Step):
    def post(self, shared: Shared, prep_res: object, exec_res: object) -> str:
        return "refund"


class Pays(Step):
    pass


def dead_end() -> None:
    routes = Routes()
    routes - "pay" >> Pays()
    repeat(3, flow("DeadEnd", routes))


class Refunds(Step):
    pass


def never_reached() -> None:
    pays = Pays()
    pays - "refund" >> Refunds()
    pays >> Step()
    repeat(120, flow("NeverReached", pays))


class Decides(Step):
    def __init__(self, times: int, pause: float = 0.0) -> None:
        super().__init__()
        self.times, self.pause = times, pause

    def post(self, shared: Shared, prep_res: object, exec_res: object) -> str:
        shared["visits"] = shared.get("visits", 0) + 1
        is_over = ended.wait(self.pause) or shared["visits"] >= self.times
        return "done" if is_over else "again"


def looping(name: str, decides: Decides) -> None:
    decides - "again" >> decides
    decides - "done" >> Step()
    repeat(1, flow(name, decides))


def unusual_loop() -> None:
    looping("Unusual", Decides(150))


def runaway() -> None:
    looping("Runaway", Decides(10**9, pause=0.01))


class Waits(Step):
    def prep(self, shared: Shared) -> bool:
        return "blocked" in shared

    def exec(self, prep_res: bool) -> None:
        if prep_res:
            ended.wait()


def stuck() -> None:
    graph = flow("Stuck", Waits())
    repeat(30, graph)
    graph.run({"blocked": True})


class Asks(Node):
    """Pays for a model; in one of `every` runs, its first attempt fails."""

    def __init__(self, every: int, usd: float, usd_of_failure: float) -> None:
        super().__init__(max_retries=3)
        self.every, self.usd, self.usd_of_failure = every, usd, usd_of_failure

    def prep(self, shared: Shared) -> bool:
        return shared["run"] % self.every == 0

    def exec(self, prep_res: bool) -> None:
        fails = prep_res and self.cur_retry == 0
        kaywatch.record_llm(
            model="m",
            input_tokens=1000,
            output_tokens=100,
            cost_usd=self.usd_of_failure if fails else self.usd,
        )
        if fails:
            raise ValueError("the model returned no JSON")


def masked() -> None:
    # A failed attempt in two runs; none of them costs anything.
    repeat(40, flow("Masked", Asks(2, 0.0, 0.0)))


def wasted() -> None:
    # One attempt in nine fails, and costs more than the other eight.
    repeat(40, flow("Wasted", Asks(8, 0.01, 0.2)))


# -- healthy graphs --------------------------------------------------------------------


class Loads(Step):
    pass


class Sends(Step):
    pass


def healthy() -> None:
    loads = Loads()
    loads >> Sends()
    graph = flow("Healthy", loads)
    while not ended.wait(0.1):
        graph.run({})


# -- processes -------------------------------------------------------------------------


def shop() -> None:
    faults: tuple[Callable[[], None], ...] = (
        *(failing, rare, slow, dead_end, never_reached, unusual_loop, runaway),
        *(stuck, masked, wasted, healthy),
    )
    threads = [threading.Thread(target=fault, daemon=True) for fault in faults]
    for thread in threads:
        thread.start()
    ended.wait()


def cache() -> None:
    """Map a file again and again: each mapping counts as resident memory.

    More than a gigabyte is resident, of which the machine has to provide 16 MiB.
    """
    size = 16 * 2**20
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        maps = [mmap.mmap(file.fileno(), size) for _ in range(80)]
        for one in maps:
            one[:: mmap.PAGESIZE]
    repeat(1, flow("Caches", Step()))
    ended.wait()


def worker() -> None:
    graph = flow("Works", Waits())
    # A process is known from its first event on.
    graph.run({})
    graph.run({"blocked": True})


def end_with_stdin() -> None:
    sys.stdin.read()
    ended.set()


if __name__ == "__main__":
    role = sys.argv[1]
    kaywatch.configure(service=role)
    kaywatch.instrument()
    threading.Thread(target=end_with_stdin, daemon=True).start()
    {"shop": shop, "cache": cache, "worker": worker}[role]()
