"""Disturb broker, agent and connections under load, and compare all counts at the end.

    python -m tests.e2e.chaos_mqtt --strikes 100 --processes 4

The processes are those of `tests.e2e.chaos`. At random moments, the broker is stopped,
killed or frozen, the agent is killed, or the connections of the agent or the processes
to the broker are cut or frozen. At the end, every figure must be equal.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.agents import Agent
from tests.brokers import Broker, run_broker
from tests.cuts import Way
from tests.e2e import chaos
from tests.mqtt import agent_at, both_ways, variables, with_connection

__all__ = ["KINDS", "Strikes", "run"]


class Strikes:
    """The disturbances; each one returns after everything works again."""

    def __init__(
        self, agent: Agent, broker: Broker, near: Way, far: Way, only: str = ""
    ) -> None:
        self.done: Counter[str] = Counter()
        self._agent = agent
        self._broker = broker
        self._near = near
        self._far = far
        self._only = only
        self._next: list[str] = []

    def __call__(self, rng: random.Random) -> None:
        """Run one disturbance for a random time; each runs before any is repeated."""
        if not self._next:
            self._next = [self._only] if self._only else list(KINDS)
            rng.shuffle(self._next)
        kind = self._next.pop()
        self.done[kind] += 1
        KINDS[kind](self, rng.choice((0.0, rng.uniform(0, 0.5), rng.uniform(0, 3))))

    def stop_broker(self, seconds: float) -> None:
        self._broker.stop(signal.SIGTERM)
        time.sleep(seconds)
        self._broker.start()

    def kill_broker(self, seconds: float) -> None:
        self._broker.stop(signal.SIGKILL)
        time.sleep(seconds)
        self._broker.start()

    def freeze_broker(self, seconds: float) -> None:
        self._broker.freeze()
        time.sleep(seconds)
        self._broker.thaw()

    def kill_agent(self, seconds: float) -> None:
        self._agent.stop(signal.SIGKILL)
        time.sleep(seconds)
        self._agent.start()

    def cut_agent(self, seconds: float) -> None:
        self._near.cut()
        time.sleep(seconds)
        self._near.restore()

    def cut_clients(self, seconds: float) -> None:
        self._far.cut()
        time.sleep(seconds)
        self._far.restore()

    def freeze_ways(self, seconds: float) -> None:
        for way in (self._near, self._far):
            way.freeze()
        time.sleep(seconds)
        for way in (self._near, self._far):
            way.restore()

    def kill_both(self, seconds: float) -> None:
        self._broker.stop(signal.SIGKILL)
        self.kill_agent(seconds)
        self._broker.start()


KINDS: dict[str, Callable[[Strikes, float], None]] = {
    "broker stopped": Strikes.stop_broker,
    "broker killed": Strikes.kill_broker,
    "broker frozen": Strikes.freeze_broker,
    "agent killed": Strikes.kill_agent,
    "agent's way cut": Strikes.cut_agent,
    "clients' way cut": Strikes.cut_clients,
    "both ways frozen": Strikes.freeze_ways,
    "broker and agent killed": Strikes.kill_both,
}


def run(
    folder: Path,
    *,
    broker: str = "mosquitto",
    strikes: int,
    processes: int,
    seed: int = 1,
    only: str = "",
    only_old: bool = False,
    pause: float = chaos.PAUSE,
    tell: Callable[[str], object] = lambda _: None,
) -> tuple[chaos.Outcome, Counter[str]]:
    """Run all disturbances; return the result, and how often each was run.

    Args:
        folder: where the processes write their counts.
        broker: one of `tests.brokers.KINDS` without TLS.
        strikes: the number of disturbances.
        processes: the number of processes that record at a time.
        seed: the seed of the random numbers.
        only: the only one of KINDS to run; None for all of them.
        only_old: whether both sides use MQTT 3.1.1.
        pause: seconds to wait after each thousand events of a process.
        tell: called with a progress line from time to time.
    """
    with (
        run_broker(broker) as served,
        both_ways(served, only_old) as (near, far),
        agent_at(served, way=near, grace_seconds=5) as agent,
    ):
        agent.variables = variables(with_connection(served.access(), far))
        strike = Strikes(agent, served, near, far, only)
        outcome = chaos.run(
            agent,
            folder,
            kills=strikes,
            processes=processes,
            seed=seed,
            pause=pause,
            strike=strike,
            tell=tell,
        )
        return outcome, strike.done


def main() -> None:
    """Run the long form from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strikes", type=int, default=100)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--broker", default="mosquitto")
    parser.add_argument("--only", default="", choices=["", *KINDS])
    parser.add_argument("--only-old", action="store_true", help="MQTT 3.1.1")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        result, done = run(
            Path(folder),
            broker=options.broker,
            strikes=options.strikes,
            processes=options.processes,
            seed=options.seed,
            only=options.only,
            only_old=options.only_old,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
    for line in result.differences:
        print(line)
    print(
        f"{result.events:,} events of {result.processes} processes over"
        f" {options.broker}; {result.duplicates:,} batches came again and were dropped;"
        f" {', '.join(f'{kind} {count} times' for kind, count in done.items())}"
    )
    print("all equal" if not result.differences else "DIFFERENT")
    sys.exit(bool(result.differences))


if __name__ == "__main__":
    main()
