"""Backtests over HTTP: one rule over the store, one at a time, for a limited time."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from kaywatch_agent.errors import StoreError
from kaywatch_agent.notify.config import ReceiverConfig
from kaywatch_agent.rules.rule import AlertSettings, Rule
from kaywatch_agent.simulation.backtest import BacktestReport, backtest, find_episodes
from kaywatch_agent.store.past import read_history
from kaywatch_agent.web.view import BacktestError, BacktestSummary, PastEpisode

__all__ = ["Backtester"]

# One of the two threads that build responses is busy meanwhile.
MAX_SECONDS: Final = 20.0


class Backtester:
    """Evaluates edited rules over the store, beside the writer."""

    def __init__(
        self,
        path: Path | None,
        settings: Callable[[], AlertSettings],
        receivers: Callable[[], Mapping[str, ReceiverConfig]] = dict,
    ) -> None:
        """Prepare to read a store.

        Args:
            path: its file; None without a store.
            settings: returns the settings in which a rule is evaluated.
            receivers: returns the receivers that the rule would notify.
        """
        self._path = path
        self._settings = settings
        self._receivers = receivers
        self._lock = threading.Lock()

    def run(self, rule: Rule, since: float) -> BacktestSummary:
        """Return the alerts and notifications of a rule since a time.

        Raises:
            BacktestError: nothing is stored yet, another backtest runs, or it takes too
                long.
        """
        if self._path is None:
            # Trying again would not help, so this is not a BacktestError.
            reason = "the agent stores nothing (store.path)"
            return BacktestSummary(since, time.time(), 0, (), 0, reason)
        if not self._lock.acquire(blocking=False):
            raise BacktestError("another backtest is running")
        settings = dataclasses.replace(self._settings(), rules={rule.name: rule})
        try:
            with read_history(self._path) as history:
                if not history.last:
                    raise BacktestError("no history is stored yet")
                report = backtest(
                    settings,
                    history,
                    since,
                    receivers=self._receivers(),
                    progress=_stop_after(time.monotonic() + MAX_SECONDS),
                )
        except StoreError as error:
            raise BacktestError(str(error)) from None
        finally:
            self._lock.release()
        return _summarize(report, rule)


def _stop_after(deadline: float) -> Callable[[float], None]:
    def check(share: float) -> None:
        if time.monotonic() > deadline:
            done = f"{100 * max(0.0, share):.0f} %"
            raise BacktestError(f"only {done} was done after {MAX_SECONDS:.0f} s")

    return check


def _summarize(report: BacktestReport, rule: Rule) -> BacktestSummary:
    episodes = [
        PastEpisode(one.alert, one.labels, one.start, one.end, one.value)
        for one in find_episodes(report.simulation)
    ]
    return BacktestSummary(
        start=report.start,
        end=report.end,
        evaluations=report.evaluations,
        episodes=episodes,
        notifications=sum(
            count
            for (_, _, kind), count in report.simulation.delivery.by_rule.items()
            if kind != "resolved"
        ),
        skipped=report.skipped.get(rule.name, ""),
    )
