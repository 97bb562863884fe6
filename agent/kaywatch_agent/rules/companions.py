"""Finds out whether other alerts could join the message about an alert."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping

from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.result import RuleResult
from kaywatch_agent.rules.rule import AlertSettings, Rule
from kaywatch_agent.rules.state import soonest_change

__all__ = ["Companions"]

Group = tuple[str, ...]  # the values of `group_by`


class Companions:
    """The alerts that may fire or resolve within `group_wait`, in one evaluation."""

    def __init__(
        self,
        settings: AlertSettings,
        alerts: Collection[Alert],
        last_result: Callable[[str], RuleResult | None],
    ) -> None:
        """Prepare to count them.

        Args:
            settings: the rules, and how alerts are grouped.
            alerts: all alerts, after the evaluation.
            last_result: returns the last result of a rule, with all its label sets.
        """
        self._settings = settings
        self._alerts = alerts
        self._last_result = last_result
        self._counts: dict[str, Counter[Group]] = {}  # by receiver

    def may_join(self, alert: Alert, receiver: str) -> bool:
        """Return whether another alert of the alert's group may follow within the wait.

        Most rules have a `for` that exceeds the wait. Then only alerts that are pending
        may follow.
        """
        rule = self._settings.rules.get(alert.rule)
        counts = self._counts.get(receiver)
        if counts is None:
            counts = self._counts[receiver] = Counter(self._groups(receiver))
        is_counted = (
            rule is not None and receiver in rule.notify and self._is_soon(alert, rule)
        )
        return counts[self._group(alert.rule, alert.labels)] > is_counted

    # -- inside ------------------------------------------------------------------------

    def _groups(self, receiver: str) -> Iterator[Group]:
        """Yield the groups of all alerts that may follow at a receiver."""
        known: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        rules = self._settings.rules
        for alert in self._alerts:
            rule = rules.get(alert.rule)
            known[alert.rule].add(tuple(alert.labels.values()))
            if rule and receiver in rule.notify and self._is_soon(alert, rule):
                yield self._group(alert.rule, alert.labels)
        for name, rule in rules.items():
            if receiver in rule.notify and rule.timing.for_ <= self._wait:
                yield from self._new_groups(name, known[name])

    def _new_groups(self, rule: str, known: set[tuple[str, ...]]) -> Iterator[Group]:
        """Yield the groups of the label sets that have no alert so far."""
        result = self._last_result(rule)
        if result is None:
            return
        for values in result.groups:
            if values not in known and values not in result.forgotten:
                labels = dict(zip(result.labels, values, strict=True))
                yield self._group(rule, labels)

    @property
    def _wait(self) -> float:
        return self._settings.grouping.group_wait

    def _is_soon(self, alert: Alert, rule: Rule) -> bool:
        return soonest_change(alert.lifecycle, rule.timing) <= self._wait

    def _group(self, rule: str, own: Mapping[str, str]) -> Group:
        """Return the values of the labels that define a message's group."""
        labels = self._settings.labels_of(rule, own)
        return tuple([labels.get(n, "") for n in self._settings.grouping.group_by])
