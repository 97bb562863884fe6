"""Measure the overhead of hooks per call of an SDK, and the cost of `record_llm`.

The same call is sent to a local server with and without hooks. Times are CPU times of
the calling thread, without the server and the sender. Events are captured in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anthropic
import openai
from tests.bench.report import OURS, Row, overhead, summarize
from tests.bench.rounds import Effort, interleave
from tests.llm_server import serving

import kaywatch
from kaywatch.testing import capture

clock = time.thread_time
ASK: Any = [{"role": "user", "content": "hi"}]
CHUNKS = 5  # of the server's chat stream, including its usage
CALLS = 60
RECORDS = 2_000
REPEAT = 5  # measurements per round, as they are short


def measure_call(call: Callable[[], Any], times: int) -> float:
    """Return the time of one call in microseconds."""
    call()
    started = clock()
    for _ in range(times):
        call()
    return (clock() - started) / times * 1e6


def measure_hooked_call(call: Callable[[], Any], times: int) -> float:
    """Return the time of one call with the hooks."""
    kaywatch.instrument(modules=[])
    try:
        with capture():
            return measure_call(call, times)
    finally:
        kaywatch.uninstrument()


def measure_record_llm(times: int) -> float:
    """Return the time of one `record_llm`."""
    record = partial(
        kaywatch.record_llm, model="gpt-4o", input_tokens=900, output_tokens=200
    )
    with capture(), kaywatch.execution("g", "n"):
        return measure_call(record, times)


def measure(effort: Effort) -> list[Row]:
    """Return a row for each kind of call."""
    calls, rounds = effort.of(CALLS), effort.rounds * effort.whole(REPEAT, 1)
    with serving() as server:
        known = {"api_key": "k", "timeout": 30, "max_retries": 0}
        gpt = openai.OpenAI(base_url=f"{server.url}/v1", **known)
        claude = anthropic.Anthropic(base_url=server.url, **known)

        def chat(**more: Any) -> Any:
            return gpt.chat.completions.create(model="gpt-4o", messages=ASK, **more)

        def message() -> Any:
            return claude.messages.create(
                model="claude-opus-5", messages=ASK, max_tokens=9
            )

        def streamed() -> Any:
            return list(chat(stream=True, stream_options={"include_usage": True}))

        kinds = {
            "openai chat": chat,
            f"openai chat in {CHUNKS} chunks": streamed,
            "anthropic message": message,
        }
        with gpt, claude:
            measurements = interleave(
                rounds,
                {
                    (kind, way): partial(taken, call, calls)
                    for kind, call in kinds.items()
                    for way, taken in (
                        ("bare", measure_call),
                        ("hooked", measure_hooked_call),
                    )
                },
            )
    alone = partial(measure_record_llm, effort.of(RECORDS))
    by_hand = interleave(rounds, {"record_llm": alone})["record_llm"]
    return [
        *(
            Row(
                f"overhead per {kind}",
                "us",
                overhead(
                    measurements[kind, "hooked"], measurements[kind, "bare"], "us"
                ),
            )
            for kind in kinds
        ),
        Row("`record_llm`, with a price", "us", summarize(OURS, by_hand)),
    ]
