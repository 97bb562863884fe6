"""Backtests of one rule, optionally with another threshold."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Final

from msgspec import Meta, Struct

from kaywatch_agent.model.bounds import Count, Moment, Name
from kaywatch_agent.rules.describe import condition_text
from kaywatch_agent.rules.expression import Compare, Not, Predicate
from kaywatch_agent.rules.rule import Rule, Threshold
from kaywatch_agent.units import DURATION_PATTERN, parse_duration
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.problems import Problem, not_found
from kaywatch_agent.web.snapshot import AgentSnapshot
from kaywatch_agent.web.view import AgentView, BacktestError

__all__ = ["check_backtest", "run_backtest"]

MAX_EPISODES: Final = 500
MAX_SECONDS: Final = 30 * 86_400


class BacktestQuery(Struct, frozen=True):
    """One rule."""

    rule: Annotated[Name, Meta(min_length=1, description="The rule, percent-encoded.")]


class BacktestBody(Struct, frozen=True, forbid_unknown_fields=True):
    """A threshold in place of the rule's, and how far back to evaluate it.

    Without a threshold, the rule is evaluated as it is.
    """

    threshold: float | None = None
    since: Annotated[
        str,
        Meta(
            pattern=rf"^(?=.*[1-9]){DURATION_PATTERN}$",
            description="The length of the period, at most 30 days; more counts as 30.",
            examples=["24h", "7d"],
        ),
    ] = "24h"


# The check sees the live agent; the evaluation, in a thread, sees a snapshot only.
class BacktestRequest(Struct, frozen=True):
    """A checked request."""

    rule: Name
    threshold: float | None
    seconds: float


class BacktestEpisode(ResponseBody):
    """A period in which an alert would have fired; `end` is null while it lasts."""

    alert: str
    labels: dict[str, str]
    start: Moment
    end: Moment | None
    value: float | None


class BacktestResponse(ResponseBody):
    """The result of a rule between `start` and `end`.

    `total` is the number of episodes, of which the first 500 are listed.
    `notifications` counts messages about firing alerts, with repeats. `skipped` is why
    the rule cannot be evaluated over the past; empty if it can.
    """

    rule: str
    condition: str
    start: Moment
    end: Moment
    evaluations: Count
    total: Count
    notifications: Count
    skipped: str
    episodes: list[BacktestEpisode]


def check_backtest(
    agent: AgentView, query: BacktestQuery, body: BacktestBody
) -> BacktestRequest:
    """Validate a request.

    Raises:
        Problem: 404 for an unknown rule, 400 for a threshold that it does not have.
    """
    rules = agent.alerting.engine.settings.rules
    if query.rule not in rules:
        raise not_found("rule", query.rule, rules, "/api/v1/rules")
    if body.threshold is not None:
        _change_threshold(rules[query.rule], body.threshold)
    seconds = min(float(MAX_SECONDS), parse_duration(body.since))
    return BacktestRequest(query.rule, body.threshold, seconds)


def run_backtest(snapshot: AgentSnapshot, request: BacktestRequest) -> BacktestResponse:
    """Return the episodes and notifications that a rule would have caused.

    Raises:
        Problem: 503 when that cannot be evaluated now.
    """
    rule = snapshot.alerts().settings.rules[request.rule]
    if request.threshold is not None:
        rule = _change_threshold(rule, request.threshold)
    try:
        summary = snapshot.backtest(rule, snapshot.now - request.seconds)
    except BacktestError as error:
        raise Problem(
            503,
            "no_backtest",
            f"{rule.name}: {error}",
            "try again later, or with a shorter `since`; or `kaywatch rules backtest`",
        ) from None
    return BacktestResponse(
        rule=rule.name,
        condition=condition_text(rule),
        start=min(summary.start, snapshot.now),
        end=summary.end,
        evaluations=summary.evaluations,
        total=len(summary.episodes),
        notifications=summary.notifications,
        skipped=summary.skipped,
        episodes=[
            BacktestEpisode(**episode._asdict())
            for episode in summary.episodes[:MAX_EPISODES]
        ],
    )


# -- inside --------------------------------------------------------------------------


def _change_threshold(rule: Rule, threshold: float) -> Rule:
    """Return a rule with another threshold; its clear level keeps its ratio."""
    condition = rule.condition
    if not isinstance(condition, Threshold):
        raise _no_threshold(rule)
    breach, clear = condition.breach, condition.clear
    if not isinstance(breach, Compare):
        raise _no_threshold(rule)
    edited = breach._replace(value=threshold)
    level = threshold
    if clear == Not(breach):
        cleared: Predicate = Not(edited)
    elif isinstance(clear, Compare):
        # As the built-in rules do: their levels are shares of the threshold.
        level *= clear.value / breach.value if breach.value else 1.0
        cleared = clear._replace(value=level)
    else:
        raise _no_threshold(rule)
    return dataclasses.replace(
        rule,
        condition=Threshold(
            breach=edited,
            clear=cleared,
            metric=condition.metric,
            threshold=threshold,
            clear_at=None if condition.clear_at is None else level,
        ),
    )


def _no_threshold(rule: Rule) -> Problem:
    return Problem(
        400,
        "no_threshold",
        f"{rule.name}: its condition is not one comparison, so it has no threshold",
        "leave out threshold, or use `kaywatch rules backtest --config new.toml`",
    )
