"""A support desk in PocketFlow: branches, retries, fallbacks, a loop, async, batches.

A usual application with one line for kaywatch. It also counts its executions, so that
the demo can compare the agent's figures with its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

from pocketflow import (
    AsyncFlow,
    AsyncNode,
    AsyncParallelBatchNode,
    BatchNode,
    Flow,
    Node,
)

import kaywatch
from kaywatch_agent.cli.demo.faults import FAULT_SECONDS, FAULTS, Fault

__all__ = ["main"]

Shared = dict[str, Any]

# The counts of this process, by node and kind of event.
counted: Counter[tuple[str, str]] = Counter()
_counting = threading.Lock()

stop = threading.Event()
fault = Fault(stop)


def count(node: object, what: str) -> None:
    """Count something that a node did."""
    with _counting:
        counted[type(node).__name__, what] += 1


def work(seconds: float) -> None:
    """Sleep for about this long, with the long tail of a model's answers."""
    time.sleep(seconds * random.lognormvariate(0, 0.5))


async def wait(seconds: float) -> None:
    """Wait for about this long, without blocking other tickets."""
    await asyncio.sleep(seconds * random.lognormvariate(0, 0.5))


class ModelOverloaded(Exception):
    """The language model did not answer."""


class Triage(Node):  # type: ignore[misc]
    """Decides the topic of a ticket."""

    def prep(self, shared: Shared) -> str:
        count(self, "executions")
        return cast(str, shared["ticket"])

    def exec(self, ticket: str) -> str:
        work(0.004)
        tokens = len(ticket)
        kaywatch.record_llm(
            model="small",
            input_tokens=tokens,
            output_tokens=1,
            cost_usd=tokens * 0.15e-6,
            seconds=0.004,
        )
        if fault.occurs("dead-end", 0.15):
            return "complaint"
        return random.choices(["question", "refund", "spam"], [0.7, 0.2, 0.1])[0]

    def post(self, shared: Shared, prep_res: str, exec_res: str) -> str:
        count(self, f"-> {exec_res}")
        return exec_res


class Retrieve(BatchNode):  # type: ignore[misc]
    """Looks up three documents."""

    def prep(self, shared: Shared) -> list[int]:
        count(self, "executions")
        return [1, 2, 3]

    def exec(self, document: int) -> str:
        work(0.001)
        kaywatch.observe("data_size", 500 * document)
        return f"document {document}"

    def post(self, shared: Shared, prep_res: list[int], exec_res: list[str]) -> None:
        shared["documents"] = exec_res
        count(self, "-> default")


class Embed(AsyncParallelBatchNode):  # type: ignore[misc]
    """Embeds the documents, all at once."""

    async def prep_async(self, shared: Shared) -> list[str]:
        count(self, "executions")
        return cast(list[str], shared["documents"])

    async def exec_async(self, document: str) -> int:
        await asyncio.sleep(random.uniform(0.001, 0.004))
        return len(document)

    async def post_async(self, shared: Shared, prep_res: Any, exec_res: Any) -> None:
        count(self, "-> default")


class Draft(AsyncNode):  # type: ignore[misc]
    """Writes an answer; its model is often overloaded."""

    async def prep_async(self, shared: Shared) -> list[int]:
        count(self, "executions")
        return []

    async def exec_async(self, attempts: list[int]) -> str:
        """Ask the model, which fails three times in ten."""
        attempts.append(1)
        if len(attempts) > 1:
            count(self, "retries")
        await wait(0.24 if fault.occurs("slow") else 0.012)
        if random.random() < 0.2:
            error = ModelOverloaded("529: the model is overloaded")
            kaywatch.record_llm(model="large", seconds=0.012, error=error)
            raise error
        kaywatch.record_llm(
            model="large",
            input_tokens=900,
            output_tokens=200,
            cost_usd=0.0057,
            seconds=0.012,
        )
        if random.random() < 0.12 or fault.occurs("waste", 0.6):
            raise ValueError("the answer is not JSON")
        return "answer"

    async def exec_fallback_async(self, attempts: list[int], exc: Exception) -> str:
        count(self, "fallbacks")
        return "template"

    async def post_async(self, shared: Shared, prep_res: Any, exec_res: str) -> None:
        count(self, "-> default")


