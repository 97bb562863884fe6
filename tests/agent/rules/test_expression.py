from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaywatch_agent.rules.expression import Predicate, parse

NAMES = ("success_rate", "executions", "latency_p95")
NAN = float("nan")


def read(text: str) -> Predicate:
    return parse(text, lambda name: name in NAMES or name.startswith("custom."), NAMES)


def truth(text: str, **values: float) -> int:
    columns = {name: np.array([values.get(name, NAN)]) for name in NAMES}
    columns["custom.queue.last"] = np.array([values.get("queue", NAN)])
    return int(read(text).truth(columns)[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("success_rate < 0.95", 1),
        ("success_rate < 0.9", -1),
        ("success_rate < 0.95 and executions >= 20", 1),
        ("success_rate < 0.95 and executions >= 100", -1),
        ("latency_p95 > 2", 0),  # not known
        ("latency_p95 > 2 and executions > 100", -1),  # decided without it
        ("latency_p95 > 2 and executions > 10", 0),
        ("latency_p95 > 2 or executions > 10", 1),
        ("latency_p95 > 2 or executions > 100", 0),
        ("not latency_p95 > 2", 0),
        ("not (success_rate < 0.95 or executions > 100)", -1),
        ("success_rate == 0.94", 1),
        ("success_rate > -1", 1),
        ("custom.queue.last > 3", 1),
    ],
)
def test_truth_has_three_values(text: str, expected: int) -> None:
    assert truth(text, success_rate=0.94, executions=50, queue=4.0) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("succes_rate < 0.9", "did you mean success_rate"),
        ("0.5 < success_rate < 0.9", "chained comparison"),
        ("success_rate", "not a comparison"),
        ("success_rate < 'a'", "expected a number"),
        ("success_rate < True", "expected a number"),
        ("__import__('os').system('x') > 1", "a metric, then"),
        ("success_rate < 9**9**9", "expected a number"),
        ("success_rate in (1, 2)", "a metric, then"),
        ("(lambda: 1)() > 0", "a metric, then"),
        ("success_rate <", "invalid syntax"),
        ("", "invalid syntax"),
        ("executions > 1and success_rate < 0.9", "invalid syntax"),
        ("success_rate < 1 and " * 30 + "executions > 1", "at most 500"),
        ("not " * 25 + "executions > 1", "nested"),
        ("success_rate < 0.9\x00", "invalid syntax"),
    ],
)
def test_an_invalid_expression_is_an_error_with_the_reason(
    text: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        read(text)


@given(st.text(max_size=80))
def test_nothing_else_comes_of_any_text(text: str) -> None:
    try:
        condition = read(text)
    except ValueError:
        return
    assert str(read(str(condition))) == str(condition)


def test_it_is_written_as_it_is_meant() -> None:
    text = "not (success_rate < 0.9 and executions > 1)"
    text += " and (executions > 1 or latency_p95 > 2)"
    assert str(read(text)) == text
    assert read(text).metrics() == set(NAMES)
