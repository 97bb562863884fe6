"""Reads the tokens from answers and streams of the OpenAI and Anthropic APIs.

Only numbers, types and the model's name are read, never a text. Answers are the SDKs'
models, or dicts where the application requested these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

__all__ = ["AnthropicTally", "OpenAITally", "Tally", "Usage"]


class Usage(NamedTuple):
    """Tokens of one call.

    Attributes:
        input: tokens of the prompt, all of those below included.
        output: tokens of the answer, reasoning included.
        cached: tokens of the prompt that were read from the provider's cache.
        written: tokens of the prompt that were written to the cache for minutes.
        written_long: tokens of the prompt that were written to it for an hour.
    """

    input: float = 0.0
    output: float = 0.0
    cached: float = 0.0
    written: float = 0.0
    written_long: float = 0.0


class Tally(ABC):
    """The usage in the response to one call, at once or in the events of a stream.

    Attributes:
        paths: of the requests that are calls of a language model.
        usage: the tokens so far, None while unknown.
        model: that answers, empty while unknown.
        is_complete: whether `usage` is final.
    """

    paths: ClassVar[frozenset[str]]

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.model = ""
        self.is_complete = False

    @abstractmethod
    def read_answer(self, answer: Any) -> None:
        """Read a whole answer."""

    @abstractmethod
    def read_event(self, event: Any) -> bool:
        """Read an event of a stream; return whether it carries some of the answer."""


class OpenAITally(Tally):
    """Of chat completions, completions, embeddings and responses."""

    paths = frozenset(
        {
            "/chat/completions",
            "/completions",
            "/embeddings",
            "/responses",
            "/responses/compact",
        }
    )

    def read_answer(self, answer: Any) -> None:
        """Read an answer, or a chunk; some servers send the usage with each chunk."""
        self.model = self.model or _model_of(answer)
        usage = _get(answer, "usage")
        if usage is None:
            return
        # Responses name them input and output; the other APIs prompt and completion.
        names = "prompt", "completion"
        if all(_get(usage, f"{name}_tokens") is None for name in names):
            names = "input", "output"
        prompt, completion = names
        details = _get(usage, f"{prompt}_tokens_details")
        self.usage = Usage(
            input=_number(_get(usage, f"{prompt}_tokens")),
            output=_number(_get(usage, f"{completion}_tokens")),
            cached=_number(_get(details, "cached_tokens")),
            written=_number(_get(details, "cache_write_tokens")),
        )
        self.is_complete = True

    def read_event(self, event: Any) -> bool:
        """Read a chunk, or an event of a response."""
        self.read_answer(_get(event, "response") or event)
        kind = _get(event, "type")
        if isinstance(kind, str):
            return kind.endswith(".delta")
        # Some servers send the usage so far with every chunk; the last has no choices.
        has_choices = bool(_get(event, "choices"))
        self.is_complete = self.is_complete and not has_choices
        return has_choices


class AnthropicTally(Tally):
    """Of messages. In a stream, the prompt's tokens come first."""

    paths = frozenset({"/v1/messages", "/v1/complete"})

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, Any] = {}

    def read_answer(self, answer: Any) -> None:
        """Read a message, whose input tokens exclude those of the cache."""
        self.model = _model_of(answer)
        self._update(_get(answer, "usage"))
        self.is_complete = True

    def read_event(self, event: Any) -> bool:
        """Read an event of a message."""
        kind = _get(event, "type")
        if kind == "message_start":
            self.read_answer(_get(event, "message"))
            self.is_complete = False
        elif kind == "message_delta":
            self._update(_get(event, "usage"))
            self.is_complete = True
        return bool(kind == "content_block_delta")

    def _update(self, usage: Any) -> None:
        if usage is None:
            return
        counts = self._counts
        for name in (
            "input_tokens",
            "output_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
            "cache_creation",
        ):
            value = _get(usage, name)
            if value is not None:
                counts[name] = value
        read = _number(counts.get("cache_read_input_tokens"))
        written = _number(counts.get("cache_creation_input_tokens"))
        hour = _get(counts.get("cache_creation"), "ephemeral_1h_input_tokens")
        written_long = min(_number(hour), written)
        self.usage = Usage(
            input=_number(counts.get("input_tokens")) + read + written,
            output=_number(counts.get("output_tokens")),
            cached=read,
            written=written - written_long,
            written_long=written_long,
        )


def _model_of(answer: Any) -> str:
    model = _get(answer, "model")
    return model if isinstance(model, str) else ""


def _get(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return value.get(name)
    own = getattr(value, "__dict__", None)
    if own is None:
        return getattr(value, name, None)
    # The SDKs' models have their fields here. Asking pydantic for a field that isn't
    # there costs 4 us, for each event of a stream.
    field = own.get(name)
    if field is None:
        extra = getattr(value, "__pydantic_extra__", None)
        return extra.get(name) if extra else None
    return field


def _number(value: Any) -> float:
    is_count = isinstance(value, (int, float)) and value >= 0
    return float(value) if is_count else 0.0
