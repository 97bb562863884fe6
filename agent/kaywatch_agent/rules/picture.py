"""All about alerts at one moment, for those who show them; nothing in it changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from kaywatch_agent.model.alerts import Alert
from kaywatch_agent.rules.decide import FLAPS
from kaywatch_agent.rules.describe import describe
from kaywatch_agent.rules.evaluate import Found
from kaywatch_agent.rules.instance import Instance
from kaywatch_agent.rules.matchers import matches
from kaywatch_agent.rules.rule import Rule, Settings
from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.rules.tell import labels_of_all

__all__ = ["Picture", "frozen"]


class Picture(NamedTuple):
    """What is known of alerts.

    Attributes:
        now: Unix seconds.
        settings: rules, and what else is set.
        instances: the alerts.
        silences: all that are remembered.
        found: what each rule found last, by name.
        refused: how many alerts were too many, by rule.
        clock: the alerts' own, in seconds.
        evaluated: when rules were looked at last, Unix seconds.
        problem: what went wrong then; empty for nothing.
        host: where the agent runs.
    """

    now: float
    settings: Settings
    instances: tuple[Instance, ...] = ()
    silences: tuple[Silence, ...] = ()
    found: Mapping[str, Found] = {}
    refused: Mapping[str, int] = {}
    clock: float = 0.0
    evaluated: float = 0.0
    problem: str = ""
    host: str = ""

    def rule(self, instance: Instance) -> Rule | None:
        """Return an alert's rule; None when it is gone."""
        return self.settings.rules.get(instance.rule)

    def describe(self, instance: Instance) -> Alert:
        """Return the facts about an alert."""
        flapping = instance.flaps(self.clock) >= FLAPS
        rule = self.rule(instance)
        return describe(instance, rule, self.settings, self.host, flapping)

    def labels(self, instance: Instance) -> dict[str, str]:
        """Return all labels of an alert, with `alertname` and `severity`."""
        return labels_of_all(instance, self.settings)

    def silencing(self, instance: Instance) -> list[Silence]:
        """Return the silences that cover an alert now."""
        labels = self.labels(instance) if self.silences else {}
        return [
            silence
            for silence in self.silences
            if silence.holds(self.now) and matches(silence.matchers, labels)
        ]

    def wall(self, clock: float) -> float:
        """Return a time of the alerts' clock in Unix seconds, as near as can be."""
        return self.now - (self.clock - clock)


def frozen(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """Return alerts that change no more."""
    return tuple([_copy(instance) for instance in instances])


def _copy(instance: Instance) -> Instance:
    found = msgspec.structs.replace(
        instance,
        told=dict(instance.told),
        held=dict(instance.held),
        changes=list(instance.changes),
        log=list(instance.log),
    )
    # The id takes longer to make than all the rest.
    found.__dict__["id"] = instance.id
    return found
