"""What the hooks add to a call through an SDK, and what `record_llm` costs.

The same call goes to a local server bare and hooked. Time is CPU time of the calling
thread: the server's and the sender's is not in it. Events go to an agent in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anthropic
import openai
from tests.bench.report import OURS, Row, figure, more
from tests.bench.rounds import Effort, in_turns
from tests.llm_server import serving

import kaywatch
from kaywatch.testing import capture

clock = time.thread_time
ASK: Any = [{"role": "user", "content": "hi"}]
CHUNKS = 5  # of the server's chat stream, its usage included
CALLS = 60
RECORDS = 2_000
REPEAT = 5  # such short measures in one round


def cost(call: Callable[[], Any], times: int) -> float:
    """Return the time of one call in microseconds."""
    call()
    started = clock()
    for _ in range(times):
        call()
    return (clock() - started) / times * 1e6


def hooked(call: Callable[[], Any], times: int) -> float:
    """Return the time of one call with the hooks."""
    kaywatch.instrument(modules=[])
    try:
        with capture():
            return cost(call, times)
    finally:
        kaywatch.uninstrument()


def recorded(times: int) -> float:
    """Return the time of one `record_llm`."""
    record = partial(
        kaywatch.record_llm, model="gpt-4o", input_tokens=900, output_tokens=200
    )
    with capture(), kaywatch.execution("g", "n"):
        return cost(record, times)


def measure(effort: Effort) -> list[Row]:
    """Return a row for each kind of call."""
    calls, rounds = effort.of(CALLS), effort.rounds * REPEAT
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
            "an openai chat": chat,
            f"an openai chat in {CHUNKS} chunks": streamed,
            "an anthropic message": message,
        }
        with gpt, claude:
            measurements = in_turns(
                rounds,
                {
                    (kind, way): partial(taken, call, calls)
                    for kind, call in kinds.items()
                    for way, taken in (("bare", cost), ("hooked", hooked))
                },
            )
    alone = partial(recorded, effort.of(RECORDS))
    by_hand = in_turns(rounds, {"record_llm": alone})["record_llm"]
    return [
        *(
            Row(
                f"added to {kind}",
                "us",
                more(measurements[kind, "hooked"], measurements[kind, "bare"], "us"),
            )
            for kind in kinds
        ),
        Row("`record_llm`, priced and held", "us", figure(OURS, by_hand)),
    ]
