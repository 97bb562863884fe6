"""Rows in JSON are checked as the same rows in msgpack are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.protocol.samples import count_rejected, events
from tests.agent.protocol.whole import Batch, Decoder, Message

from kaywatch.wire import ErrorCode
from kaywatch_agent.protocol.messages import Rejected
from kaywatch_agent.protocol.text import MAX_TEXT, message_of_json

ROW = {"graph": "checkout", "node": "pay", "seconds": 0.12}


def decode_text(text: bytes) -> Message:
    result = message_of_json(text)
    return result if isinstance(result, Rejected) else Decoder().decode(result)


def batch(value: Any) -> Batch:
    result = decode_text(json.dumps(value).encode())
    assert isinstance(result, Batch), result
    return result


@pytest.mark.parametrize(
    "value",
    [ROW, [ROW], {"events": [ROW]}, {"type": "bye", "client": "x", **ROW}],
)
def test_a_row_is_itself_or_in_a_list(value: Any) -> None:
    (event,) = events(batch(value))
    assert (event["graph"], event["node"]) == ("checkout", "pay")
    assert event["seconds"] == 0.12


def test_a_service_is_that_of_all_rows() -> None:
    assert batch({"service": "cron", **ROW}).service == "cron"
    result = batch({"service": "cron", "events": [ROW, ROW]})
    assert (result.service, len(events(result))) == ("cron", 2)


@pytest.mark.parametrize("value", [{}, {"node": "pay"}, [1], {"events": 3}, [ROW, {}]])
def test_an_invalid_row_is_counted(value: Any) -> None:
    assert count_rejected(batch(value))[ErrorCode.BAD_ROW] == 1


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"pay",
        b"3",
        b"null",
        b'"x"',
        b"[" * 100_000,
        b"\xff",
        b" " * (MAX_TEXT + 1),
    ],
)
def test_invalid_json_is_rejected(text: bytes) -> None:
    result = decode_text(text)
    assert isinstance(result, Rejected)
    assert result.code is ErrorCode.BAD_JSON


@given(st.binary())
def test_no_bytes_raise(text: bytes) -> None:
    decode_text(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_json_raises(value: Any) -> None:
    decode_text(json.dumps(value).encode())
