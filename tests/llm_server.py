"""A server that speaks as much of the OpenAI and Anthropic APIs as the tests need.

Every answer has 100 input tokens, 40 of them from the cache, and 20 output tokens.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ERROR = {"type": "error", "error": {"type": "some", "message": "no"}}
CHAT_USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 40},
}
RESPONSE_USAGE = {
    "input_tokens": 100,
    "output_tokens": 20,
    "total_tokens": 120,
    "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 5},
}
MESSAGE_USAGE = {
    "input_tokens": 50,
    "cache_read_input_tokens": 40,
    "cache_creation_input_tokens": 10,
    "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 6},
    "output_tokens": 20,
}


class LlmServer:
    """A running server.

    Attributes:
        url: where it listens.
        plan: what happens to the next requests: an HTTP status, "hang" (never
            answered), "cut" (a stream that breaks off), or "garbled" (a stream with an
            error in it). Then, and with an empty plan, they are answered well.
        requests: the paths asked for.
    """

    def __init__(self) -> None:
        self.plan: list[int | str] = []
        self.requests: list[str] = []
        self.released = threading.Event()
        outer = self

        class Handler(_Handler):
            server_state = outer

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def serving() -> Iterator[LlmServer]:
    server = LlmServer()
    try:
        yield server
    finally:
        server.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None: ...  # clients that disconnect


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_state: LlmServer

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._json(200, {"id": "gpt-4o", "object": "model", "created": 1})

    def do_POST(self) -> None:
        state = self.server_state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = self.path.partition("?")[0]
        state.requests.append(path)
        todo = state.plan.pop(0) if state.plan else 200
        if todo == "hang":
            state.released.wait(30)
            self.close_connection = True
        elif isinstance(todo, int) and todo != 200:
            self._json(todo, ERROR, {"retry-after-ms": "1"})
        elif body.get("stream"):
            self._events(path, body, str(todo))
        else:
            self._json(200, answer(path, body["model"]))

    def _json(self, status: int, body: Any, headers: dict[str, str] = {}) -> None:  # noqa: B006
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _events(self, path: str, body: dict[str, Any], todo: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        listed = list(events(path, body))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for number, (name, usual) in enumerate(listed):
                if todo == "cut" and number == len(listed) - 2:
                    self.close_connection = True
                    return
                wrong = todo == "garbled" and number == 3
                data = ERROR if wrong else usual
                text = data if isinstance(data, str) else json.dumps(data)
                event = "error" if wrong else name
                lines = f"event: {event}\n" if event else ""
                self._chunk(f"{lines}data: {text}\n\n".encode())
            self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


def answer(path: str, model: str) -> dict[str, Any]:
    if path == "/v1/chat/completions":
        message = {"role": "assistant", "content": '{"n": 1}'}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        result = {"id": "c", "object": "chat.completion", "created": 1}
        return {**result, "model": model, "choices": [choice], "usage": CHAT_USAGE}
    if path == "/v1/responses":
        return _response(model, RESPONSE_USAGE, [_output("hello")])
    if path == "/v1/embeddings":
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
        usage = {"prompt_tokens": 8, "total_tokens": 8}
        return {"object": "list", "data": data, "model": model, "usage": usage}
    if path == "/v1/messages":
        return _message(model, [{"type": "text", "text": "hello"}], MESSAGE_USAGE)
    return {"input_tokens": 3, "object": "other"}


def events(path: str, body: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    model = body["model"]
    if path == "/v1/chat/completions":
        yield from _chat_events(model, body)
    elif path == "/v1/responses":
        yield from _response_events(model)
    else:
        yield from _message_events(model)


def _chat_events(model: str, body: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model}
    for text in ("", "he", "llo"):
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        yield "", {**base, "choices": [choice]}
    yield (
        "",
        {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    )
    if (body.get("stream_options") or {}).get("include_usage"):
        yield "", {**base, "choices": [], "usage": CHAT_USAGE}
    yield "", "[DONE]"


def _response_events(model: str) -> Iterator[tuple[str, Any]]:
    item = {"item_id": "i", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    listed: list[dict[str, Any]] = [
        {"type": "response.created", "response": _response(model, None, [])},
        {"type": "response.output_item.added", "output_index": 0, "item": _output("")},
        {"type": "response.content_part.added", **item, "part": part},
        {"type": "response.output_text.delta", **item, "delta": "hel", "logprobs": []},
        {"type": "response.output_text.delta", **item, "delta": "lo", "logprobs": []},
        {
            "type": "response.completed",
            "response": _response(model, RESPONSE_USAGE, [_output("hello")]),
        },
    ]
    for number, data in enumerate(listed):
        yield data["type"], {**data, "sequence_number": number}


def _message_events(model: str) -> Iterator[tuple[str, Any]]:
    start = {**MESSAGE_USAGE, "output_tokens": 1}
    text = {"type": "text", "text": ""}
    listed: list[dict[str, Any]] = [
        {"type": "message_start", "message": _message(model, [], start)},
        {"type": "content_block_start", "index": 0, "content_block": text},
        {"type": "ping"},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": text},
            }
            for text in ("hel", "lo")
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 20},
        },
        {"type": "message_stop"},
    ]
    for data in listed:
        yield data["type"], data


def _message(model: str, content: list[Any], usage: Any) -> dict[str, Any]:
    return {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": "end_turn" if content else None,
        "stop_sequence": None,
        "usage": usage,
    }


def _output(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": "i",
        "type": "message",
        "role": "assistant",
        "status": "completed" if text else "in_progress",
        "content": [part] if text else [],
    }


def _response(model: str, usage: Any, output: list[Any]) -> dict[str, Any]:
    return {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": model,
        "status": "completed" if usage else "in_progress",
        "output": output,
        "usage": usage,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1,
        "top_p": 1,
    }
