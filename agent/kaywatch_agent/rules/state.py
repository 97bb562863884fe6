"""The life cycle of an alert: one enum and one transition table, without side effects.

    ok ──BREACH──▶ pending ──BREACH for `for`──▶ firing ──CLEAR──▶ recovering
    ▲                 │                            ▲                  │
    ├──BAND, CLEAR────┘                            └──────BREACH──────┤
    └────────────────CLEAR for `keep_firing_for`──────────────────────┘

Timers count observed time: the seconds that evaluations report as elapsed. A suspended
machine, a slow tick or a clock that jumps adds nothing to `for` or `keep_firing_for`.

Prometheus resolves an alert when its data disappears. Here UNKNOWN freezes the state
until `no_data_after` has been observed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from kaywatch_agent.model.alerts import NO_DATA

__all__ = [
    "AlertEvent",
    "AlertState",
    "ConditionStatus",
    "Lifecycle",
    "NextState",
    "OnNoData",
    "Timing",
    "advance",
    "end",
    "soonest_change",
]

OnNoData = Literal["keep", "ok", "alert"]


class AlertState(StrEnum):
    """The state of an alert."""

    OK = "ok"
    PENDING = "pending"  # the condition is met, but not yet for `for`
    FIRING = "firing"
    RECOVERING = "recovering"  # clear, but not yet for `keep_firing_for`


class ConditionStatus(StrEnum):
    """The result of one evaluation of a rule's condition."""

    BREACH = "breach"  # the condition is met
    BAND = "band"  # neither met nor clear
    CLEAR = "clear"
    UNKNOWN = "unknown"  # no data, or not enough


class AlertEvent(StrEnum):
    """The beginning or the end of an episode."""

    FIRED = "fired"
    RESOLVED = "resolved"


class Timing(NamedTuple):
    """The durations of a rule, in observed seconds.

    Attributes:
        for_: how long the condition must be met before the alert fires.
        keep_firing_for: how long the condition must be clear before the alert resolves.
        no_data_after: how long data may be missing before `on_no_data` applies.
        on_no_data: `keep` and `ok` resolve the alert; `alert` makes it fire.
    """

    for_: float = 0.0
    keep_firing_for: float = 0.0
    no_data_after: float = 600.0
    on_no_data: OnNoData = "keep"


# Two keys of the stored documents are older than the attributes' names.
class Lifecycle(
    Struct,
    frozen=True,
    kw_only=True,
    rename={"progress": "held", "no_data_for": "blind"},
):
    """The life cycle of one alert.

    Attributes:
        state: the current state.
        progress: observed seconds towards the next state.
        no_data_for: observed seconds without data.
        episode: the number of episodes so far.
        started: when the condition was first met, Unix seconds.
        fired: when the episode began, Unix seconds.
        ended: when the episode ended; None while it lasts.
        reason: why the episode ended, or `no_data` while it fires without data.
    """

    state: AlertState = AlertState.OK
    progress: float = 0.0
    no_data_for: float = 0.0
    episode: int = 0
    started: float = 0.0
    fired: float = 0.0
    ended: float | None = None
    reason: str = ""

    @property
    def is_firing(self) -> bool:
        """Whether an episode is in progress."""
        return self.state in (AlertState.FIRING, AlertState.RECOVERING)


NextState = tuple[Lifecycle, AlertEvent | None]


def advance(
    life: Lifecycle,
    status: ConditionStatus,
    elapsed: float,
    timing: Timing,
    now: float,
) -> NextState:
    """Return the life cycle after one evaluation, and the event that occurred, if any.

    Args:
        life: the life cycle before the evaluation.
        status: the result of the evaluation.
        elapsed: observed seconds since the previous evaluation.
        timing: the durations of the rule.
        now: Unix seconds, for display only.
    """
    if status is ConditionStatus.UNKNOWN:
        return _without_data(life, elapsed, timing, now)
    if life.no_data_for:
        life = replace(life, no_data_for=0.0)
    return _TABLE[life.state, status](life, elapsed, timing, now)


def soonest_change(life: Lifecycle, timing: Timing) -> float:
    """Return the fewest observed seconds after which an alert fires or resolves."""
    wait = timing.keep_firing_for if life.is_firing else timing.for_
    # Progress counts in these states only; in the others, it has yet to begin.
    is_under_way = life.state in (AlertState.PENDING, AlertState.RECOVERING)
    return wait - life.progress if is_under_way else wait


