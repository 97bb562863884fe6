from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaywatch_agent.rules.matchers import Matcher, matches, parse


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ('graph="checkout"', {"graph": "checkout"}, True),
        ("graph=checkout", {"graph": "checkout"}, True),
        ('graph!="checkout"', {"graph": "etl"}, True),
        ('graph!="checkout"', {}, True),
        ('graph=""', {}, True),
        ('node=~"a|b.*"', {"node": "bcd"}, True),
        ('node=~"a|b.*"', {"node": "xa"}, False),  # anchored
        ('node!~"debug_.*"', {"node": "debug_1"}, False),
        (r'node=~"a\.b"', {"node": "a.b"}, True),
        (r'node=~"a\.b"', {"node": "axb"}, False),
        (r'node="say \"hi\""', {"node": 'say "hi"'}, True),
    ],
)
def test_matching(text: str, labels: dict[str, str], expected: bool) -> None:
    assert matches([parse(text)], labels) is expected


@pytest.mark.parametrize("text", ["graph", "=x", 'graph="', 'node=~"("', "a b=c", ""])
def test_what_is_no_matcher_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(text)


@given(st.text(max_size=20), st.booleans())
def test_any_value_can_be_written(value: str, equal: bool) -> None:
    matcher = Matcher("node", value, is_equal=equal)
    assert parse(str(matcher)) == matcher


def test_its_json_is_that_of_an_alertmanager() -> None:
    data = msgspec.json.encode(parse('node!~"a.*"'))
    assert data == b'{"name":"node","value":"a.*","isRegex":true,"isEqual":false}'


@pytest.mark.parametrize(
    "pattern", ["a{1001}", "((a{99}){99}){99}", "a(?=b)", r"(a)\\1", "(" * 20_000]
)
def test_a_pattern_that_cannot_be_used_is_a_mistake_and_no_crash(pattern: str) -> None:
    with pytest.raises(ValueError, match="node=~"):
        parse(f'node=~"{pattern}"')


@pytest.mark.parametrize(
    "pattern", ["(a+)+b", "(a|a)*b", "(.*)*x", "(" * 99 + ")" * 99]
)
def test_no_pattern_takes_long(pattern: str) -> None:
    # A test that hangs is how this would fail.
    assert not parse(f'node=~"{pattern}"').holds({"node": "a" * 5_000})


def test_half_a_character_is_a_character() -> None:
    assert parse('node=~"a.b"').holds({"node": "a\ud800b"})
