"""Samples are written in both formats, with all kinds of numbers and labels."""

from __future__ import annotations

import pytest

from kaywatch_agent.web.prometheus.exposition import (
    OPENMETRICS,
    PROTOBUF,
    TEXT,
    label_names,
    negotiate,
)
from kaywatch_agent.web.prometheus.text_format import (
    TextExposition,
    escape,
    format_number,
    samples,
)

FAMILY = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html", TEXT),
        ("text/plain", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS),
        ("application/openmetrics-text;version=9.0.0", TEXT),
        ("application/openmetrics-text;q=0.1,text/plain;q=0.5", TEXT),
        ("text/plain;q=0.3, application/openmetrics-text;q=0.7", OPENMETRICS),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=x", TEXT),
        (f"{FAMILY};encoding=delimited", PROTOBUF),
        (f'{FAMILY}; encoding="delimited"; escaping=allow-utf-8', PROTOBUF),
        (f"{FAMILY};encoding=text", TEXT),
        ("application/vnd.google.protobuf;proto=other;encoding=delimited", TEXT),
        # Prometheus 2.42, with native histograms and without.
        (
            (
                f"{FAMILY};encoding=delimited,"
                "application/openmetrics-text;version=1.0.0;q=0.8,"
                "application/openmetrics-text;version=0.0.1;q=0.75,"
                "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
            ),
            PROTOBUF,
        ),
        (
            (
                "application/openmetrics-text;version=1.0.0,"
                "application/openmetrics-text;version=0.0.1;q=0.75,"
                "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
            ),
            OPENMETRICS,
        ),
    ],
)
def test_the_format_is_negotiated(accept: str, expected: object) -> None:
    assert negotiate(accept) is expected


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (-3.0, "-3"),
        (1e15, "1000000000000000"),
        (123456789012345678.0, "123456789012345680"),
        (0.1, "0.1"),
        (1e-7, "1e-07"),
        (1e300, "1e+300"),
    ],
)
def test_integral_numbers_have_neither_fraction_nor_exponent(
    value: float, written: str
) -> None:
    assert format_number(value) == written
    assert float(format_number(value)) == value


def test_label_values_are_escaped() -> None:
    assert escape('a\\b"c\nd') == r"a\\b\"c\nd"
    assert escape("plain → é") == "plain → é"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (["zone"], ["zone"]),
        (["data-size", "größe"], ["data_size", "gr__e"]),
        (["1st", "", "__name__"], ["label_1st", "label_", "label_name__"]),
        (
            ["service", "le", "quantile"],
            ["label_service", "label_le", "label_quantile"],
        ),
        (["a-b", "a_b", "a.b"], ["a_b", "a_b_2", "a_b_3"]),
        (["label_le", "le"], ["label_le", "label_le_2"]),
        (["a-b", "a_b_2", "a_b"], ["a_b", "a_b_2", "a_b_3"]),
    ],
)
def test_label_names_are_made_to_fit(value: list[str], written: list[str]) -> None:
    names = label_names([(name, "v") for name in value])

    assert [name for name, _ in names] == written


def test_an_invalid_number_is_left_out() -> None:
    values = {("a",): float("nan"), ("b",): float("inf"), ("c",): 2.5}

    assert list(samples("x", values, ("l",))) == ['x{l="c"} 2.5']


def test_a_family_without_samples_is_named_all_the_same() -> None:
    exposition = TextExposition(openmetrics=False)
    exposition.family("x", "gauge", "Help.", [])
    assert b"".join(exposition.chunks()) == b"# HELP x Help.\n# TYPE x gauge\n"
