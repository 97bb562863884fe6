"""Calls of language models: usage, cost, duration and outcome.

Strategy: a `Call` is opened where the call is made, and notes the node, the attempt and
the run that make it. What is known at its end is attributed to these, even if it ends
in another thread or later than the node.
"""

from __future__ import annotations

import math
import time
from typing import Any, Final

from kaywatch import prices
from kaywatch._llm.costs import CostEntry, attempt_cost_of, run_costs_of
from kaywatch._llm.meter import Meter
from kaywatch._llm.usage import Usage
from kaywatch._process import process
from kaywatch._spans.runs import current_run
from kaywatch._spans.spans import current_span
from kaywatch._wrappers import warn_once
from kaywatch.wire import MAX_NAME

__all__ = ["Call", "record_llm"]

TOO_MANY_REQUESTS: Final = 429

_clock: Final = time.perf_counter


class Call:
    """One call of a language model, from its start to its end.

    Args:
        model: the requested model, which splits the metrics.

    Attributes:
        served_model: the model that answered, if known. Its price is used if the
            requested model has none.
        seconds: the duration so far, None while unknown.
        first_token_seconds: the time to the first token, of a stream.
    """

    __slots__ = (
        "_attempt_cost",
        "_meter",
        "_open",
        "_run_costs",
        "first_token_seconds",
        "model",
        "seconds",
        "served_model",
        "started",
    )

    def __init__(self, model: str) -> None:
        span = current_span.get()
        graph, node = (span.series.graph, span.series.node) if span else ("", "")
        self.model = model
        self.served_model = ""
        self.seconds: float | None = None
        self.first_token_seconds: float | None = None
        self._open = [None]  # the thread that pops it records the end
        self._meter = Meter(graph, node, model)
        self._attempt_cost = attempt_cost_of(span) if span is not None else None
        self._run_costs = run_costs_of(current_run.get())
        for run_cost in self._run_costs:
            run_cost.begin()
        self.started = _clock()

    def touch(self) -> None:
        """Note that the call is still in progress."""
        self.seconds = _clock() - self.started

    def count_rate_limited(self) -> None:
        """Count an answer with status 429."""
        self._meter.add("llm_rate_limited")

    def end(
        self,
        usage: Usage | None,
        *,
        is_complete: bool = True,
        error: BaseException | str | None = None,
        cost: float | None = None,
    ) -> None:
        """Record the call, the first time this is called.

        Args:
            usage: its tokens, None if unknown.
            is_complete: whether these are all of them.
            error: why it failed, if it did.
            cost: US dollars, if known; else they are computed from the prices.
        """
        try:
            self._open.pop()
        except IndexError:
            return
        self._count(usage, is_complete, error)
        if usage is not None and cost is None:
            cost = self._price(usage)
        self._charge(usage or Usage(), cost)

    def _count(
        self, usage: Usage | None, is_complete: bool, error: BaseException | str | None
    ) -> None:
        meter = self._meter
        meter.add("llm_calls")
        if self.seconds is not None:
            meter.observe("llm_seconds", self.seconds)
        if self.first_token_seconds is not None:
            meter.observe("llm_first_token_seconds", self.first_token_seconds)
        if error is not None:
            error_type, status = _error_labels(error)
            meter.add("llm_errors", type=error_type, status=status)
            if status == str(TOO_MANY_REQUESTS):
                self.count_rate_limited()
        elif usage is None or not is_complete:
            meter.add("llm_calls_without_usage")
        if usage is not None:
            meter.add("llm_input_tokens", usage.input)
            meter.add("llm_output_tokens", usage.output)
            if usage.cached:
                meter.add("llm_cached_tokens", usage.cached)

    def _price(self, usage: Usage) -> float | None:
        if not usage.input and not usage.output:
            return None
        price = prices.find(self.model) or prices.find(self.served_model)
        if price is None:
            self._meter.add("llm_unpriced_calls")
            return None
        return price.cost(*usage)

    def _charge(self, usage: Usage, cost: float | None) -> None:
        if cost is not None:
            self._meter.add("llm_cost_usd", cost)
        if self._attempt_cost is not None and (usage.input or usage.output or cost):
            self._attempt_cost.add(
                CostEntry(self._meter, usage.input, usage.output, cost or 0.0)
            )
        for run_cost in self._run_costs:
            run_cost.add(cost, usage.input + usage.output)


def record_llm(
    *,
    model: str,
    input_tokens: float = 0,
    output_tokens: float = 0,
    cached_tokens: float = 0,
    cost_usd: float | None = None,
    seconds: float | None = None,
    first_token_seconds: float | None = None,
    error: BaseException | str | None = None,
) -> None:
    """Record one call of a language model by the node in progress.

    For calls that `instrument` does not record: it covers those of the `openai` and
    `anthropic` packages. Never raises or blocks.

    Args:
        model: the model's name, which splits the metrics.
        input_tokens: tokens of the prompt, cached ones included.
        output_tokens: tokens of the answer.
        cached_tokens: tokens of the prompt that came from the provider's cache.
        cost_usd: the cost in US dollars; computed from the prices by default, see
            `kaywatch.configure`.
        seconds: the duration.
        first_token_seconds: the time to the first token, of a stream.
        error: why it failed: an exception, or its type's name.

    Example:
        kaywatch.record_llm(
            model="large", input_tokens=900, output_tokens=200, seconds=1.2
        )
    """
    if not process.settings.enabled:
        return
    try:
        call = Call(str(model)[:MAX_NAME])
        call.seconds = _amount(seconds)
        call.first_token_seconds = _amount(first_token_seconds)
        usage = Usage(
            _amount(input_tokens) or 0.0,
            _amount(output_tokens) or 0.0,
            _amount(cached_tokens) or 0.0,
        )
        is_known = error is None or any(usage)
        call.end(usage if is_known else None, error=error, cost=_amount(cost_usd))
    except Exception:  # noqa: BLE001 - a __str__ of the application's
        warn_once("a call of record_llm")


def _amount(value: Any) -> float | None:
    """Return a finite number that isn't negative, None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number < math.inf else None


def _error_labels(error: BaseException | str) -> tuple[str, str]:
    """Return an error's type and HTTP status, the latter empty if it has none."""
    if isinstance(error, BaseException):
        status = getattr(error, "status_code", None)
        return type(error).__name__, str(status) if isinstance(status, int) else ""
    return str(error)[:MAX_NAME], ""
