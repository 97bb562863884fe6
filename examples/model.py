"""A simulated language model: it is slow, costs money, and sometimes fails."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import kaywatch


class ModelOverloaded(Exception):
    """The model did not answer."""


def ask(prompt: str, *, failing: float = 0.1) -> str:
    """Return an answer of five words, or raise `ModelOverloaded`.

    Calls through the `openai` and `anthropic` packages are recorded automatically. This
    model has no package, so its calls are recorded here.
    """
    started = time.perf_counter()
    time.sleep(random.uniform(0.001, 0.01))
    seconds = time.perf_counter() - started
    if random.random() < failing:
        error = ModelOverloaded("529: the model is overloaded")
        kaywatch.record_llm(model="example-1", seconds=seconds, error=error)
        raise error
    kaywatch.record_llm(
        model="example-1",
        input_tokens=len(prompt.split()),
        output_tokens=5,
        cost_usd=0.0001,
        seconds=seconds,
    )
    return "an answer of five words"


def stream(prompt: str) -> Iterator[str]:
    """Yield the words of an answer, one after the other."""
    for word in ask(prompt, failing=0.0).split():
        time.sleep(0.002)
        yield f"{word} "
