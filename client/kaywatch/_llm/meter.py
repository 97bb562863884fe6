"""The metrics of language models, by the node that calls them and the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from kaywatch._process import process

__all__ = ["Meter"]


class Meter(NamedTuple):
    """Counts the calls of one model by one node."""

    graph: str
    node: str
    model: str

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a running sum."""
        _point(self, "count", name, *labels.items())(value)

    def observe(self, name: str, value: float) -> None:
        """Record one value of a distribution."""
        _point(self, "observe", name)(value)

    def count_wasted(self, input: float, output: float, cost: float) -> None:
        """Count tokens and US dollars that a failed attempt used."""
        self.add("llm_wasted_input_tokens", input)
        self.add("llm_wasted_output_tokens", output)
        if cost:
            self.add("llm_wasted_cost_usd", cost)


# Bounded, because applications choose the models' names. Recorder.point would do, too,
# but takes 1 us, and a call has eight metrics.
@lru_cache(maxsize=4_096)
def _point(
    meter: Meter, kind: str, name: str, *labels: tuple[str, str]
) -> Callable[[float], None]:
    nonempty = {key: text for key, text in (("model", meter.model), *labels) if text}
    return process.recorder.point(kind, name, meter.graph, meter.node, nonempty)
