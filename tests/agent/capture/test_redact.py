"""Redacted messages keep names and numbers, and no texts of users."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.agent.protocol.samples import (
    CLIENT,
    FLIGHT,
    TABLE,
    batch,
    calm,
    executions,
    hello,
    points,
    rows,
)
from tests.agent.protocol.whole import Batch, Decoder

from kaywatch import wire
from kaywatch_agent.capture.redact import MessageRedactor

SECRET = "order of jane@example.com"


def redact_message(message: bytes) -> bytes:
    result = MessageRedactor().redact(message)
    assert result is not None
    return result


def test_error_messages_are_replaced_and_names_stay() -> None:
    failure = {
        "time": 5.0,
        "graph": "checkout",
        "node": "ship",
        "type": "Timeout",
        "message": SECRET,
        "traceback": SECRET,
    }
    message = redact_message(batch(seq=1, failures=[failure], in_flight=[FLIGHT]))
    assert SECRET.encode() not in message
    (result,) = wire.decode(message)["failures"]
    assert result == {
        "time": 5.0,
        "graph": "checkout",
        "node": "ship",
        "type": "Timeout",
        "message": f"redacted ({len(SECRET)} characters)",
    }


def test_numbers_and_tables_stay_the_same() -> None:
    whole = batch(seq=1, executions=executions(5), points=points(2))
    before, after = Decoder().decode(whole), Decoder().decode(redact_message(whole))
    assert isinstance(before, Batch) and isinstance(after, Batch)
    assert before.executions is not None and after.executions is not None
    assert (before.executions.seconds == after.executions.seconds).all()
    assert before.table.strings == after.table.strings
    assert before.table.points == after.table.points
    assert not after.rejected


def test_labels_and_tags_stay_only_if_they_look_like_names() -> None:
    point = ["count", 6, 1, 2, {"model": "gpt-5.1", "user": SECRET, "again": SECRET}]
    message = redact_message(
        batch(seq=1, table=wire.pack({**TABLE, "points": [point]}), points=points(1))
    )
    table = wire.decode(wire.decode(message)["table"])
    assert table["points"][0][4] == {
        "model": "gpt-5.1",
        "user": "redacted-1",
        "again": "redacted-1",
    }
    output = wire.decode(
        redact_message(hello(host="web1", tags={"a": SECRET, "zone": "b"}))
    )
    assert output["tags"] == {"a": "redacted-1", "zone": "b"}
    assert output["host"] == "redacted"
    row = {"metric": "size", "value": 1, "labels": {"who": SECRET}, "note": SECRET}
    (rest,) = wire.decode(redact_message(rows(row)))["events"]
    assert rest == {"metric": "size", "value": 1, "labels": {"who": "redacted-1"}}


def test_unknown_keys_are_removed() -> None:
    message = batch(
        seq=1, prompt=SECRET, executions={**executions(1), "inputs": SECRET.encode()}
    )
    assert SECRET.encode() not in redact_message(message)


def test_malformed_messages_are_left_out() -> None:
    for section in (7, [7], [{"message": 7}], {"a": "b"}):
        assert MessageRedactor().redact(batch(seq=1, failures=section)) is None
    assert MessageRedactor().redact(b"\xc1") is None
    assert MessageRedactor().redact(wire.flush(CLIENT)) == wire.flush(CLIENT)


@calm
@given(st.binary(max_size=60))
def test_hostile_bytes_never_raise(junk: bytes) -> None:
    MessageRedactor().redact(junk)
    MessageRedactor().redact(batch(seq=1, table=junk))
