"""The hooks for the real OpenAI and Anthropic packages, against a local server."""

from __future__ import annotations

import asyncio
import gc
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pydantic
import pytest
import trustme
from pocketflow import AsyncFlow, AsyncNode, Flow, Node
from tests.llm_server import LlmServer, serving

import kaywatch
from kaywatch.testing import CapturedEvents, capture

# The tests import them: they take two seconds, in each worker that collects this file.
if TYPE_CHECKING:
    import anthropic
    import openai

GPT = "gpt-4o"
CLAUDE = "claude-opus-5"
ASK: Any = [{"role": "user", "content": "hi"}]
COUNT_TOKENS: Any = {"stream_options": {"include_usage": True}}


class Answer(pydantic.BaseModel):
    n: int


@pytest.fixture(scope="module")
def serves(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlmServer]:
    # Each client of an SDK reads all authorities, though the server speaks plain HTTP.
    authority = tmp_path_factory.mktemp("authority") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    with pytest.MonkeyPatch.context() as patch, serving() as server:
        patch.setenv("SSL_CERT_FILE", str(authority))
        yield server


@pytest.fixture
def server(serves: LlmServer) -> LlmServer:
    serves.plan.clear()
    serves.requests.clear()
    return serves


@pytest.fixture
def hooked() -> Iterator[None]:
    kaywatch.instrument(modules=["pocketflow"])
    yield
    kaywatch.uninstrument()


def gpt(server: LlmServer, **options: Any) -> openai.OpenAI:
    import openai

    value = {"max_retries": 0, **options}
    return openai.OpenAI(api_key="k", base_url=f"{server.url}/v1", **value)


def claude(server: LlmServer, **options: Any) -> anthropic.Anthropic:
    import anthropic

    value = {"max_retries": 0, **options}
    return anthropic.Anthropic(api_key="k", base_url=server.url, **value)


def async_gpt(server: LlmServer) -> openai.AsyncOpenAI:
    import openai

    return openai.AsyncOpenAI(api_key="k", base_url=f"{server.url}/v1", max_retries=0)


def async_claude(server: LlmServer) -> anthropic.AsyncAnthropic:
    import anthropic

    return anthropic.AsyncAnthropic(api_key="k", base_url=server.url, max_retries=0)


# -- every way to call ---------------------------------------------------------------


def chat(c: Any, **more: Any) -> Any:
    return c.chat.completions.create(model=GPT, messages=ASK, **more)


def message(c: Any, **more: Any) -> Any:
    return c.messages.create(model=CLAUDE, messages=ASK, max_tokens=9, **more)


def chat_stream_helper(c: Any) -> Any:
    with c.chat.completions.stream(model=GPT, messages=ASK, **COUNT_TOKENS) as stream:
        return [e.type for e in stream], stream.get_final_completion().usage


def chat_streaming_response(c: Any) -> Any:
    with c.chat.completions.with_streaming_response.create(
        model=GPT, messages=ASK
    ) as raw:
        return type(raw), raw.parse()


def response_stream_helper(c: Any) -> Any:
    with c.responses.stream(model=GPT, input="hi") as stream:
        return [e.type for e in stream], stream.get_final_response().usage


def message_stream_helper(c: Any) -> Any:
    with c.messages.stream(model=CLAUDE, messages=ASK, max_tokens=9) as stream:
        return [e.type for e in stream], stream.get_final_message().usage


def raw_chunks(c: Any) -> Any:
    raw = c.chat.completions.with_raw_response.create(
        model=GPT, messages=ASK, stream=True, **COUNT_TOKENS
    )
    stream = raw.parse()
    return type(raw), type(stream), list(stream)


