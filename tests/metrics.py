"""The agent's own metrics, for tests that look at them by name."""

from __future__ import annotations

import importlib
import pkgutil

import kaywatch_agent
from kaywatch_agent.runtime.metrics import CATALOGUE, Instrument, MetricsRegistry


def declared_metrics() -> dict[str, Instrument]:
    """Return every metric that any module of the agent declares, by name."""
    for module in pkgutil.walk_packages(kaywatch_agent.__path__, "kaywatch_agent."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return {name: one for name, one in CATALOGUE.items() if "kaywatch" in name}


def samples(registry: MetricsRegistry, name: str) -> dict[tuple[str, ...], float]:
    """Return the values of a metric by labels."""
    return next(result for one, result in registry.collect() if one.name == name)


def metric_value(registry: MetricsRegistry, name: str, *labels: str) -> float:
    """Return a metric's value; 0 where nothing was counted."""
    return samples(registry, name).get(labels, 0.0)
