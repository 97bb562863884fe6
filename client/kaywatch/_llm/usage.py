"""What the answers of the OpenAI and Anthropic APIs say about tokens.

Only figures and types are read, never a text. Answers are the SDKs' models, or dicts
where the application asked for these.
"""

from __future__ import annotations

from typing import Any, Protocol

from kaywatch._llm.calls import Usage

__all__ = ["AnthropicTally", "OpenAITally", "Tally", "anthropic_usage", "openai_usage"]


class Tally(Protocol):
    """What the events of one stream said so far."""

    @property
    def usage(self) -> Usage | None:
        """The tokens, None if unknown."""

    @property
    def served(self) -> str:
        """The model that answers, empty if unknown."""

    @property
    def complete(self) -> bool:
        """Whether `usage` is all there will be."""

    def take(self, event: Any) -> bool:
        """Take in an event; return whether it carries some of the answer."""


class OpenAITally:
    """Of chat completions, completions and responses."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.served = ""
        self.complete = False

    def take(self, event: Any) -> bool:
        """Take in a chunk, or an event of a response."""
        answer = _get(event, "response") or event
        usage = openai_usage(answer)
        if usage is not None:
            # With each chunk from some servers: the last one is the total.
            self.usage, self.complete = usage, True
        self.served = self.served or model_of(answer)
        kind = _get(event, "type")
        if isinstance(kind, str):
            return kind.endswith(".delta")
        return bool(_get(event, "choices"))


class AnthropicTally:
    """Of messages: the prompt's tokens come first, the answer's grow to the end."""

    def __init__(self) -> None:
        self.served = ""
        self.complete = False
        self._figures: dict[str, Any] = {}

    @property
    def usage(self) -> Usage | None:
        """The tokens known so far."""
        return _anthropic(self._figures) if self._figures else None

    def take(self, event: Any) -> bool:
        """Take in an event of a message."""
        kind = _get(event, "type")
        if kind == "message_start":
            message = _get(event, "message")
            self.served = model_of(message)
            self._merge(_get(message, "usage"))
        elif kind == "message_delta":
            self._merge(_get(event, "usage"))
            self.complete = True
        return bool(kind == "content_block_delta")

    def _merge(self, usage: Any) -> None:
        for name in _ANTHROPIC:
            value = _get(usage, name)
            if value is not None:
                self._figures[name] = value


def openai_usage(answer: Any) -> Usage | None:
    """Return the tokens of an answer; its input includes what was cached."""
    usage = _get(answer, "usage")
    if usage is None:
        return None
    # Chat, completions and embeddings have the first names, responses the second.
    prompt, completion = _get(usage, "prompt_tokens"), _get(usage, "completion_tokens")
    details = _get(usage, "prompt_tokens_details")
    if prompt is None and completion is None:
        prompt, completion = _get(usage, "input_tokens"), _get(usage, "output_tokens")
        details = _get(usage, "input_tokens_details")
    return Usage(
        input=_number(prompt),
        output=_number(completion),
        cached=_number(_get(details, "cached_tokens")),
        written=_number(_get(details, "cache_write_tokens")),
    )


_ANTHROPIC = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation",
)


def anthropic_usage(answer: Any) -> Usage | None:
    """Return the tokens of an answer; its input leaves out what was cached."""
    usage = _get(answer, "usage")
    if usage is None:
        return None
    return _anthropic({name: _get(usage, name) for name in _ANTHROPIC})


def model_of(answer: Any) -> str:
    """Return the model that answered, empty if the answer doesn't say."""
    model = _get(answer, "model")
    return model if isinstance(model, str) else ""


def _anthropic(figures: dict[str, Any]) -> Usage:
    read = _number(figures.get("cache_read_input_tokens"))
    written = _number(figures.get("cache_creation_input_tokens"))
    hour = _get(figures.get("cache_creation"), "ephemeral_1h_input_tokens")
    long = min(_number(hour), written)
    return Usage(
        input=_number(figures.get("input_tokens")) + read + written,
        output=_number(figures.get("output_tokens")),
        cached=read,
        written=written - long,
        written_long=long,
    )


def _get(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return value.get(name)
    own = getattr(value, "__dict__", None)
    if own is None:
        return getattr(value, name, None)
    # Where the SDKs' models have their fields. To ask pydantic for one that isn't there
    # costs 4 us, for each event of a stream.
    found = own.get(name)
    if found is None:
        extra = getattr(value, "__pydantic_extra__", None)
        return extra.get(name) if extra else None
    return found


def _number(value: Any) -> float:
    usual = isinstance(value, (int, float)) and value >= 0
    return float(value) if usual else 0.0
