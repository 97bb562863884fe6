"""How the graphs of the company fail: what is reported, and which view shows it."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import parse_qs

__all__ = ["FAILURES", "Failure"]


class Failure(NamedTuple):
    """A fault of a service, as a view of the page shows it.

    The documentation has a picture of each, and the tests open some of the views.

    Attributes:
        name: the picture's.
        kind: the problem's.
        text: a part of its sentence.
        query: the query of the view's address.
    """

    name: str
    kind: str
    text: str
    query: str

    @property
    def service(self) -> str:
        return parse_qs(self.query)["service"][0]

    @property
    def view(self) -> str:
        return parse_qs(self.query)["view"][0]


FAILURES: Final = (
    Failure(
        "failing",
        "failing",
        "of executions fail",
        "view=overview&service=checkout&window=15m",
    ),
    Failure(
        "failing-node",
        "failing",
        "of executions fail",
        "view=node&service=checkout&graph=order&node=Pay&window=1h",
    ),
    Failure(
        "low-traffic",
        "low_traffic",
        "executions failed",
        "view=overview&service=payroll&window=15m",
    ),
    Failure(
        "died",
        "process_died",
        "died while running documents / Embed",
        "view=processes&service=indexing",
    ),
    Failure(
        "silent", "silent", "no run for", "view=overview&service=newsletter&window=15m"
    ),
    Failure(
        "dead-end",
        "dead_end",
        'no edge for "complaint"',
        "view=graph&service=support&graph=ticket&window=15m",
    ),
    Failure(
        "never-reached",
        "never_reached",
        "never executed, although its graph has run",
        "view=graph&service=claims&graph=answer&window=1h",
    ),
    Failure(
        "runaway",
        "runaway",
        "a run goes in circles",
        "view=runs&service=research&window=15m",
    ),
    Failure(
        "stuck",
        "stuck",
        "a run is stuck here",
        "view=runs&service=stock&window=15m",
    ),
    Failure(
        "masked",
        "masked_failures",
        "hidden by retries or fallbacks",
        "view=graph&service=assistant&graph=answer&window=15m",
    ),
    Failure(
        "drift",
        "drift",
        'returns "revise"',
        "view=graph&service=reviews&graph=ticket&window=15m&compare=yesterday",
    ),
    Failure(
        "waste",
        "wasted_spend",
        "of what its model calls cost is wasted",
        "view=models&service=writer&window=1h",
    ),
    Failure(
        "slow",
        "slow",
        "on average",
        "view=node&service=search&graph=answer&node=Generate&window=1h",
    ),
    Failure(
        "memory", "memory", "of memory, above", "view=processes&service=thumbnails"
    ),
)
