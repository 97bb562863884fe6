"""Model calls through the real SDKs reach a real agent."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agents import Agent, until
from tests.llm_server import LlmServer, serving

APPLICATION = """
import sys, kaywatch
kaywatch.instrument(service="writer")
import openai, anthropic
from pocketflow import Flow, Node

url = sys.argv[1]
gpt = openai.OpenAI(api_key="k", base_url=url + "/v1")
claude = anthropic.Anthropic(api_key="k", base_url=url)
ask = [{"role": "user", "content": "hi"}]

class Draft(Node):
    def exec(self, _):
        text = gpt.chat.completions.create(model="gpt-4o", messages=ask)
        if self.cur_retry == 0:
            raise ValueError("no JSON")
        return text

class Review(Node):
    def exec(self, _):
        with claude.messages.stream(
            model="claude-opus-5", messages=ask, max_tokens=9
        ) as stream:
            return stream.get_final_text()

draft = Draft(max_retries=2)
draft >> Review()
with gpt, claude:
    for _ in range(3):
        kaywatch.name(Flow(start=draft), "writing").run({})
assert kaywatch.flush(10)
"""


@pytest.fixture
def server() -> Iterator[LlmServer]:
    with serving() as result:
        yield result


def test_from_the_sdk_to_the_answer(agent: Agent, server: LlmServer) -> None:
    server.plan = [429]

    agent.run(APPLICATION, server.url)

    answer = until(lambda: _complete(agent), "all calls are there")
    totals = answer["totals"]
    draft, review = (60 * 2.5 + 40 * 1.25 + 200) / 1e6, 855 / 1e6
    assert totals["input_tokens"] == 900
    assert totals["cached_tokens"] == 360
    assert totals["output_tokens"] == 180
    assert (totals["errors"], totals["rate_limited"]) == (0, 1)
    assert totals["wasted_input_tokens"] == 300
    assert totals["cost_usd"] == pytest.approx(6 * draft + 3 * review)
    assert totals["wasted_cost_usd"] == pytest.approx(3 * draft)
    assert totals["unpriced_calls"] == totals["calls_without_usage"] == 0
    assert totals["per_run"]["cost_usd"]["count"] == 3
    assert totals["per_run"]["cost_usd"]["max"] == pytest.approx(2 * draft + review)
    assert {(n["graph"], n["node"]): n["calls"] for n in answer["nodes"]} == {
        ("writing", "Draft"): 6,
        ("writing", "Review"): 3,
    }
    (streamed,) = [m for m in answer["models"] if m["model"] == "claude-opus-5"]
    assert 0 < streamed["first_token_seconds"]["p50"] <= streamed["seconds"]["p99"]


UNAWARE = """
import sys, anthropic
from pocketflow import Flow, Node
from openai import OpenAI

class Ask(Node):
    def exec(self, _):
        with OpenAI(api_key="k", base_url=sys.argv[1] + "/v1") as gpt:
            gpt.embeddings.create(model="text-embedding-3-small", input="hi")
        with anthropic.Anthropic(api_key="k", base_url=sys.argv[1]) as claude:
            ask = [{"role": "user", "content": "hi"}]
            claude.messages.create(model="claude-opus-5", messages=ask, max_tokens=9)

Flow(start=Ask()).run({})
"""


def test_kaywatch_run_needs_no_code_for_it(agent: Agent, server: LlmServer) -> None:
    command = str(Path(agent.python).parent / "kaywatch")
    done = subprocess.run(
        [command, "run", "--", agent.python, "-c", UNAWARE, server.url],
        env=agent.environment,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")
    models = {m["model"]: m for m in agent.get("/api/v1/llm")["models"]}
    assert models["text-embedding-3-small"]["input_tokens"] == 8
    assert models["claude-opus-5"]["input_tokens"] == 100


def test_the_terminal_shows_a_table_once_there_were_calls(agent: Agent) -> None:
    assert "Language models" not in agent.command("status")
    agent.run(
        "import kaywatch\n"
        "kaywatch.record_llm(model='large', input_tokens=25_000, output_tokens=7,"
        " cost_usd=1.5, seconds=2)\n"
        "kaywatch.record_llm(model='large', error='Overloaded')\n"
        "kaywatch.record_llm(model='unheard-of', input_tokens=1)\n"
        "assert kaywatch.flush(10)"
    )

    table = agent.command("status").partition("Language models, last 5 minutes\n")[2]
    rows = [line.split() for line in table.splitlines()]
    assert " ".join(rows[0]) == "model calls errors tokens in out cost wasted p95"
    assert rows[1][:7] == ["large", "2", "1", "25k", "7", "$1.50", "$0.00"]
    assert rows[2] == ["unheard-of", "1", "0", "1", "0", "$0.00+?", "$0.00", "-"]


def _complete(agent: Agent) -> dict[str, dict[str, float]] | None:
    answer = agent.get("/api/v1/llm", window="5m")
    return answer if answer["totals"]["calls"] == 9 else None
