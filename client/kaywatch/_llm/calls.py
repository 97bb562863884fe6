"""Calls of language models: what each used and cost, how long it took, how it ended.

Strategy: a `Call` is opened where the call is made and notes the node, the attempt and
the run that make it. What is known at its end, be that in another thread or after the
node's, is attributed to these.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from kaywatch import prices
from kaywatch._llm.costs import CostEntry, attempt_cost_of, run_costs_of
from kaywatch._process import process
from kaywatch._spans.runs import current_run
from kaywatch._spans.spans import current_span
from kaywatch._wrappers import warn_once
from kaywatch.wire import MAX_NAME

__all__ = ["Call", "Usage", "record_llm"]

TOO_MANY_REQUESTS: Final = 429

_clock: Final = time.perf_counter


class Usage(NamedTuple):
    """Tokens of one call.

    Attributes:
        input: of the prompt: all of them, those below included.
        output: of the answer, reasoning included.
        cached: of the prompt, read from the provider's cache.
        written: of the prompt, written to the cache for minutes.
        written_long: of the prompt, written to the cache for an hour.
    """

    input: float = 0.0
    output: float = 0.0
    cached: float = 0.0
    written: float = 0.0
    written_long: float = 0.0


class Meter:
    """The metrics of one model's calls by one node."""

    __slots__ = ("_adds", "_graph", "_model", "_node")

    def __init__(self, graph: str, node: str, model: str) -> None:
        self._graph = graph
        self._node = node
        self._model = model
        self._adds: dict[tuple[str, ...], Callable[[float], None]] = {}

    def count(self, name: str, value: float = 1.0) -> None:
        """Add to a running sum."""
        self._add("count", name)(value)

    def observe(self, name: str, value: float) -> None:
        """Record one value of a distribution."""
        self._add("observe", name)(value)

    def error(self, type: str, status: str) -> None:
        """Count a call that failed, by type of error and HTTP status, if any."""
        self._add("count", "llm_errors", type, status)(1.0)

    def wasted(self, input: float, output: float, cost: float) -> None:
        """Count tokens and US dollars that a failed attempt used."""
        self.count("llm_wasted_input_tokens", input)
        self.count("llm_wasted_output_tokens", output)
        if cost:
            self.count("llm_wasted_cost_usd", cost)

    def _add(
        self, kind: str, name: str, type: str = "", status: str = ""
    ) -> Callable[[float], None]:
        found = self._adds.get((name, type, status))
        if found is None:
            labels = {"model": self._model, "type": type, "status": status}
            given = {key: text for key, text in labels.items() if text}
            found = self._adds[name, type, status] = process.recorder.point(
                kind, name, self._graph, self._node, given
            )
        return found


# Bounded, as the models' names are the application's; the recorder bounds the series.
meter_of: Final = lru_cache(maxsize=1_024)(Meter)


class Call:
    """One call of a language model, from its start to its end.

    Args:
        model: as asked for; the figures are by this name.

    Attributes:
        served: the model that answered, if it says so: priced if the other isn't.
        seconds: how long it took, as far as known.
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
        "served",
        "started",
    )

    def __init__(self, model: str) -> None:
        span = current_span.get()
        graph, node = (span.series.graph, span.series.node) if span else ("", "")
        self.model = model
        self.served = ""
        self.seconds: float | None = None
        self.first_token_seconds: float | None = None
        self._open = [None]  # whoever pops it records the end
        self._meter = meter_of(graph, node, model)
        self._attempt_cost = attempt_cost_of(span) if span is not None else None
        self._run_costs = run_costs_of(current_run.get())
        for run_cost in self._run_costs:
            run_cost.begin()
        self.started = _clock()

    def touch(self) -> None:
        """Note that it is still going on."""
        self.seconds = _clock() - self.started

    def limited(self) -> None:
        """Count an answer "too many requests" that did not end it."""
        self._meter.count("llm_rate_limited")

    def end(
        self,
        usage: Usage | None,
        *,
        complete: bool = True,
        error: BaseException | str | None = None,
        cost: float | None = None,
    ) -> None:
        """Record it, the first time this is called.

        Args:
            usage: its tokens, None if unknown.
            complete: whether that is all of them.
            error: why it failed, if it did.
            cost: US dollars, where known better than from the list of prices.
        """
        try:
            self._open.pop()
        except IndexError:
            return
        self._count(usage, complete, error)
        if usage is not None and cost is None:
            cost = self._price(usage)
        self._charge(usage or Usage(), cost)

    def _count(
        self, usage: Usage | None, complete: bool, error: BaseException | str | None
    ) -> None:
        meter = self._meter
        meter.count("llm_calls")
        if self.seconds is not None:
            meter.observe("llm_seconds", self.seconds)
        if self.first_token_seconds is not None:
            meter.observe("llm_first_token_seconds", self.first_token_seconds)
        if error is not None:
            type, status = _described(error)
            meter.error(type, status)
            if status == str(TOO_MANY_REQUESTS):
                meter.count("llm_rate_limited")
        elif usage is None or not complete:
            meter.count("llm_calls_without_usage")
        if usage is not None:
            meter.count("llm_input_tokens", usage.input)
            meter.count("llm_output_tokens", usage.output)
            if usage.cached:
                meter.count("llm_cached_tokens", usage.cached)

    def _price(self, usage: Usage) -> float | None:
        if not usage.input and not usage.output:
            return None
        price = prices.find(self.model) or prices.find(self.served)
        if price is None:
            self._meter.count("llm_unpriced_calls")
            return None
        return price.of(*usage)

    def _charge(self, usage: Usage, cost: float | None) -> None:
        if cost is not None:
            self._meter.count("llm_cost_usd", cost)
        if self._attempt_cost is not None and (usage.input or usage.output or cost):
            self._attempt_cost.add(
                CostEntry(self._meter.wasted, usage.input, usage.output, cost or 0.0)
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
    """Record one call of a language model, by the node under way.

    For calls that `instrument` doesn't see: it records those of the `openai` and
    `anthropic` packages by itself. Never raises or blocks.

    Args:
        model: the model's name; splits the figures.
        input_tokens: tokens of the prompt, cached ones included.
        output_tokens: tokens of the answer.
        cached_tokens: tokens of the prompt that came from the provider's cache.
        cost_usd: what it cost in US dollars; by the list of prices if not given, see
            `kaywatch.configure`.
        seconds: how long it took.
        first_token_seconds: how long the first token took, of a stream.
        error: why it failed: an exception, or its type's name.
    """
    if not process.settings.enabled:
        return
    try:
        call = Call(str(model)[:MAX_NAME])
        call.seconds = _given(seconds)
        call.first_token_seconds = _given(first_token_seconds)
        usage = Usage(
            _given(input_tokens) or 0.0,
            _given(output_tokens) or 0.0,
            _given(cached_tokens) or 0.0,
        )
        known = error is None or any(usage)
        call.end(usage if known else None, error=error, cost=_given(cost_usd))
    except Exception:  # noqa: BLE001 - a __str__ of the application's
        warn_once("record_llm")


def _given(value: Any) -> float | None:
    """Return a number that can be counted, None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number < math.inf else None


def _described(error: BaseException | str) -> tuple[str, str]:
    """Return an error's type and the HTTP status that it stands for, if any."""
    if isinstance(error, BaseException):
        status = getattr(error, "status_code", None)
        return type(error).__name__, str(status) if isinstance(status, int) else ""
    return str(error)[:MAX_NAME], ""