OPENAI: dict[str, Callable[[Any], Any]] = {
    "chat": chat,
    "chat parsed": lambda c: c.chat.completions.parse(
        model=GPT, messages=ASK, response_format=Answer
    ),
    "chat streamed": lambda c: list(chat(c, stream=True, **COUNT_TOKENS)),
    "chat stream helper": chat_stream_helper,
    "chat raw": lambda c: c.chat.completions.with_raw_response.create(
        model=GPT, messages=ASK
    ).parse(),
    "chat raw streamed": raw_chunks,
    "chat streaming response": chat_streaming_response,
    "response": lambda c: c.responses.create(model=GPT, input="hi"),
    "response streamed": lambda c: list(
        c.responses.create(model=GPT, input="hi", stream=True)
    ),
    "response stream helper": response_stream_helper,
    "posted by hand": lambda c: c.post(
        "/chat/completions", body={"model": GPT}, cast_to=object
    ),
}
ANTHROPIC: dict[str, Callable[[Any], Any]] = {
    "message": message,
    "message streamed": lambda c: list(message(c, stream=True)),
    "message stream helper": message_stream_helper,
    "message raw": lambda c: c.messages.with_raw_response.create(
        model=CLAUDE, messages=ASK, max_tokens=9
    ).parse(),
    "beta message": lambda c: c.beta.messages.create(
        model=CLAUDE, messages=ASK, max_tokens=9
    ),
}
CALLS = [(gpt, GPT, OPENAI[name]) for name in OPENAI]
CALLS += [(claude, CLAUDE, ANTHROPIC[name]) for name in ANTHROPIC]


@pytest.mark.parametrize(("client", "model", "call"), CALLS, ids=[*OPENAI, *ANTHROPIC])
def test_each_call_is_recorded_and_its_result_is_unchanged(
    server: LlmServer, client: Any, model: str, call: Callable[[Any], Any]
) -> None:
    with client(server) as c:
        before = call(c)
        kaywatch.instrument(modules=["pocketflow"])
        try:
            with capture() as captured:
                after = call(c)
        finally:
            kaywatch.uninstrument()

    assert describe_result(after) == describe_result(before)
    assert sums(captured) == usual(model)


async def chat_async(c: Any) -> Any:
    return await chat(c)


async def chat_streamed_async(c: Any) -> Any:
    return [chunk async for chunk in await chat(c, stream=True, **COUNT_TOKENS)]


async def chat_raw_async(c: Any) -> Any:
    raw = await c.chat.completions.with_raw_response.create(model=GPT, messages=ASK)
    return type(raw), raw.parse()


async def chat_streaming_response_async(c: Any) -> Any:
    async with c.chat.completions.with_streaming_response.create(
        model=GPT, messages=ASK
    ) as raw:
        return type(raw), await raw.parse()


async def response_stream_helper_async(c: Any) -> Any:
    async with c.responses.stream(model=GPT, input="hi") as stream:
        return [e.type async for e in stream]


async def message_async(c: Any) -> Any:
    return await message(c)


async def message_raw_async(c: Any) -> Any:
    raw = await c.messages.with_raw_response.create(
        model=CLAUDE, messages=ASK, max_tokens=9
    )
    answer = raw.parse()  # a coroutine from version 1 on
    return type(raw), await answer if inspect.isawaitable(answer) else answer


async def message_stream_helper_async(c: Any) -> Any:
    async with c.messages.stream(model=CLAUDE, messages=ASK, max_tokens=9) as stream:
        return [e.type async for e in stream]


@pytest.mark.parametrize(
    ("client", "model", "call"),
    [
        (async_gpt, GPT, chat_async),
        (async_gpt, GPT, chat_streamed_async),
        (async_gpt, GPT, chat_raw_async),
        (async_gpt, GPT, chat_streaming_response_async),
        (async_gpt, GPT, response_stream_helper_async),
        (async_claude, CLAUDE, message_async),
        (async_claude, CLAUDE, message_raw_async),
        (async_claude, CLAUDE, message_stream_helper_async),
    ],
)
async def test_each_asynchronous_call_is_recorded_and_its_result_is_unchanged(
    server: LlmServer, client: Any, model: str, call: Callable[[Any], Any]
) -> None:
    async with client(server) as c:
        before = await call(c)
        kaywatch.instrument(modules=["pocketflow"])
        try:
            with capture() as captured:
                after = await call(c)
        finally:
            kaywatch.uninstrument()

    assert describe_result(after) == describe_result(before)
    assert sums(captured) == usual(model)


