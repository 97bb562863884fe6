"""Matchers of labels, as Alertmanager has them: `graph="checkout"`, `node!~"debug_.*"`.

Regular expressions are RE2's, anchored at both ends; a label that isn't there is empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

import msgspec

from kaywatch_agent.regex import Expression

__all__ = ["Matcher", "matches", "parse"]

_FORM: Final = re.compile(
    r'\s*([A-Za-z_][A-Za-z0-9_.]*)\s*(=~|!~|!=|=)\s*(?:"((?:[^"\\]|\\.)*)"|([^"\s]*))\s*'
)


class Matcher(msgspec.Struct, frozen=True, rename="camel"):
    """One condition on one label; its JSON is that of Alertmanager's silences."""

    name: str
    value: str
    is_regex: bool = False
    is_equal: bool = True

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Return whether labels meet it."""
        found = labels.get(self.name, "")
        if self.is_regex:
            same = _compiled(self.value).covers(found)
        else:
            same = found == self.value
        return same is self.is_equal

    def __str__(self) -> str:
        op = ("=~" if self.is_equal else "!~") if self.is_regex else None
        op = op or ("=" if self.is_equal else "!=")
        return f'{self.name}{op}"{_escaped(self.value)}"'


def parse(text: str) -> Matcher:
    r"""Return the matcher that a text is, such as `graph="checkout"` or `node=~"a|b"`.

    Raises:
        ValueError: it is none, or its regular expression can't be used.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(
            f'{text}: is no matcher; write graph="checkout", node!="x", node=~"a|b.*"'
        )
    name, op, quoted, plain = found.groups()
    value = plain if quoted is None else re.sub(r'\\(["\\])', r"\1", quoted)
    return checked(Matcher(name, value, op.endswith("~"), op[0] == "="))


def checked(matcher: Matcher) -> Matcher:
    """Return the matcher, if it can be used.

    Raises:
        ValueError: its regular expression can't.
    """
    if matcher.is_regex:
        try:
            _compiled(matcher.value)
        except ValueError as error:
            raise ValueError(f"{matcher}: {error}") from None
    return matcher


def matches(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Return whether labels meet all of several matchers."""
    return all(matcher.holds(labels) for matcher in matchers)


@lru_cache(1024)
def _compiled(pattern: str) -> Expression:
    return Expression(pattern)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