class Review(AsyncNode):  # type: ignore[misc]
    """Returns one draft in four for revision: a loop."""

    async def prep_async(self, shared: Shared) -> bool:
        count(self, "executions")
        return fault.is_endless(shared)

    async def exec_async(self, is_endless: bool) -> bool:
        await wait(0.003)
        if fault.occurs("failing", 0.6):
            kaywatch.record_llm(
                model="small", input_tokens=900, cost_usd=0.0014, seconds=0.003
            )
            count(self, "errors")
            raise TimeoutError("the reviewing model did not answer in time")
        return random.random() < 0.75 and not is_endless

    async def post_async(self, shared: Shared, prep_res: bool, exec_res: bool) -> str:
        action = "approve" if exec_res else "revise"
        count(self, f"-> {action}")
        return action


class Send(AsyncNode):  # type: ignore[misc]
    """Sends the answer over a network."""

    async def prep_async(self, shared: Shared) -> None:
        count(self, "executions")

    async def exec_async(self, prep_res: None) -> None:
        await asyncio.sleep(random.uniform(0.002, 0.02))

    async def post_async(self, shared: Shared, prep_res: None, exec_res: None) -> str:
        """End the run: no edge leaves this node."""
        count(self, "-> sent")
        return "sent"


class Refund(Node):  # type: ignore[misc]
    """Refunds an order; one order in five is missing, which fails the run."""

    def prep(self, shared: Shared) -> None:
        count(self, "executions")

    def exec(self, prep_res: None) -> None:
        work(0.006)
        if random.random() < 0.2:
            count(self, "errors")
            raise LookupError("no such order")

    def post(self, shared: Shared, prep_res: None, exec_res: None) -> None:
        count(self, "-> default")


class Discard(Node):  # type: ignore[misc]
    """Forgets a ticket."""

    def prep(self, shared: Shared) -> None:
        count(self, "executions")

    def post(self, shared: Shared, prep_res: None, exec_res: None) -> None:
        count(self, "-> default")


class Digest(Node):  # type: ignore[misc]
    """Summarizes the day, in a second graph that runs in a thread."""

    def prep(self, shared: Shared) -> None:
        count(self, "executions")

    def exec(self, prep_res: None) -> None:
        work(0.01)

    def post(self, shared: Shared, prep_res: None, exec_res: None) -> str:
        """End with an action without an edge, as many PocketFlow loops do."""
        count(self, "-> done")
        return "done"


class SupportDesk(AsyncFlow):  # type: ignore[misc]
    """The main graph."""


class DailyDigest(Flow):  # type: ignore[misc]
    """The second graph."""


def support_desk() -> SupportDesk:
    """Wire the main graph."""
    triage, retrieve, embed = Triage(), Retrieve(), Embed()
    draft, review, send = Draft(max_retries=3), Review(), Send()
    refund = Refund()
    triage - "question" >> retrieve >> embed >> draft >> review
    review - "revise" >> draft
    review - "approve" >> send
    triage - "refund" >> refund >> send
    triage - "spam" >> Discard()
    return SupportDesk(start=triage)


async def serve_tickets(desk: SupportDesk) -> None:
    """Work on one ticket after another."""
    while not stop.is_set():
        try:
            await desk.run_async({"ticket": "Where is my parcel?"})
        except (LookupError, TimeoutError):
            count(desk, "errors")
        count(desk, "runs")


def digest_regularly(digest: DailyDigest) -> None:
    """Run the second graph five times a second."""
    while not stop.wait(0.2):
        digest.run({})
        count(digest, "runs")


def main() -> None:
    """Run until SIGTERM, then write the counts to a file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--counts", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fault", choices=FAULTS)
    parser.add_argument("--fault-after", type=float, default=FAULT_SECONDS)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    if arguments.fault:
        fault.inject(arguments.fault, arguments.fault_after)

    kaywatch.instrument()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # Runs of this application end at actions without an edge, and PocketFlow warns of
    # each.
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")
    thread = threading.Thread(
        target=digest_regularly, args=(DailyDigest(start=Digest()),)
    )
    thread.start()
    asyncio.run(_serve())
    thread.join()
    rows = [[node, what, n] for (node, what), n in sorted(counted.items())]
    arguments.counts.write_text(json.dumps(rows))


async def _serve() -> None:
    desk = support_desk()
    await asyncio.gather(*(serve_tickets(desk) for _ in range(4)))


if __name__ == "__main__":
    main()
