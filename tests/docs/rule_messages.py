"""The first message of each built-in rule, from the tests that make the rule fire.

Every test of `tests.agent.rules.test_built_in` runs with an engine that records what it
requests, so that an image shows what a rule sends, and not what somebody wrote.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from tests.agent.rules import test_built_in
from tests.agent.rules.harness import AlertHarness

from kaywatch_agent.model.alerts import AlertDetails

__all__ = ["built_in_messages"]


class _Recorder(AlertHarness):
    """Records the first alert of each rule that fires."""

    seen: dict[str, tuple[float, AlertDetails]]

    def evaluate(self) -> list[tuple[str, str]]:
        results = super().evaluate()
        for at, _, kind, alert in self.sent[-len(results) or len(self.sent) :]:
            if kind == "firing":
                self.seen.setdefault(alert.rule, (at, alert))
        return results


def built_in_messages() -> dict[str, tuple[float, AlertDetails]]:
    """Return, by rule, when it fired and its alert."""
    recorder = type("Recorder", (_Recorder,), {"seen": {}})
    original = test_built_in.AlertHarness
    test_built_in.AlertHarness = recorder  # type: ignore[misc]
    try:
        for test, arguments in _cases():
            test(**arguments)
    finally:
        test_built_in.AlertHarness = original  # type: ignore[misc]
    return dict(sorted(recorder.seen.items()))


# -- inside --------------------------------------------------------------------------


def _cases() -> Iterator[tuple[Callable[..., None], dict[str, Any]]]:
    """Yield the tests with the arguments of their first case."""
    for name, test in vars(test_built_in).items():
        if not name.startswith("test_") or not inspect.isfunction(test):
            continue
        arguments: dict[str, Any] = {}
        for mark in getattr(test, "pytestmark", ()):
            names = mark.args[0]
            names = names.split(",") if isinstance(names, str) else names
            value = mark.args[1][0]
            values = value if len(names) > 1 else (value,)
            arguments |= dict(zip((n.strip() for n in names), values, strict=True))
        if set(inspect.signature(test).parameters) == set(arguments):
            yield test, arguments
