"""Who is told what after an evaluation, and what has to be kept of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec

from kaywatch_agent.model.alerts import Alert, NotificationRequest, Severity
from kaywatch_agent.rules.decide import (
    FLAPS,
    Decision,
    decide,
    held_back,
    rank,
    told,
)
from kaywatch_agent.rules.describe import describe, labels_of
from kaywatch_agent.rules.instance import Held, Instance, Reason
from kaywatch_agent.rules.matchers import matches
from kaywatch_agent.rules.round import CLOCK, Book, Clock, Document, Round, Turn
from kaywatch_agent.rules.rule import Inhibition, Rule, Settings
from kaywatch_agent.rules.silence import Silence, covering
from kaywatch_agent.rules.state import State

__all__ = ["Evaluation", "tell"]

# Timers that go on are written down so often, in seconds; all else at once.
WRITE_SECONDS: Final = 10.0

# What ended and was told is remembered for a day: for cooldowns, and for `why`.
REMEMBER_SECONDS: Final = 86_400.0


class Evaluation(NamedTuple):
    """What one evaluation did.

    Attributes:
        notices: who is to be told what.
        documents: what is to be kept, by kind and id; None for what is gone.
        suppressed: how many notices were held back, by reason.
        refused: how many alerts were too many, by rule.
        turns: which alerts went from one state to another.
    """

    notices: list[NotificationRequest]
    documents: dict[Document, bytes | None]
    suppressed: Counter[str]
    refused: Counter[str]
    turns: Sequence[Turn] = ()


def tell(
    book: Book,
    settings: Settings,
    round_: Round,
    silences: Mapping[str, Silence],
    least: Mapping[str, Severity],
    host: str,
) -> Evaluation:
    """Decide who is told what, and return what an evaluation comes to."""
    return _Telling(book, settings, round_, silences, least, host).evaluation()


class _Telling:
    def __init__(
        self,
        book: Book,
        settings: Settings,
        round_: Round,
        silences: Mapping[str, Silence],
        least: Mapping[str, Severity],
        host: str,
    ) -> None:
        self._book = book
        self._settings = settings
        self._round = round_
        self._silences = [
            silence
            for silence in (*settings.silences, *silences.values())
            if silence.holds(round_.now)
        ]
        self._least = least
        self._host = host
        self._suppressed: Counter[str] = Counter()

        self._gone: list[str] = []
        self._quiet = Quiet(
            settings.inhibitions,
            (
                (instance.id, labels_of_all(instance, settings))
                for instance in book.instances.values()
                if settings.inhibitions and instance.life.burning
            ),
        )

    def evaluation(self) -> Evaluation:
        notices: list[NotificationRequest] = []
        for instance in self._book.instances.values():
            notices += self._tell(instance)
        self._forget()
        return Evaluation(
            notices,
            self._documents(),
            self._suppressed,
            self._round.refused,
            self._round.turns,
        )

    def _tell(self, instance: Instance) -> Iterator[NotificationRequest]:
        rule = self._settings.rules.get(instance.rule)
        clock = self._book.clock
        decisions = decide(instance, rule, partial(self._held, instance, rule), clock)
        self._hold_back(instance, decisions)
        for decision in decisions:
            if decision.kind is not None:
                instance.told[decision.receiver] = told(instance, decision, clock)
                text = f"{decision.receiver} is told: {decision.kind}"
                instance.say(self._round.now, text)
                self._round.dirty[instance.id] = instance
                yield NotificationRequest(
                    decision.receiver, decision.kind, self._alert(instance, rule)
                )

    def _held(
        self, instance: Instance, rule: Rule | None, receiver: str
    ) -> Held | None:
        """Return why a receiver must not be told that an alert fires."""
        labels = labels_of_all(instance, self._settings)
        silence = covering(self._silences, labels, self._round.now)
        if silence is not None:
            text = silence.comment or "no comment"
            text = f"by {silence.created_by or silence.id}: {text}"
            left = silence.ends_at.timestamp() - self._round.now
            until = self._book.clock + left
            return Held(Reason.SILENCED, text, until, silence.id)
        name, source = self._quiet.source(labels)
        if name:
            return Held(Reason.INHIBITED, f"while {source} fires", by=name)
        least = self._least.get(receiver)
        if rule and least and rank(rule.severity) < rank(least):
            return Held(Reason.SEVERITY, f"it is only told of {least} and worse")
        return None

    def _hold_back(self, instance: Instance, decisions: Iterable[Decision]) -> None:
        held = held_back(decisions)
        if held == instance.held:
            return
        for receiver, why in held.items():
            before = instance.held.get(receiver)
            if before is None or (before.reason, before.by) != (why.reason, why.by):
                self._suppressed[why.reason] += 1
                instance.say(self._round.now, f"{receiver} is not told: {why}")
                self._round.dirty[instance.id] = instance
        instance.held = held

    def _alert(self, instance: Instance, rule: Rule | None) -> Alert:
        flapping = instance.flaps(self._book.clock) >= FLAPS
        return describe(instance, rule, self._settings, self._host, flapping)

    def _forget(self) -> None:
        """Drop the alerts of which nothing has to be remembered any more."""
        book, now = self._book, self._round.now
        for key, instance in list(book.instances.items()):
            if instance.life.state is not State.OK:
                continue
            ended = instance.life.ended
            recent = ended is not None and now - ended < REMEMBER_SECONDS
            known = instance.told.values()
            if not recent and all(book.clock - t.at > REMEMBER_SECONDS for t in known):
                del book.instances[key]
                self._gone.append(instance.id)

    def _documents(self) -> dict[Document, bytes | None]:
        book = self._book
        due = {
            name: instance
            for name, instance in self._round.ticking.items()
            if book.clock - book.written.get(name, -math.inf) >= WRITE_SECONDS
        }
        found: dict[Document, bytes | None] = {}
        for name, instance in {**due, **self._round.dirty}.items():
            found["alert", name] = msgspec.json.encode(instance)
            book.written[name] = book.clock
        for name in self._gone:
            found["alert", name] = None
            book.written.pop(name, None)
        if found or book.clock - book.written.get(CLOCK, -math.inf) >= WRITE_SECONDS:
            clock = Clock(book.clock, self._round.now)
            found[CLOCK, CLOCK] = msgspec.json.encode(clock)
            book.written[CLOCK] = book.clock
        return found


Source = tuple[str, str]  # an alert's id, and its rule


class Quiet:
    """Which alerts keep others quiet, looked up by the labels that have to agree."""

    def __init__(
        self,
        inhibitions: Iterable[Inhibition],
        burning: Iterable[tuple[str, Mapping[str, str]]],
    ) -> None:
        """Take in the ids and labels of all alerts that fire."""
        self._sources: list[tuple[Inhibition, dict[tuple[str, ...], Source]]] = [
            (inhibition, {}) for inhibition in inhibitions
        ]
        for name, labels in burning:
            source = (name, labels["alertname"])
            for inhibition, known in self._sources:
                if matches(inhibition.source, labels):
                    known.setdefault(_equal(inhibition, labels), source)

    def source(self, labels: Mapping[str, str]) -> Source:
        """Return the id and the rule of an alert that keeps one quiet; empty for none.

        An alert that is on both sides of an inhibition does not inhibit itself, nor
        others like it, as in Alertmanager.
        """
        for inhibition, known in self._sources:
            if matches(inhibition.target, labels) and not matches(
                inhibition.source, labels
            ):
                found = known.get(_equal(inhibition, labels))
                if found is not None:
                    return found
        return "", ""


def labels_of_all(instance: Instance, settings: Settings) -> dict[str, str]:
    """Return the labels of an alert, with `alertname` and `severity`."""
    rule = settings.rules.get(instance.rule)
    return {
        **labels_of(instance, rule, settings),
        "alertname": instance.rule,
        "severity": rule.severity if rule else "warning",
    }


def _equal(inhibition: Inhibition, labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple([labels.get(name, "") for name in inhibition.equal])