def end(life: Lifecycle, reason: str, now: float) -> NextState:
    """Return the life cycle after the alert's rule or series has been removed."""
    if not life.is_firing:
        return _to_ok(life), None
    return _resolve(life, reason, now)


# -- inside --------------------------------------------------------------------------


def _stay(life: Lifecycle, *_: object) -> NextState:
    return life, None


def _begin(life: Lifecycle, _: float, timing: Timing, now: float) -> NextState:
    pending = replace(
        life,
        state=AlertState.PENDING,
        progress=0.0,
        started=now,
        ended=None,
        reason="",
    )
    return (pending, None) if timing.for_ > 0 else _fire(pending, now)


def _continue_pending(
    life: Lifecycle, elapsed: float, timing: Timing, now: float
) -> NextState:
    life = replace(life, progress=life.progress + elapsed)
    return (life, None) if life.progress < timing.for_ else _fire(life, now)


def _abandon(life: Lifecycle, *_: object) -> NextState:
    return _to_ok(life), None


def _continue_firing(life: Lifecycle, *_: object) -> NextState:
    # Data came back after `no_data`, so that is no longer the reason.
    return (replace(life, reason="") if life.reason else life), None


def _recover(life: Lifecycle, _: float, timing: Timing, now: float) -> NextState:
    if timing.keep_firing_for <= 0:
        return _resolve(life, "cleared", now)
    return replace(life, state=AlertState.RECOVERING, progress=0.0), None


def _relapse(life: Lifecycle, *_: object) -> NextState:
    return replace(life, state=AlertState.FIRING, progress=0.0, reason=""), None


def _restart_recovery(life: Lifecycle, *_: object) -> NextState:
    return replace(life, progress=0.0), None


def _continue_recovery(
    life: Lifecycle, elapsed: float, timing: Timing, now: float
) -> NextState:
    progress = life.progress + elapsed
    if progress < timing.keep_firing_for:
        return replace(life, progress=progress), None
    return _resolve(life, "cleared", now)


_TABLE: Final[
    Mapping[
        tuple[AlertState, ConditionStatus],
        Callable[[Lifecycle, float, Timing, float], NextState],
    ]
] = {
    (AlertState.OK, ConditionStatus.BREACH): _begin,
    (AlertState.OK, ConditionStatus.BAND): _stay,
    (AlertState.OK, ConditionStatus.CLEAR): _stay,
    (AlertState.PENDING, ConditionStatus.BREACH): _continue_pending,
    (AlertState.PENDING, ConditionStatus.BAND): _abandon,
    (AlertState.PENDING, ConditionStatus.CLEAR): _abandon,
    (AlertState.FIRING, ConditionStatus.BREACH): _continue_firing,
    (AlertState.FIRING, ConditionStatus.BAND): _continue_firing,
    (AlertState.FIRING, ConditionStatus.CLEAR): _recover,
    (AlertState.RECOVERING, ConditionStatus.BREACH): _relapse,
    (AlertState.RECOVERING, ConditionStatus.BAND): _restart_recovery,
    (AlertState.RECOVERING, ConditionStatus.CLEAR): _continue_recovery,
}


def _without_data(
    life: Lifecycle, elapsed: float, timing: Timing, now: float
) -> NextState:
    # Progress is kept: one evaluation without data does not restart `for`.
    life = replace(life, no_data_for=life.no_data_for + elapsed)
    if life.no_data_for <= timing.no_data_after:
        return life, None
    if timing.on_no_data == "alert":
        if life.is_firing:
            return replace(life, reason=NO_DATA), None
        # A pending alert already knows when its condition was first met.
        started = life.started if life.state is AlertState.PENDING else now
        return _fire(replace(life, started=started), now, NO_DATA)
    if life.is_firing:
        return _resolve(life, "no_data", now)
    # An alert that is ok keeps counting.
    return (life if life.state is AlertState.OK else _to_ok(life)), None


def _fire(life: Lifecycle, now: float, reason: str = "") -> NextState:
    firing = replace(
        life,
        state=AlertState.FIRING,
        progress=0.0,
        episode=life.episode + 1,
        fired=now,
        ended=None,
        reason=reason,
    )
    return firing, AlertEvent.FIRED


def _resolve(life: Lifecycle, reason: str, now: float) -> NextState:
    resolved = replace(
        life, state=AlertState.OK, progress=0.0, ended=now, reason=reason
    )
    return resolved, AlertEvent.RESOLVED


def _to_ok(life: Lifecycle) -> Lifecycle:
    return replace(life, state=AlertState.OK, progress=0.0)
