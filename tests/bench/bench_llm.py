"""What the hooks add to a call through an SDK, and what `record_llm` costs.

    python -m tests.bench.bench_llm

The same call goes to a local server bare and hooked, in turns, so that a change of the
machine's speed meets both. Time is CPU time of the calling thread: the server's and the
sender's is not in it. Events go to an agent in memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import anthropic
import openai
from tests.llm_server import serving

import kaywatch
from kaywatch.testing import capture

clock = time.thread_time
ASK: Any = [{"role": "user", "content": "hi"}]
CHUNKS = 5  # of the server's chat stream, its usage included


def cost(call: Callable[[], Any], times: int) -> float:
    """Return the time of one call in microseconds."""
    start = clock()
    for _ in range(times):
        call()
    return (clock() - start) / times * 1e6


def compare(name: str, call: Callable[[], Any], rounds: int, times: int) -> None:
    """Print what the hooks add to a call."""
    bare, hooked = [], []
    call()
    for _ in range(rounds):
        bare.append(cost(call, times))
        kaywatch.instrument(modules=[])
        with capture():
            call()
            hooked.append(cost(call, times))
        kaywatch.uninstrument()
    added = [after - before for before, after in zip(bare, hooked, strict=True)]
    low, most = statistics.median(bare), statistics.median(added)
    print(f"{name:26} bare {low:7.0f} us   hooked +{most:5.1f} us  ({most / low:.1%})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--times", type=int, default=60)
    options = parser.parse_args()
    given = options.rounds, options.times
    with serving() as server:
        gpt = openai.OpenAI(api_key="k", base_url=f"{server.url}/v1")
        claude = anthropic.Anthropic(api_key="k", base_url=server.url)

        def chat(**more: Any) -> Any:
            return gpt.chat.completions.create(model="gpt-4o", messages=ASK, **more)

        def message() -> Any:
            return claude.messages.create(
                model="claude-opus-5", messages=ASK, max_tokens=9
            )

        def streamed() -> Any:
            return list(chat(stream=True, stream_options={"include_usage": True}))

        with gpt, claude:
            compare("openai chat", chat, *given)
            compare(f"openai chat, {CHUNKS} chunks", streamed, *given)
            compare("anthropic message", message, *given)

    def record() -> None:
        kaywatch.record_llm(model="gpt-4o", input_tokens=900, output_tokens=200)

    with capture(), kaywatch.execution("g", "n"):
        found = min(cost(record, 2_000) for _ in range(options.rounds))
    print(f"{'record_llm':26} {found:.1f} us, priced and held")


if __name__ == "__main__":
    main()