def test_embeddings_have_only_input_tokens(server: LlmServer, hooked: None) -> None:
    model = "text-embedding-3-small"
    with gpt(server) as c, capture() as captured:
        c.embeddings.create(model=model, input="hi")

    assert sums(captured) == {
        "llm_calls": 1,
        "llm_input_tokens": 8,
        "llm_output_tokens": 0,
        "llm_cost_usd": pytest.approx(8 * 0.02 / 1e6),
    }


def test_requests_that_call_no_model_are_not_recorded(
    server: LlmServer, hooked: None
) -> None:
    with gpt(server) as c, claude(server) as d, capture() as captured:
        c.models.retrieve(GPT)
        d.messages.count_tokens(model=CLAUDE, messages=ASK)

    assert captured.points() == []


# -- streams -------------------------------------------------------------------------


def test_a_chat_stream_without_usage_is_counted_as_such(
    server: LlmServer, hooked: None
) -> None:
    with gpt(server) as c, capture() as captured:
        chunks = list(chat(c, stream=True))

    assert len(chunks) == 4
    assert sums(captured) == {"llm_calls": 1, "llm_calls_without_usage": 1}
    first, whole = seconds(captured)
    assert 0 < first <= whole


@pytest.mark.parametrize("end", ["close", "drop", "never read"])
def test_a_stream_that_is_not_read_to_its_end_is_recorded(
    server: LlmServer, hooked: None, end: str
) -> None:
    with claude(server) as c, capture() as captured:
        stream = message(c, stream=True)
        if end != "never read":
            next(stream)
            next(stream)
        if end == "close":
            stream.close()
        else:
            del stream
        gc.collect()

    totals = sums(captured)
    assert totals.pop("llm_calls") == 1
    assert totals.pop("llm_calls_without_usage") == 1
    # The prompt's tokens come first.
    assert totals.get("llm_input_tokens") == (None if end == "never read" else 100)


async def test_an_asynchronous_stream_that_is_closed_is_recorded(
    server: LlmServer, hooked: None
) -> None:
    import openai

    with capture() as captured:
        async with async_gpt(server) as c:
            stream = await chat(c, stream=True)
            await stream.__anext__()
            await stream.close()
            assert type(stream) is openai.AsyncStream

    assert sums(captured) == {"llm_calls": 1, "llm_calls_without_usage": 1}


@pytest.mark.parametrize("todo", ["cut", "garbled"])
@pytest.mark.parametrize(("client", "call"), [(gpt, chat), (claude, message)])
def test_an_error_within_a_stream_is_raised_and_counted(
    server: LlmServer, client: Any, call: Any, todo: str
) -> None:
    def read(c: Any) -> tuple[type, str]:
        server.plan = [todo]
        with pytest.raises(Exception) as caught:  # noqa: PT011 - compared below
            list(call(c, stream=True))
        return type(caught.value), str(caught.value)

    with client(server) as c:
        before = read(c)
        kaywatch.instrument(modules=["pocketflow"])
        try:
            with capture() as captured:
                after = read(c)
        finally:
            kaywatch.uninstrument()

    assert after == before
    (error,) = captured.points("llm_errors")
    assert error.labels["type"] == before[0].__name__


def test_a_stream_belongs_to_the_node_that_made_the_call(
    server: LlmServer, hooked: None
) -> None:
    class Ask(Node):
        def exec(self, prep_res: Any) -> Any:
            return chat(client, stream=True, **COUNT_TOKENS)

        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
            shared["stream"] = exec_res

    class Read(Node):
        def prep(self, shared: Any) -> Any:
            return shared["stream"]

        def exec(self, prep_res: Any) -> Any:
            return len(list(prep_res))

    ask = Ask()
    ask >> Read()
    with gpt(server) as client, capture() as captured:
        kaywatch.name(Flow(start=ask), "chat").run({})

    assert {p.node for p in captured.points("llm_input_tokens")} == {"Ask"}
    (tokens,) = captured.points("llm_run_tokens")
    assert (tokens.graph, tokens.value) == ("chat", 120)


