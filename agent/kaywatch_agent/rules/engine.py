"""All alerts: evaluated, remembered, and told of. Pure: `now` is an argument.

    Scene -> evaluate -> Finding -> state.advance -> decide -> Notice

`evaluate` may run beside the loop: nothing else touches the alerts meanwhile, and what
it hands over is frozen. Rules and silences are swapped whole.

The alerts' own clock adds up the seconds that pass, downtime included, and never goes
back: cooldowns survive a wall clock that jumps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from kaywatch_agent.model.alerts import Alert, Severity
from kaywatch_agent.rules.decide import FLAPS
from kaywatch_agent.rules.describe import describe
from kaywatch_agent.rules.evaluate import Found, evaluate, prepare
from kaywatch_agent.rules.instance import Instance
from kaywatch_agent.rules.round import CLOCK, Book, Clock, Document, Round
from kaywatch_agent.rules.rule import Absence, Rule, Settings, Stuck, Threshold
from kaywatch_agent.rules.scene import Scene, Windows
from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.rules.tell import Evaluation, tell

__all__ = ["Engine"]

# A window of an hour need not be looked at each second.
REFRESH_SHARE: Final = 300.0
MAX_REFRESH: Final = 60.0

# Memory and CPU of processes are read so often.
SAMPLE_SECONDS: Final = 10.0

# Evaluations may be this far apart, and all of it counts as observed.
MAX_STEP: Final = 15.0

# As Prometheus tells an Alertmanager of what is over: rules/alerting.go.
ENDED_SECONDS: Final = 900.0


class Engine:
    """The alerts of one agent.

    Attributes:
        settings: rules, and what else is set.
        silences: by id.
        least: by receiver, the least severity that it wants to hear of.
        max_step: evaluations may be so many seconds apart, and twice that counts as
            observed.
    """

    def __init__(
        self, settings: Settings, *, host: str = "", least: Mapping[str, Severity]
    ) -> None:
        """Begin without any alert.

        Args:
            settings: rules, and what else is set.
            host: where the agent runs, for those who read.
            least: by receiver, the least severity that it wants to hear of.
        """
        self.settings = settings
        self.silences: Mapping[str, Silence] = {}
        self.least = least
        self._book = Book()
        self._host = host
        self._windows = Windows()
        self._prepared: Settings | None = None
        self._found: dict[str, tuple[float, Found]] = {}
        self._refused: Mapping[str, int] = {}  # at the last evaluation, by rule
        self._last: float | None = None  # monotonic seconds of the last evaluation
        self.max_step = MAX_STEP

    # -- over restarts -----------------------------------------------------------------

    def restore(
        self, documents: Mapping[Document, bytes], now: float, mono: float
    ) -> float:
        """Go on from what was kept before a restart.

        Args:
            documents: of the kinds `alert`, `silence` and `clock`.
            now: Unix seconds.
            mono: seconds of the clock that `evaluate` gets.

        Returns:
            For how many seconds nobody looked.
        """
        away = 0.0
        self._last = mono
        for (kind, name), data in documents.items():
            if kind == "alert":
                instance = msgspec.json.decode(data, type=Instance)
                self._book.instances[instance.key] = instance
            elif kind == "silence":
                silence = msgspec.json.decode(data, type=Silence)
                self.silences = {**self.silences, name: silence}
            elif kind == CLOCK:
                clock = msgspec.json.decode(data, type=Clock)
                away = max(0.0, now - clock.wall)
                self._book.clock = clock.seconds + away
        return away

    def documents(self, now: float) -> dict[Document, bytes | None]:
        """Return all that is to be kept."""
        kept: dict[Document, bytes | None] = {
            ("alert", instance.id): msgspec.json.encode(instance)
            for instance in list(self._book.instances.values())
        }
        for name, silence in self.silences.items():
            kept["silence", name] = msgspec.json.encode(silence)
        kept[CLOCK, CLOCK] = msgspec.json.encode(Clock(self._book.clock, now))
        return kept

    # -- at work -----------------------------------------------------------------------

    def evaluate(self, scene: Scene, mono: float) -> Evaluation:
        """Evaluate all rules, and decide who is told what.

        Args:
            scene: what there is to see.
            mono: seconds of a clock that never goes back.
        """
        settings = self.settings
        passed = 0.0 if self._last is None else max(0.0, mono - self._last)
        self._last = mono
        self._book.clock += passed
        # A suspended machine is no time in which a condition was observed.
        elapsed = min(passed, 2.0 * max(settings.interval, self.max_step))
        self._prepare(settings)
        self._windows.look(scene._replace(refused=self._refused))
        round_ = Round(self._book, settings, self._windows, elapsed)
        for rule in settings.rules.values():
            round_.judge(rule, self._findings(rule, mono))
        round_.orphans()
        # Of a rule that is gone none are refused, which is not the same as unknown.
        none = dict.fromkeys([*self._refused, *settings.rules], 0)
        self._refused = {**none, **round_.refused}
        return tell(self._book, settings, round_, self.silences, self.least, self._host)

    def story(self, name: str) -> Instance | None:
        """Return an alert by its id."""
        for instance in list(self._book.instances.values()):
            if instance.id == name:
                return instance
        return None

    def alerts(self, receiver: str, now: float) -> list[Alert]:
        """Return what a receiver has to know of: what fires, and what ended lately."""
        return [
            self.describe(instance)
            for instance in self.instances
            if receiver in instance.told
            and (
                instance.life.burning
                or now - (instance.life.ended or 0.0) < ENDED_SECONDS
            )
        ]

    def describe(self, instance: Instance) -> Alert:
        """Return the facts about an alert."""
        rule = self.settings.rules.get(instance.rule)
        flapping = instance.flaps(self.clock) >= FLAPS
        return describe(instance, rule, self.settings, self._host, flapping)

    def found(self, rule: str) -> Found | None:
        """Return what a rule found last; None before the first time."""
        known = self._found.get(rule)
        return None if known is None else known[1]

    @property
    def clock(self) -> float:
        """The alerts' own clock, in seconds."""
        return self._book.clock

    @property
    def instances(self) -> Sequence[Instance]:
        """All alerts that something is remembered of."""
        return list(self._book.instances.values())

    # -- inside ------------------------------------------------------------------------

    def _prepare(self, settings: Settings) -> None:
        if self._prepared is not settings:
            self._prepared = settings
            self._windows = Windows()
            self._found.clear()
            for rule in settings.rules.values():
                prepare(rule, self._windows)

    def _findings(self, rule: Rule, mono: float) -> Found:
        """Return what a rule finds; the last time's, where little can have changed."""
        known = self._found.get(rule.name)
        refresh = _refresh(rule)
        if known is not None and mono - known[0] < refresh - 0.5:
            return known[1]
        found = evaluate(rule, self._windows)
        self._found[rule.name] = (mono, found)
        return found


def _refresh(rule: Rule) -> float:
    """Return how many seconds what a rule found is good for."""
    match rule.test:
        case Stuck() | Absence():
            return 0.0
        case Threshold(metric="memory_rss" | "cpu_percent", sources=(_,)):
            return SAMPLE_SECONDS / 2
    return min(MAX_REFRESH, rule.window / REFRESH_SHARE)
