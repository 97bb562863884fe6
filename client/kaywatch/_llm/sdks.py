"""Hooks for the `openai` and `anthropic` packages.

Strategy: both are made by the same generator. All their calls go through `request` of
`_base_client`, whether made by `create`, `parse`, `stream`, `with_raw_response` or
`with_streaming_response`, by the plain clients or those for a cloud. A call is opened
there. From then on the HTTP response leads to it, for a stream or an answer that is
parsed later. `_sleep_for_retry` shows that the SDK is about to retry. Only the path and
the model's name of a request are read, and only the usage of an answer.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import partial
from types import FunctionType, ModuleType
from typing import Any, Final
from weakref import WeakKeyDictionary

from kaywatch._llm.calls import TOO_MANY_REQUESTS
from kaywatch._llm.streams import ObservedEvents, SdkCall, unread_calls
from kaywatch._llm.usage import AnthropicTally, OpenAITally, Tally
from kaywatch._process import process
from kaywatch._wrappers import Function, Hooks, is_wrapper, seal, warn_once
from kaywatch.wire import MAX_NAME

__all__ = ["SDKS", "patch", "restore"]

log = logging.getLogger("kaywatch")

SDKS: Final[dict[str, type[Tally]]] = {
    "openai": OpenAITally,
    "anthropic": AnthropicTally,
}

_current: ContextVar[SdkCall | None] = ContextVar("kaywatch_llm_call", default=None)

# By the HTTP response: a call whose answer is yet to be parsed or read.
_pending: Final[WeakKeyDictionary[Any, SdkCall]] = WeakKeyDictionary()

_patched: Final[list[tuple[type, str, Function, Function]]] = []


def patch(module: ModuleType) -> None:
    """Record the calls of an SDK from now on."""
    for part, names, name, wrap in _wraps(SDKS[module.__name__]):
        for cls in _classes(module, part, names):
            original = vars(cls).get(name)
            if isinstance(original, FunctionType) and not is_wrapper(original):
                wrapper = wrap(original)
                setattr(cls, name, wrapper)
                _patched.append((cls, name, original, wrapper))
            elif name == "request" and original is None:
                log.warning(
                    "unsupported version of %s: its calls are not recorded",
                    module.__name__,
                )


def restore() -> None:
    """Restore every function that `patch` replaced; streams in progress continue."""
    while _patched:
        cls, name, original, wrapper = _patched.pop()
        if vars(cls).get(name) is wrapper:
            setattr(cls, name, original)


def _classes(module: ModuleType, part: str, names: tuple[str, ...]) -> list[type]:
    """Return the classes that exist in a part of an SDK."""
    within = sys.modules.get(f"{module.__name__}.{part}")
    values = (getattr(within, name, None) for name in names)
    return [cls for cls in values if isinstance(cls, type)]


def _wraps(
    tally: type[Tally],
) -> list[tuple[str, tuple[str, ...], str, Callable[[FunctionType], Function]]]:
    """Return (part, classes, function, wrap); an SDK may lack some of them."""
    clients = ("SyncAPIClient", "AsyncAPIClient")
    streams = ("Stream", "AsyncStream")
    chat = ("ChatCompletionStream", "AsyncChatCompletionStream")
    responses = ("ResponseStream", "AsyncResponseStream")
    answers = ("APIResponse", "AsyncAPIResponse")
    return [
        ("_base_client", clients, "request", _request(tally).wrap),
        ("_base_client", clients, "_process_response", _PROCESS_RESPONSE.wrap),
        ("_base_client", clients, "_sleep_for_retry", _SLEEP_FOR_RETRY.wrap),
        ("_response", answers, "parse", _PARSE.wrap),
        ("_legacy_response", ("LegacyAPIResponse",), "parse", _PARSE_LEGACY.wrap),
        ("_streaming", streams, "__stream__", _wrap_stream),
        ("_streaming", streams, "close", _CLOSE.wrap),
        ("lib.streaming.chat._completions", chat, "close", _CLOSE.wrap),
        ("lib.streaming.responses._responses", responses, "close", _CLOSE.wrap),
    ]


# -- the call --------------------------------------------------------------------


def _request(tally: type[Tally]) -> Hooks[tuple[SdkCall, Token[SdkCall | None]]]:
    """Return the hooks of `request(cast_to, options, ...)`."""

    def enter(_: object, options: Any) -> tuple[SdkCall, Token[SdkCall | None]] | None:
        call = _open(tally, options)
        return None if call is None else (call, _current.set(call))

    return Hooks(enter, _end_request, _options)


def _options(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[1] if len(args) > 1 else kwargs.get("options")


def _open(tally: type[Tally], options: Any) -> SdkCall | None:
    """Open the call that a request makes, None if it makes none."""
    if not process.settings.enabled:
        return None
    try:
        path = options.url.partition("?")[0].rstrip("/")
        if path not in tally.paths or options.method.lower() != "post":
            return None
        body = options.json_data
        model = body.get("model") if isinstance(body, dict) else None
        name = model[:MAX_NAME] if isinstance(model, str) else ""
        return SdkCall(name, tally())
    except Exception:  # noqa: BLE001 - the application continues without us
        warn_once("an LLM call")
        return None


def _end_request(
    state: tuple[SdkCall, Token[SdkCall | None]],
    answer: Any,
    error: BaseException | None,
) -> None:
    """Record a call that failed or was answered; others end once they are read."""
    call, token = state
    try:  # noqa: SIM105 - see Span.close
        _current.reset(token)
    except ValueError:
        pass
    if error is not None:
        call.finish(error)
        return
    if call.seconds is None:
        call.touch()
    if _is_unread(answer):
        unread_calls.add(call)
    else:
        _read_answer(call, answer)
        call.finish()


def _read_answer(call: SdkCall, answer: Any) -> None:
    try:
        call.tally.read_answer(answer)
    except Exception:  # noqa: BLE001 - the application continues without us
        warn_once("the result of an LLM call")


# -- the response ----------------------------------------------------------------


def _response(_: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return kwargs.get("response")


def _enter_process_response(_: object, response: Any) -> None:
    """Let the response lead to the call."""
    try:
        call = _current.get()
        if call is not None:
            _pending[response] = call
    except Exception:  # noqa: BLE001 - the application continues without us
        warn_once("the response of an LLM call")


def _enter_sleep(_: object, response: Any) -> None:
    call = _current.get()
    status = getattr(response, "status_code", None)
    if call is not None and status == TOO_MANY_REQUESTS:
        call.count_rate_limited()


def _enter_close(stream: Any, _: object) -> None:
    call = _call_of(stream, "response") or _call_of(stream, "_response")
    if call is not None:
        call.finish()


def _enter_parse(raw: Any, _: object) -> SdkCall | None:
    return _call_of(raw, "http_response")


def _leave_parse(
    call: SdkCall, answer: Any, error: BaseException | None, *, reads_body: bool
) -> None:
    if error is not None or _is_unread(answer):
        return
    if reads_body:
        call.touch()
    _read_answer(call, answer)
    if call.tally.usage is not None:
        call.finish()


_PROCESS_RESPONSE: Final = Hooks[None](_enter_process_response, pick=_response)
_SLEEP_FOR_RETRY: Final = Hooks[None](_enter_sleep, pick=_response)
_CLOSE: Final = Hooks[None](_enter_close)
_PARSE: Final = Hooks(_enter_parse, partial(_leave_parse, reads_body=True))
_PARSE_LEGACY: Final = Hooks(_enter_parse, partial(_leave_parse, reads_body=False))


def _wrap_stream(original: FunctionType) -> Function:
    """Wrap `__stream__`, which returns the iterator of a stream's events."""

    def stream(self: Any) -> Any:
        events = original(self)
        call = _call_of(self, "response")
        if call is None or call.is_observed:
            return events
        call.is_observed = True
        return ObservedEvents(events, call)

    return seal(stream, original)


def _is_unread(answer: Any) -> bool:
    """Return whether an answer is a stream or a raw response, to be read later."""
    holds = _call_of(answer, "response") or _call_of(answer, "http_response")
    return holds is not None


def _call_of(holder: Any, attribute: str) -> SdkCall | None:
    """Return the call that belongs to the HTTP response an object holds."""
    try:
        return _pending.get(getattr(holder, attribute, None))
    except Exception:  # noqa: BLE001 - none, a substitute, or a property's own
        return None