def test_a_run_is_observed_when_the_stream_that_outlives_it_ends(
    server: LlmServer, hooked: None
) -> None:
    class Ask(Node):
        def exec(self, prep_res: Any) -> Any:
            return chat(client, stream=True, **COUNT_TOKENS)

        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
            shared["stream"] = exec_res

    shared: dict[str, Any] = {}
    with gpt(server) as client:
        with capture() as during:
            Flow(start=Ask()).run(shared)
        with capture() as after:
            list(shared["stream"])

    assert during.points("llm_run_tokens") == []
    assert [p.value for p in after.points("llm_run_tokens")] == [120]


# -- errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "type"), [(400, "BadRequestError"), (500, "InternalServerError")]
)
@pytest.mark.parametrize(("client", "call"), [(gpt, chat), (claude, message)])
def test_an_error_is_counted_by_type_and_status(
    server: LlmServer, hooked: None, client: Any, call: Any, status: int, type: str
) -> None:
    import anthropic
    import openai

    server.plan = [status]
    refused = (openai.APIStatusError, anthropic.APIStatusError)
    with client(server) as c, capture() as captured, pytest.raises(refused) as caught:
        call(c)

    assert caught.value.status_code == status  # type: ignore[attr-defined]
    (error,) = captured.points("llm_errors")
    assert (error.labels["type"], error.labels["status"]) == (type, str(status))
    assert sums(captured) == {"llm_calls": 1, "llm_errors": 1}


@pytest.mark.parametrize(("client", "call"), [(gpt, chat), (claude, message)])
def test_each_attempt_that_was_rate_limited_is_counted(
    server: LlmServer, hooked: None, client: Any, call: Any
) -> None:
    import anthropic
    import openai

    server.plan = [429, 500, 429]
    with client(server, max_retries=3) as c, capture() as answered:
        call(c)
    server.plan = [429, 429]
    limited = (openai.RateLimitError, anthropic.RateLimitError)
    with (
        client(server, max_retries=1) as c,
        capture() as refused,
        pytest.raises(limited),
    ):
        call(c)

    assert len(server.requests) == 6
    totals = sums(answered)
    assert (totals["llm_calls"], totals["llm_rate_limited"]) == (1, 2)
    assert "llm_errors" not in totals
    totals = sums(refused)
    assert (totals["llm_errors"], totals["llm_rate_limited"]) == (1, 2)


async def test_rate_limits_of_asynchronous_calls(
    server: LlmServer, hooked: None
) -> None:
    server.plan = [429]
    with capture() as captured:
        async with async_claude(server) as c:
            await message(c.with_options(max_retries=1))

    assert sums(captured)["llm_rate_limited"] == 1


def test_a_timeout_is_counted(server: LlmServer, hooked: None) -> None:
    import openai

    server.plan = ["hang"]
    late = openai.APITimeoutError
    with gpt(server, timeout=0.2) as c, capture() as captured, pytest.raises(late):
        chat(c)

    (error,) = captured.points("llm_errors")
    assert error.labels == {"model": GPT, "type": "APITimeoutError"}
    assert 0.1 < seconds(captured)[0] < 20


async def test_a_call_that_is_cancelled_is_counted(
    server: LlmServer, hooked: None
) -> None:
    server.plan = ["hang"]
    with capture() as captured:
        async with async_gpt(server) as c:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(chat(c), 0.2)

    (error,) = captured.points("llm_errors")
    assert error.labels["type"] == "CancelledError"


# -- within nodes --------------------------------------------------------------------


class Picky(Node):
    """Rejects the first answers."""

    def __init__(self, client: Any, refusals: int, **options: Any) -> None:
        super().__init__(**options)
        self.client, self.left = client, [refusals]

    def exec(self, prep_res: Any) -> Any:
        answer = chat(self.client)
        self.left[0] -= 1
        if self.left[0] >= 0:
            raise ValueError("no JSON")
        return answer


