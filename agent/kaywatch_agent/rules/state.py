"""The life of an alert: one enum, one table, pure.

    ok ──BREACH──▶ pending ──held for `for`──▶ firing ──CLEAR──▶ recovering
    ▲                 │                          ▲                  │
    ├──BAND, CLEAR────┘                          └──────BREACH──────┤
    └────────────────clear for `keep_firing_for`────────────────────┘

Time is observed time: the seconds that evaluations add up. A suspended machine, a slow
tick or a clock that jumps is no time in which a condition held.

Prometheus resolves what it can't see; here UNKNOWN freezes a state, until
`no_data_after` has been observed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, Literal, NamedTuple

import msgspec

__all__ = [
    "AlertEvent",
    "ConditionStatus",
    "Lifecycle",
    "NoData",
    "AlertState",
    "Timing",
    "advance",
    "end",
]

NoData = Literal["keep", "ok", "alert"]


class AlertState(StrEnum):
    """Where an alert is in its life."""

    OK = "ok"
    PENDING = "pending"  # the condition is met, but not for long enough
    FIRING = "firing"
    RECOVERING = "recovering"  # clear, but not for long enough


class ConditionStatus(StrEnum):
    """What one evaluation found."""

    BREACH = "breach"  # the condition is met
    BAND = "band"  # neither met nor clear
    CLEAR = "clear"
    UNKNOWN = "unknown"  # no data, or not enough of it


class AlertEvent(StrEnum):
    """That an episode began or ended."""

    FIRED = "fired"
    RESOLVED = "resolved"


class Timing(NamedTuple):
    """How long what has to last, in observed seconds.

    Attributes:
        hold: `for`, how long the condition has to be met.
        keep: `keep_firing_for`, how long it has to be clear.
        blind: `no_data_after`, how long nothing may be known.
        no_data: what happens then.
    """

    hold: float = 0.0
    keep: float = 0.0
    blind: float = 600.0
    no_data: NoData = "keep"


class Lifecycle(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one alert.

    Attributes:
        state: where it is.
        held: observed seconds towards the next state.
        blind: observed seconds without knowing.
        episode: how often it has fired.
        started: when the condition was met first, Unix seconds.
        fired: when the episode began.
        ended: when it ended; None while it lasts.
        reason: why it ended, or fires without data.
    """

    state: AlertState = AlertState.OK
    held: float = 0.0
    blind: float = 0.0
    episode: int = 0
    started: float = 0.0
    fired: float = 0.0
    ended: float | None = None
    reason: str = ""

    @property
    def is_firing(self) -> bool:
        """Whether an episode is under way."""
        return self.state in (AlertState.FIRING, AlertState.RECOVERING)


Step = tuple[Lifecycle, AlertEvent | None]


def advance(
    life: Lifecycle,
    finding: ConditionStatus,
    elapsed: float,
    timing: Timing,
    now: float,
) -> Step:
    """Return the life after one evaluation, and what it crossed.

    Args:
        life: before it.
        finding: what it found.
        elapsed: observed seconds since the last one.
        timing: the rule's.
        now: Unix seconds, for what is shown.
    """
    if finding is ConditionStatus.UNKNOWN:
        return _not_knowing(life, elapsed, timing, now)
    if life.blind:
        life = msgspec.structs.replace(life, blind=0.0)
    return _TABLE[life.state, finding](life, elapsed, timing, now)


def end(life: Lifecycle, reason: str, now: float) -> Step:
    """Return the life after its rule or its series is gone."""
    if not life.is_firing:
        return _to_ok(life), None
    return _resolved(life, reason, now)


# -- inside --------------------------------------------------------------------------


def _same(life: Lifecycle, *_: object) -> Step:
    return life, None


def _begin(life: Lifecycle, _: float, timing: Timing, now: float) -> Step:
    begun = msgspec.structs.replace(
        life, state=AlertState.PENDING, held=0.0, started=now, ended=None, reason=""
    )
    return (begun, None) if timing.hold > 0 else _fired(begun, now)


