"""Label matchers as in Alertmanager: `graph="checkout"`, `node!~"debug_.*"`.

Regular expressions use RE2's syntax and are anchored at both ends. A missing label
counts as empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from kaywatch_agent.regex import Expression

__all__ = ["Matcher", "matches", "parse"]

_FORM: Final = re.compile(
    r'\s*([A-Za-z_][A-Za-z0-9_.]*)\s*(=~|!~|!=|=)\s*(?:"((?:[^"\\]|\\.)*)"|([^"\s]*))\s*'
)


class Matcher(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One condition on one label. Its JSON is that of Alertmanager's silences."""

    # These bound what a silence over HTTP can occupy, in memory and in the store.
    name: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", max_length=200)]
    value: Annotated[str, Meta(max_length=1000)]
    is_regex: bool = False
    is_equal: bool = True

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Return whether it matches labels."""
        value = labels.get(self.name, "")
        if self.is_regex:
            # Expressions are anchored at both ends, as in Prometheus and Alertmanager.
            equal = _compiled(self.value).fullmatch(value)
        else:
            equal = value == self.value
        return equal is self.is_equal

    def __str__(self) -> str:
        op = ("=~" if self.is_equal else "!~") if self.is_regex else None
        op = op or ("=" if self.is_equal else "!=")
        value = self.value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{self.name}{op}"{value}"'


def parse(text: str) -> Matcher:
    r"""Parse a matcher such as `graph="checkout"` or `node=~"a|b"`.

    Raises:
        ValueError: it is invalid, or its regular expression is.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(
            f"invalid matcher {text}: expected a matcher such as"
            ' graph="checkout", node!="x" or node=~"a|b.*"'
        )
    name, op, quoted, plain = match.groups()
    value = plain if quoted is None else re.sub(r'\\(["\\])', r"\1", quoted)
    return validate_matcher(Matcher(name, value, op.endswith("~"), op[0] == "="))


def validate_matcher(matcher: Matcher) -> Matcher:
    """Return the matcher if it is valid.

    Raises:
        ValueError: its regular expression is invalid.
    """
    if matcher.is_regex:
        try:
            _compiled(matcher.value)
        except ValueError as error:
            raise ValueError(f"{matcher}: {error}") from None
    return matcher


def matches(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Return whether all matchers match labels."""
    return all(matcher.holds(labels) for matcher in matchers)


# Silences and inhibitions apply their matchers to every alert in every evaluation.
@lru_cache(1024)
def _compiled(pattern: str) -> Expression:
    return Expression(pattern)