def test_calls_of_failed_attempts_are_wasted(server: LlmServer, hooked: None) -> None:
    with gpt(server) as c, capture() as captured:
        Flow(start=Picky(c, 2, max_retries=3)).run({})

    totals = sums(captured)
    cost = price(GPT)
    assert (totals["llm_calls"], totals["llm_input_tokens"]) == (3, 300)
    assert totals["llm_wasted_input_tokens"] == 200
    assert totals["llm_wasted_output_tokens"] == 40
    assert totals["llm_wasted_cost_usd"] == pytest.approx(2 * cost)
    assert {(p.graph, p.node) for p in captured.points("llm_wasted_cost_usd")} == {
        ("Flow[Picky]", "Picky")
    }
    (run,) = captured.points("llm_run_cost_usd")
    assert (run.graph, run.node) == ("Flow[Picky]", "")
    assert run.value == pytest.approx(3 * cost)


async def test_asynchronous_nodes_waste_too(server: LlmServer, hooked: None) -> None:
    class Ask(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            await message(client)
            if len(server.requests) < 2:
                raise ValueError

    with capture() as captured:
        async with async_claude(server) as client:
            await AsyncFlow(start=Ask(max_retries=2)).run_async({})

    totals = sums(captured)
    assert totals["llm_input_tokens"] == 200
    assert totals["llm_wasted_input_tokens"] == 100


# -- uninstrument ----------------------------------------------------------------------


def test_uninstrument_restores_the_sdks() -> None:
    import openai._base_client as base
    import openai._streaming as streaming

    def functions() -> list[Any]:
        classes = (base.SyncAPIClient, base.AsyncAPIClient, streaming.Stream)
        return [dict(vars(cls)) for cls in classes]

    before = functions()
    kaywatch.instrument(modules=["pocketflow"], llm=False)
    assert functions() == before
    kaywatch.instrument(modules=["pocketflow"])
    once = functions()
    kaywatch.instrument(modules=["pocketflow"])

    assert once == functions() != before
    kaywatch.uninstrument()
    assert functions() == before


def test_nothing_is_recorded_while_metrics_are_off(
    server: LlmServer, hooked: None
) -> None:
    with gpt(server) as c, capture() as captured:
        kaywatch.configure(enabled=False)
        chat(c)
        kaywatch.record_llm(model=GPT, input_tokens=1)
        kaywatch.configure(enabled=True)

    assert captured.points() == []


def test_an_sdk_that_is_imported_later_is_hooked_then_and_by_the_application(
    server: LlmServer,
) -> None:
    code = f"""
import sys, kaywatch
from kaywatch.testing import capture
kaywatch.instrument(modules=["pocketflow"])
print("openai" in sys.modules, "anthropic" in sys.modules)
import openai
with openai.OpenAI(api_key="k", base_url={server.url!r} + "/v1") as c:
    with capture() as captured:
        c.chat.completions.create(model="gpt-4o", messages=[])
print(sum(p.value for p in captured.points("llm_input_tokens")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("False False\n100.0\n", "")


def usual(model: str) -> dict[str, Any]:
    """Return the metrics of one call to the server."""
    return {
        "llm_calls": 1,
        "llm_input_tokens": 100,
        "llm_output_tokens": 20,
        "llm_cached_tokens": 40,
        "llm_cost_usd": pytest.approx(price(model)),
    }


def price(model: str) -> float:
    if model == GPT:
        return (60 * 2.5 + 40 * 1.25 + 20 * 10) / 1e6
    return (50 * 5 + 40 * 0.5 + 4 * 6.25 + 6 * 10 + 20 * 25) / 1e6


def sums(captured: CapturedEvents) -> dict[str, float]:
    """Return the sum of each metric."""
    totals: dict[str, float] = {}
    for point in captured.points():
        if point.kind == "count":
            totals[point.name] = totals.get(point.name, 0) + point.value
    return totals


def seconds(captured: CapturedEvents) -> list[float]:
    """Return the durations: to the first token, and of the whole call."""
    points = captured.points("llm_first_token_seconds")
    return [p.value for p in points + captured.points("llm_seconds")]


def describe_result(result: Any) -> Any:
    """Return the observable properties of a result, for comparison."""
    if isinstance(result, pydantic.BaseModel):
        return type(result), result.model_dump(warnings=False)
    if isinstance(result, (list, tuple)):
        return type(result), [describe_result(part) for part in result]
    return result
