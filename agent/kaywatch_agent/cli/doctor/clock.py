"""Whether the clocks of the agent, of this host and of clients agree."""

from __future__ import annotations

from typing import Final

from kaywatch_agent import units as quantities
from kaywatch_agent.cli.doctor.finding import Findings, ok, problem, warning
from kaywatch_agent.cli.doctor.ground import Ground

__all__ = ["CHECKS"]

# Buckets are of ten seconds: from half of one on, events are seen in the wrong one.
NOTABLE: Final = 5.0
# And an hour is how late an event may be for a bucket at all.
SEVERE: Final = 3600.0

SYNCHRONISE: Final = "let a time service set it: timedatectl set-ntp true"


def agent(ground: Ground) -> Findings:
    """The agent's clock is this one."""
    if ground.health is None:
        return
    ahead = ground.health["timestamp"] - ground.asked_at
    if abs(ahead) < NOTABLE:
        yield ok("the agent's clock is this one's, within a few seconds")
        return
    side = "ahead of" if ahead > 0 else "behind"
    yield warning(
        f"the agent's clock is {quantities.span(abs(ahead))} {side} this one",
        SYNCHRONISE,
    )


def clients(ground: Ground) -> Findings:
    """Those of clients are the agent's."""
    known = [
        client
        for client in ground.clients or ()
        if client["state"] == "connected" and client["skew"] is not None
    ]
    if not known:
        return
    wrong = [client for client in known if abs(client["skew"]) >= NOTABLE]
    for client in wrong:
        # Measured when the first batch came: the agent's time less the client's.
        side = "behind" if client["skew"] > 0 else "ahead"
        text = (
            f"{client['service']} (pid {client['pid']} on {client['host']}) is"
            f" {quantities.span(abs(client['skew']))} {side}"
        )
        if abs(client["skew"]) >= SEVERE:
            yield problem(f"{text}: its events are in no bucket", SYNCHRONISE)
        else:
            yield warning(f"{text}: its events are in other buckets", SYNCHRONISE)
    if not wrong:
        yield ok(f"those of {len(known)} clients agree with it")


CHECKS: Final = (agent, clients)
