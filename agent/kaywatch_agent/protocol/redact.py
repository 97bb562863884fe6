"""Remove secrets from failures, and details that must not be kept.

Strategy: each text is bounded and searched once for all patterns of secrets, before the
store, the user interface, alerts or receivers can read it. The search takes time
proportional to the length of the text, whatever the patterns: 500 characters without a
secret take some 2 us. Replacing a secret takes longer, so the number per batch is
limited.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, Literal

from msgspec.structs import replace

from kaywatch_agent.model.bounds import MAX_MESSAGE
from kaywatch_agent.model.records import FailureRecord
from kaywatch_agent.regex import ExpressionSet, encode_text

__all__ = ["REDACTED", "SECRETS", "FailureConfig", "Privacy", "remove_secrets"]

REDACTED: Final = "[redacted]"
WITHHELD: Final = "[withheld: too much to look through]"

# Secrets that are replaced in one batch, at some 5 us each. Messages after that are
# withheld. A batch may have 5,000 failures, with up to 100 secrets in each.
MAX_SECRETS: Final = 4_000

# Redacted messages in the cache: during an outage, the same one repeats all day.
CACHE_SIZE: Final = 2_048

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

# Only the group `value` is replaced, so that the key remains readable.
SECRETS: Final = (
    # api_key=..., "password": "...": the value up to the next blank or quote. Up to
    # nine digits after "token" are a count of tokens, not a secret.
    rf"(?i:(?:{_KEYED})[ _-]?key{_EQUALS})(?P<value>{_VALUE}+)",
    rf"(?i:(?:{_NAMED}){_EQUALS})(?P<value>(?:(?i:bearer|basic)[ ])?{_VALUE}+)",
    rf"(?i:token{_EQUALS})(?P<value>(?:{_NO_NUMBER}){_VALUE}*)",
    rf"(?i:\b(?:bearer|basic)[ ])(?P<value>{_WORD}{{8,}})",
    # https://user:password@host
    r"://[^\s/:@]{0,40}:(?P<value>[^\s/@]+)@",
    # Keys with a prefix that names their issuer, and those of AWS
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
    """How much of an exception is recorded (`[failures]`).

    Attributes:
        detail: the type only, the type and message, or also the traceback if the
            client sends it.
        redact_secrets: whether keys, tokens, passwords and e-mail addresses in messages
            are replaced by `[redacted]`.
        redact: further regular expressions. Each match is replaced, or only its group
            named `value` if it has one.
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
        if self.redact:  # SECRETS alone are valid
            try:
                ExpressionSet(self.patterns)
            except ValueError as error:
                raise ValueError(f"redact: {error}") from None

    @property
    def patterns(self) -> tuple[str, ...]:
        """The regular expressions of all text to replace."""
        return (*(SECRETS if self.redact_secrets else ()), *self.redact)


def remove_secrets(text: str) -> str:
    """Return a text of any length without the secrets that `SECRETS` describes."""
    data = encode_text(text)
    for expression in ExpressionSet(SECRETS).matching(data):
        data, _ = expression.replace(data, REDACTED.encode(), limit=0)  # all of them
    return data.decode()


class Privacy:
    """Redacts failures before they are stored or shown."""

    def __init__(self, config: FailureConfig | None = None) -> None:
        config = config or FailureConfig()
        self.withheld = 0  # messages, since the caller last reset it
        self._config = config
        self._replaced = 0  # secrets in all texts
        self._cleaned = lru_cache(CACHE_SIZE)(self._clean)

    def redact(self, failures: Iterable[FailureRecord]) -> tuple[FailureRecord, ...]:
        """Return failures with the configured detail, without secrets."""
        if self._config.detail == "type":
            return tuple(replace(f, message="", traceback="") for f in failures)
        limit = self._replaced + MAX_SECRETS
        return tuple(self._redact_one(failure, limit) for failure in failures)

    @cached_property
    def _patterns(self) -> ExpressionSet:
        # Compiled with the first message: 3 MB that an idle agent does not need.
        return ExpressionSet(self._config.patterns)

    def _redact_one(self, failure: FailureRecord, limit: int) -> FailureRecord:
        if self._replaced >= limit and failure.message:
            self.withheld += 1
            return replace(failure, message=WITHHELD, traceback="")
        message = self._cleaned(failure.message)[:MAX_MESSAGE]
        traceback = ""
        if self._config.detail == "traceback":
            traceback = self._cleaned(failure.traceback)
        return replace(failure, message=message, traceback=traceback)

    def _clean(self, text: str) -> str:
        data = encode_text(text)
        for expression in self._patterns.matching(data):
            data, times = expression.replace(data, REDACTED.encode(), MAX_SECRETS)
            self._replaced += times
        return data.decode()