def _hold(life: Lifecycle, elapsed: float, timing: Timing, now: float) -> Step:
    held = life.held + elapsed
    life = msgspec.structs.replace(life, held=held)
    return (life, None) if held < timing.hold else _fired(life, now)


def _drop(life: Lifecycle, *_: object) -> Step:
    return _to_ok(life), None


def _recover(life: Lifecycle, _: float, timing: Timing, now: float) -> Step:
    if timing.keep <= 0:
        return _resolved(life, "cleared", now)
    return msgspec.structs.replace(life, state=AlertState.RECOVERING, held=0.0), None


def _relapse(life: Lifecycle, *_: object) -> Step:
    return msgspec.structs.replace(
        life, state=AlertState.FIRING, held=0.0, reason=""
    ), None


def _keep_up(life: Lifecycle, *_: object) -> Step:
    """Firing goes on; data that came back takes the place of `no_data`."""
    if not life.reason:
        return life, None
    return msgspec.structs.replace(life, reason=""), None


def _waver(life: Lifecycle, *_: object) -> Step:
    return msgspec.structs.replace(life, held=0.0), None


def _settle(life: Lifecycle, elapsed: float, timing: Timing, now: float) -> Step:
    held = life.held + elapsed
    if held < timing.keep:
        return msgspec.structs.replace(life, held=held), None
    return _resolved(life, "cleared", now)


_TABLE: Final[
    Mapping[
        tuple[AlertState, ConditionStatus],
        Callable[[Lifecycle, float, Timing, float], Step],
    ]
] = {
    (AlertState.OK, ConditionStatus.BREACH): _begin,
    (AlertState.OK, ConditionStatus.BAND): _same,
    (AlertState.OK, ConditionStatus.CLEAR): _same,
    (AlertState.PENDING, ConditionStatus.BREACH): _hold,
    (AlertState.PENDING, ConditionStatus.BAND): _drop,
    (AlertState.PENDING, ConditionStatus.CLEAR): _drop,
    (AlertState.FIRING, ConditionStatus.BREACH): _keep_up,
    (AlertState.FIRING, ConditionStatus.BAND): _keep_up,
    (AlertState.FIRING, ConditionStatus.CLEAR): _recover,
    (AlertState.RECOVERING, ConditionStatus.BREACH): _relapse,
    (AlertState.RECOVERING, ConditionStatus.BAND): _waver,
    (AlertState.RECOVERING, ConditionStatus.CLEAR): _settle,
}


def _not_knowing(life: Lifecycle, elapsed: float, timing: Timing, now: float) -> Step:
    blind = life.blind + elapsed
    known = msgspec.structs.replace(life, blind=blind)
    if blind <= timing.blind:
        return known, None
    if timing.no_data == "alert":
        if life.is_firing:
            return msgspec.structs.replace(known, reason="no_data"), None
        started = life.started if life.state is AlertState.PENDING else now
        fired, crossing = _fired(
            msgspec.structs.replace(known, started=started, ended=None), now
        )
        return msgspec.structs.replace(fired, reason="no_data"), crossing
    if life.is_firing:
        return _resolved(known, "no_data", now)
    # An alert that is ok goes on counting: it may yet be forgotten.
    return (known, None) if life.state is AlertState.OK else (_to_ok(known), None)


def _fired(life: Lifecycle, now: float) -> Step:
    begun = msgspec.structs.replace(
        life,
        state=AlertState.FIRING,
        held=0.0,
        episode=life.episode + 1,
        fired=now,
        ended=None,
        reason="",
    )
    return begun, AlertEvent.FIRED


def _resolved(life: Lifecycle, reason: str, now: float) -> Step:
    ended = msgspec.structs.replace(
        life, state=AlertState.OK, held=0.0, ended=now, reason=reason
    )
    return ended, AlertEvent.RESOLVED


def _to_ok(life: Lifecycle) -> Lifecycle:
    return msgspec.structs.replace(life, state=AlertState.OK, held=0.0)
