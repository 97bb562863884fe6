"""What is kept of a failure: its type, its message, its traceback; without secrets.

Strategy: a message is bounded (500 characters) and searched once for what looks like a
secret, before it goes to anybody: the store, the interface, alerts, receivers. Patterns
are held to a number of ways in which they may try to match, which bounds what the most
unfortunate text costs; a batch has a budget of time, and what is over it is withheld.
"""

from __future__ import annotations

import re
import re._constants as sre  # type: ignore[import-not-found]
import re._parser as sre_parse  # type: ignore[import-not-found]
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

from msgspec.structs import replace

from kaywatch_agent.model.bounds import MAX_MESSAGE
from kaywatch_agent.model.records import FailureRecord
from kaywatch_agent.protocol.messages import Batch

__all__ = ["SECRETS", "FailureConfig", "Privacy", "ways"]

REDACTED: Final = "[redacted]"
WITHHELD: Final = "[withheld: too much to look through]"

# For 5,000 failures, as many as a batch may have, whose messages are all different.
BATCH_SECONDS: Final = 0.02

# Ways in which all patterns together may try to match at one place of a text. Times
# 500 places these are 2 million steps, some 20 ms.
MAX_WAYS: Final = 4_000

# A text's length stands for a repeat without an end.
ENDLESS: Final = MAX_MESSAGE

# Different messages that are remembered: an outage repeats one of them all day.
REMEMBERED: Final = 2_048

_WORD: Final = r"[A-Za-z0-9_.~+/=-]"
_VALUE: Final = r"[^\s\"',;&]"
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
    # tokens is none of these, and neither is the key of a dict.
    rf"(?i:(?:{_KEYED})[ _-]?key{_EQUALS})(?P<value_0>{_VALUE}+)",
    rf"(?i:(?:{_NAMED}){_EQUALS})(?P<value_1>(?:(?i:bearer|basic)[ ])?{_VALUE}+)",
    rf"(?i:token{_EQUALS})(?P<value>(?![0-9]{{1,9}}\b){_VALUE}+)",
    rf"(?i:\b(?:bearer|basic)[ ])(?P<value_2>{_WORD}{{8,}})",
    # https://user:password@host
    r"://[^\s/:@]{0,40}:(?P<value_3>[^\s/@]+)(?=@)",
    # Keys that begin with what they are, and AWS's
    rf"\b(?P<value_4>(?:{_PREFIXES})[A-Za-z0-9_.-]{{12,}})",
    r"\b(?P<value_5>(?:AKIA|ASIA)[A-Z0-9]{16})\b",
    # A JSON web token, and a key in PEM
    r"\b(?P<value_6>eyJ[A-Za-z0-9_.-]{16,})",
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?P<value_7>[^-]*)",
    # An e-mail address
    r"\b(?P<value_8>[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,40}\.[A-Za-z0-9.-]{2,20})",
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
        tried = 0
        for pattern in self.redact:
            try:
                tried += ways(pattern)
            except (re.error, ValueError) as error:
                raise ValueError(f"redact: {pattern!r}: {error}") from None
            if tried > MAX_WAYS:
                raise ValueError(
                    f"redact: {pattern!r}: on an unfortunate text this takes too long;"
                    " write {1,40} or the like for all but one of its * and +,"
                    " and fewer patterns"
                )


class Privacy:
    """Leaves out of failures what shall not be kept."""

    def __init__(self, config: FailureConfig | None = None) -> None:
        config = config or FailureConfig()
        self.withheld = 0  # messages, since somebody counted
        self._detail = config.detail
        self._cleaned = _cleaner(
            (*(SECRETS if config.redact_secrets else ()), *config.redact)
        )

    def batch(self, batch: Batch) -> Batch:
        """Return a batch as it may be kept."""
        if not batch.failures:
            return batch
        return batch._replace(failures=self.failures(batch.failures))

    def failures(self, found: Iterable[FailureRecord]) -> tuple[FailureRecord, ...]:
        """Return failures as they may be kept."""
        if self._detail == "type":
            return tuple(replace(f, message="", traceback="") for f in found)
        end = time.thread_time() + BATCH_SECONDS
        return tuple(self._failure(failure, end) for failure in found)

    def _failure(self, failure: FailureRecord, end: float) -> FailureRecord:
        if time.thread_time() > end and failure.message:
            self.withheld += 1
            return replace(failure, message=WITHHELD, traceback="")
        message = self._cleaned(failure.message)
        traceback = ""
        if self._detail == "traceback" and failure.traceback:
            lines = failure.traceback.splitlines()
            traceback = "\n".join(self._cleaned(line[:MAX_MESSAGE]) for line in lines)
        return replace(failure, message=message, traceback=traceback)


def ways(pattern: str) -> int:
    """Return in how many ways a pattern may try to match at one place, at most.

    Raises:
        re.error: that is no regular expression.
        ValueError: nobody can tell, or there is no bound.
    """
    re.compile(pattern)
    return _ways(sre_parse.parse(pattern))


# -- inside --------------------------------------------------------------------------


def _cleaner(patterns: Sequence[str]) -> Callable[[str], str]:
    compiled = [re.compile(pattern) for pattern in patterns]

    @lru_cache(maxsize=REMEMBERED)
    def cleaned(text: str) -> str:
        for pattern in compiled:
            text = pattern.sub(_without, text)
        return text[:MAX_MESSAGE]

    return cleaned


def _without(found: re.Match[str]) -> str:
    """Return what matched without its secret, which is the named group or all."""
    group = found.lastgroup
    if group is None or not group.startswith("value"):
        return REDACTED
    start, end = (at - found.start() for at in found.span(group))
    text = found.group()
    return text[:start] + REDACTED + text[end:]


def _ways(items: Any) -> int:
    """Return in how many ways a sequence can match: those of its parts multiplied."""
    found = 1
    for kind, argument in items:
        found *= _ways_of(kind, argument)
        if found > 10**9:
            raise ValueError("this has too many ways to match")
    return found


def _ways_of(kind: Any, argument: Any) -> int:
    if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        least, most, inner = argument
        return _ways_of_repeat(int(least), int(most), inner)
    if kind is sre.BRANCH:
        return sum(_ways(branch) for branch in argument[1])
    if kind is sre.SUBPATTERN:
        return _ways(argument[-1])
    if kind is sre.ATOMIC_GROUP:
        return _ways(argument)
    if kind in (sre.ASSERT, sre.ASSERT_NOT):
        return _ways(argument[1])
    if kind in (sre.GROUPREF, sre.GROUPREF_EXISTS, sre.GROUPREF_IGNORE):
        raise ValueError("a reference to a group is not for these")
    return 1


def _ways_of_repeat(least: int, most: int, inner: Any) -> int:
    each = _ways(inner)
    if most > ENDLESS:
        if each > 1:
            raise ValueError(
                "what is repeated without an end has parts of several lengths, or"
                " alternatives, so that an unfortunate text may take for ever"
            )
        return ENDLESS
    if each > 1 and most > 64:
        raise ValueError("this has too many ways to match")
    return int((most - least + 1) * each**most)
