"""Hooks for the `openai` and `anthropic` packages.

Strategy: both are made by the same generator, and all their calls, be they `create`,
`parse`, `stream`, `with_raw_response` or `with_streaming_response`, of the plain
clients or of those for a cloud, go through `request` of `_base_client`. There a call is
opened. The HTTP response leads to it from then on, for an answer that is parsed later
or a stream; `_sleep_for_retry` is where the SDK is about to try again. Of a request the
path and the model's name are read, of an answer its usage.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar, Token
from types import FunctionType, ModuleType
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from kaywatch._llm.calls import TOO_MANY_REQUESTS, Usage
from kaywatch._llm.streams import AsyncWatched, SdkCall, Watched
from kaywatch._llm.usage import (
    AnthropicTally,
    OpenAITally,
    Tally,
    anthropic_usage,
    model_of,
    openai_usage,
)
from kaywatch._process import process
from kaywatch._wrappers import Function, is_wrapper, seal, warn_once
from kaywatch.wire import MAX_NAME

__all__ = ["SDKS", "patch", "restore"]

log = logging.getLogger("kaywatch")


class Sdk(NamedTuple):
    """What differs between the packages.

    Attributes:
        paths: of the requests that are calls of a language model.
        usage: returns the tokens of an answer.
        tally: makes what adds up the events of a stream.
    """

    paths: frozenset[str]
    usage: Callable[[Any], Usage | None]
    tally: Callable[[], Tally]


SDKS: Final = {
    "openai": Sdk(
        frozenset(
            {
                "/chat/completions",
                "/completions",
                "/embeddings",
                "/responses",
                "/responses/compact",
            }
        ),
        openai_usage,
        OpenAITally,
    ),
    "anthropic": Sdk(
        frozenset({"/v1/messages", "/v1/complete"}), anthropic_usage, AnthropicTally
    ),
}

_current: ContextVar[SdkCall | None] = ContextVar("kaywatch_llm_call", default=None)

# By the HTTP response: a call that waits for its answer to be parsed or read.
_waiting: Final[WeakKeyDictionary[Any, SdkCall]] = WeakKeyDictionary()

_patched: Final[list[tuple[type, str, Function, Function]]] = []

# What `request` returns in place of an answer: streams and raw responses.
_unread: Final[set[type]] = set()
_UNREAD: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("_streaming", ("Stream", "AsyncStream")),
    ("_response", ("BaseAPIResponse",)),
    ("_legacy_response", ("LegacyAPIResponse",)),
)


def restore() -> None:
    """Put back every function that `patch` replaced; streams under way go on."""
    while _patched:
        cls, name, original, ours = _patched.pop()
        if vars(cls).get(name) is ours:
            setattr(cls, name, original)


def patch(module: ModuleType) -> None:
    """Record the calls of an SDK from now on."""
    sdk = SDKS[module.__name__]
    for part, names in _UNREAD:
        _unread.update(_classes(module, part, names))
    for wrap, part, names, name in _functions(sdk):
        for cls in _classes(module, part, names):
            original = vars(cls).get(name)
            if isinstance(original, FunctionType) and not is_wrapper(original):
                _replace(cls, name, original, wrap(original))
            elif name == "request" and original is None:
                log.warning("this version of %s can't be watched", module.__name__)


def _classes(module: ModuleType, part: str, names: tuple[str, ...]) -> list[type]:
    """Return the classes that there are in a part of an SDK."""
    within = sys.modules.get(f"{module.__name__}.{part}")
    found = (getattr(within, name, None) for name in names)
    return [cls for cls in found if isinstance(cls, type)]


def _functions(
    sdk: Sdk,
) -> list[tuple[Callable[[Function], Function], str, tuple[str, ...], str]]:
    """Return who wraps which function, by part and classes; some may not be there."""
    clients = ("SyncAPIClient", "AsyncAPIClient")
    streams = ("Stream", "AsyncStream")
    chat = ("ChatCompletionStream", "AsyncChatCompletionStream")
    responses = ("ResponseStream", "AsyncResponseStream")

    def request(original: Function) -> Function:
        return _request(original, sdk)

    def parse(original: Function) -> Function:
        return _parse(original, sdk, late=True)

    def parse_raw(original: Function) -> Function:
        return _parse(original, sdk, late=False)

    def stream(original: Function) -> Function:
        return _stream(original, sdk)

    return [
        (request, "_base_client", clients, "request"),
        (_process_response, "_base_client", clients, "_process_response"),
        (_sleep_for_retry, "_base_client", clients, "_sleep_for_retry"),
        (parse, "_response", ("APIResponse", "AsyncAPIResponse"), "parse"),
        (parse_raw, "_legacy_response", ("LegacyAPIResponse",), "parse"),
        (stream, "_streaming", streams, "__stream__"),
        (_close, "_streaming", streams, "close"),
        (_close, "lib.streaming.chat._completions", chat, "close"),
        (_close, "lib.streaming.responses._responses", responses, "close"),
    ]


def _replace(cls: type, name: str, original: Function, wrapper: Function) -> None:
    ours = seal(wrapper, original)
    setattr(cls, name, ours)
    _patched.append((cls, name, original, ours))


# -- the call --------------------------------------------------------------------


def _request(original: Function, sdk: Sdk) -> Function:
    def request(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = _open(sdk, args, kwargs)
        if call is None:
            return original(self, *args, **kwargs)
        token = _current.set(call)
        try:
            answer = original(self, *args, **kwargs)
        except BaseException as error:
            call.failed(error)
            raise
        finally:
            _reset(token)
        _returned(call, sdk, answer)
        return answer

    async def request_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = _open(sdk, args, kwargs)
        if call is None:
            return await original(self, *args, **kwargs)
        token = _current.set(call)
        try:
            answer = await original(self, *args, **kwargs)
        except BaseException as error:
            call.failed(error)
            raise
        finally:
            _reset(token)
        _returned(call, sdk, answer)
        return answer

    return request_async if inspect.iscoroutinefunction(original) else request


def _open(sdk: Sdk, args: tuple[Any, ...], kwargs: dict[str, Any]) -> SdkCall | None:
    """Open the call that a request is, None if it is none."""
    if not process.settings.enabled:
        return None
    try:
        options = kwargs.get("options") or args[1]
        path = options.url.partition("?")[0].rstrip("/")
        if path not in sdk.paths or options.method.lower() != "post":
            return None
        body = options.json_data
        model = body.get("model") if isinstance(body, dict) else None
        return SdkCall(model[:MAX_NAME] if isinstance(model, str) else "")
    except Exception:  # noqa: BLE001 - the application goes on without us
        warn_once("an LLM call")
        return None


def _reset(token: Token[SdkCall | None]) -> None:
    try:  # noqa: SIM105 - see Span.close
        _current.reset(token)
    except ValueError:
        pass


def _returned(call: SdkCall, sdk: Sdk, answer: Any) -> None:
    """Record a call whose answer is there; others wait until it is parsed or read."""
    if call.seconds is None:
        call.touch()
    if not isinstance(answer, tuple(_unread)):
        _answered(call, sdk, answer)
        call.finish()


def _answered(call: SdkCall, sdk: Sdk, answer: Any) -> None:
    """Record a call with the usage that its answer tells, if it does."""
    try:
        usage = sdk.usage(answer)
        if usage is not None:
            call.served = model_of(answer)
            call.end(usage)
    except Exception:  # noqa: BLE001
        warn_once("an LLM call's answer")


# -- on its way ------------------------------------------------------------------


def _process_response(original: Function) -> Function:
    def process_response(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            call = _current.get()
            if call is not None:
                _waiting[kwargs["response"]] = call
        except Exception:  # noqa: BLE001 - the application goes on without us
            warn_once("an LLM call's response")
        return original(self, *args, **kwargs)

    return process_response


def _sleep_for_retry(original: Function) -> Function:
    def sleep_for_retry(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = _current.get()
        status = getattr(kwargs.get("response"), "status_code", None)
        if call is not None and status == TOO_MANY_REQUESTS:
            call.limited()
        return original(self, *args, **kwargs)

    return sleep_for_retry


def _parse(original: Function, sdk: Sdk, *, late: bool) -> Function:
    """Wrap `parse`; `late` if the body is read by it, rather than before."""

    def parse(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = original(self, *args, **kwargs)
        _parsed(self, sdk, answer, late)
        return answer

    async def parse_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = await original(self, *args, **kwargs)
        _parsed(self, sdk, answer, late)
        return answer

    return parse_async if inspect.iscoroutinefunction(original) else parse


def _parsed(raw: Any, sdk: Sdk, answer: Any, late: bool) -> None:
    call = _call_of(raw, "http_response")
    if call is not None and not isinstance(answer, tuple(_unread)):
        if late:
            call.touch()
        _answered(call, sdk, answer)


def _stream(original: Function, sdk: Sdk) -> Function:
    watched = AsyncWatched if inspect.isasyncgenfunction(original) else Watched

    def stream(self: Any) -> Any:
        events = original(self)
        call = _call_of(self, "response")
        if call is None or call.tally is not None:
            return events
        call.tally = sdk.tally()
        return watched(events, call)

    return stream


def _close(original: Function) -> Function:
    def close(self: Any) -> Any:
        call = _call_of(self, "response") or _call_of(self, "_response")
        if call is not None:
            call.finish()
        return original(self)

    return close


def _call_of(holder: Any, attribute: str) -> SdkCall | None:
    """Return the call that waits for the HTTP response that an object holds."""
    try:
        return _waiting.get(getattr(holder, attribute, None))
    except TypeError:  # there is none, or a stand-in for one
        return None
