"""What is kept of a failure: its type, its message, its traceback; without secrets.

Strategy: a text is bounded and searched once for all that looks like a secret, before
it goes to anybody: the store, the interface, alerts, receivers. The search takes time
in proportion to the text, whatever the patterns; 500 characters without a secret take
some 2 us. What takes longer is to replace, so a batch has so many secrets at most.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from msgspec.structs import replace

from kaywatch_agent.model.bounds import MAX_MESSAGE
from kaywatch_agent.model.records import FailureRecord
from kaywatch_agent.regex import ExpressionSet, encoded

__all__ = ["SECRETS", "FailureConfig", "Privacy"]

REDACTED: Final = "[redacted]"
WITHHELD: Final = "[withheld: too much to look through]"

# Secrets of one batch that are replaced, at some 5 us each; a text that comes after
# them is withheld. A batch may have 5,000 failures, with up to 100 secrets in each.
MAX_SECRETS: Final = 4_000

# Different messages that are remembered: an outage repeats one of them all day.
REMEMBERED: Final = 2_048

_WORD: Final = r"[A-Za-z0-9_.~+/=-]"
_VALUE: Final = r"[^\s\"',;&]"
_NO_NUMBER: Final = r"[0-9]{0,9}[\pL_]|[0-9]{10}|[^\s\"',;&0-9]"
_EQUALS: Final = r"[\"']?[ ]?[:=][ ]?[\"']?"
_KEYED: Final = "api|access|secret|private|auth|client|session|signing"
_NAMED: Final = "secret|passwd|password|passphrase|pwd|credential|authorization"

# OpenAI, Anthropic, Stripe, GitHub, GitLab, Slack, Google, Hugging Face, webhooks, npm
_PREFIXES: Final = (
    r"sk-|pk_|sk_|rk_|gh[pousr]_|github_pat_|glpat-|xox[a-z]-|xapp-|AIza|ya29\.|hf_"
    r"|whsec_|npm_"
)

# What is left of a key and its value is the key.
SECRETS: Final = (
    # api_key=..., "password": "...": the value to the next blank or quote. A number of
    # tokens, of up to nine digits, is none of these, and neither is the key of a dict.
    rf"(?i:(?:{_KEYED})[ _-]?key{_EQUALS})(?P<value>{_VALUE}+)",
    rf"(?i:(?:{_NAMED}){_EQUALS})(?P<value>(?:(?i:bearer|basic)[ ])?{_VALUE}+)",
    rf"(?i:token{_EQUALS})(?P<value>(?:{_NO_NUMBER}){_VALUE}*)",
    rf"(?i:\b(?:bearer|basic)[ ])(?P<value>{_WORD}{{8,}})",
    # https://user:password@host
    r"://[^\s/:@]{0,40}:(?P<value>[^\s/@]+)@",
    # Keys that begin with what they are, and AWS's
    rf"\b(?P<value>(?:{_PREFIXES})[A-Za-z0-9_.-]{{12,}})",
    r"\b(?P<value>(?:AKIA|ASIA)[A-Z0-9]{16})\b",
    # A JSON web token, and a key in PEM
    r"\b(?P<value>eyJ[A-Za-z0-9_.-]{16,})",
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?P<value>[^-]*)",
    # An e-mail address
    r"\b(?P<value>[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,40}\.[A-Za-z0-9.-]{2,20})",
)


@dataclass(frozen=True)
class FailureConfig:
    """What is kept of failures (`[failures]`).

    Attributes:
        detail: their type alone, their message too, or also their traceback, where the
            client sends it.
        redact_secrets: whether what looks like a key, a token, a password or an e-mail
            address is left out of messages.
        redact: further regular expressions, of which all that matches is left out, or
            the group named `value` where there is one.
    """

    detail: Literal["type", "message", "traceback"] = "message"
    redact_secrets: bool = True
    redact: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in self.redact:
            try:
                ExpressionSet([pattern])
            except ValueError as error:
                raise ValueError(f"redact: {pattern!r}: {error}") from None
        try:
            ExpressionSet(self.patterns)
        except ValueError as error:
            raise ValueError(f"redact: {error}") from None

    @property
    def patterns(self) -> tuple[str, ...]:
        """All that is left out."""
        return (*(SECRETS if self.redact_secrets else ()), *self.redact)


class Privacy:
    """Leaves out of failures what shall not be kept."""

    def __init__(self, config: FailureConfig | None = None) -> None:
        config = config or FailureConfig()
        self.withheld = 0  # messages, since somebody counted
        self._detail = config.detail
        self._patterns = ExpressionSet(config.patterns)
        self._replaced = 0  # secrets, in all texts
        self._cleaned = lru_cache(REMEMBERED)(self._clean)

    def failures(self, found: Iterable[FailureRecord]) -> tuple[FailureRecord, ...]:
        """Return failures as they may be kept."""
        if self._detail == "type":
            return tuple(replace(f, message="", traceback="") for f in found)
        most = self._replaced + MAX_SECRETS
        return tuple(self._failure(failure, most) for failure in found)

    def _failure(self, failure: FailureRecord, most: int) -> FailureRecord:
        if self._replaced >= most and failure.message:
            self.withheld += 1
            return replace(failure, message=WITHHELD, traceback="")
        message = self._cleaned(failure.message)[:MAX_MESSAGE]
        kept = self._detail == "traceback"
        traceback = self._cleaned(failure.traceback) if kept else ""
        return replace(failure, message=message, traceback=traceback)

    def _clean(self, text: str) -> str:
        data = encoded(text)
        for expression in self._patterns.matching(data):
            data, times = expression.replace(data, REDACTED.encode(), MAX_SECRETS)
            self._replaced += times
        return data.decode()
