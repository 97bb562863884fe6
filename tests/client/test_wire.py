from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest

from kaywatch import wire

CLIENT = bytes(range(16))


def fields(message: bytes) -> dict[str, Any]:
    decoded = msgpack.unpackb(message)
    assert isinstance(decoded, dict)
    return decoded


def test_hello_has_the_identity() -> None:
    message = wire.hello(
        client=CLIENT,
        service="shop",
        host="web1",
        pid=4711,
        start=1.5,
        sdk="mine/1.0",
        tags={"release": "r7"},
    )
    assert fields(message) == {
        "type": "hello",
        "v": 1,
        "client": CLIENT,
        "service": "shop",
        "host": "web1",
        "pid": 4711,
        "start": 1.5,
        "sdk": "mine/1.0",
        "tags": {"release": "r7"},
    }


def batch(**changed: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "client": CLIENT,
        "seq": 3,
        "sent": 2.5,
        "service": "shop",
        "recorded": 9,
        "sections": {},
    }
    return fields(wire.batch(**{**arguments, **changed}))


def test_batch_has_its_sections_at_the_top_level() -> None:
    message = batch(sections={"events": [{"node": "pay"}], "table": b"t"})
    assert message == {
        "type": "batch",
        "v": 1,
        "client": CLIENT,
        "seq": 3,
        "sent": 2.5,
        "service": "shop",
        "recorded": 9,
        "events": [{"node": "pay"}],
        "table": b"t",
    }


@pytest.mark.parametrize("drops", [None, {}])
def test_batch_without_drops_has_no_drops_key(drops: dict[str, int]) -> None:
    assert "drops" not in batch(drops=drops)
    assert batch(drops={"buffer_full": 2})["drops"] == {"buffer_full": 2}


def test_the_small_messages() -> None:
    assert fields(wire.flush(CLIENT)) == {"type": "flush", "v": 1, "client": CLIENT}
    assert fields(wire.bye(CLIENT, 4)) == {
        "type": "bye",
        "v": 1,
        "client": CLIENT,
        "seq": 4,
        "drops": {},
    }
    assert fields(wire.ack(4, CLIENT)) == {"type": "ack", "client": CLIENT, "seq": 4}
    assert fields(wire.slow(2.5)) == {"type": "slow", "seconds": 2.5}


def test_error_has_seq_only_for_a_rejected_batch() -> None:
    code = wire.ErrorCode.BAD_MESSAGE
    message = {"type": "error", "code": "bad_message", "text": "why"}
    assert fields(wire.error(code, "why")) == message
    assert fields(wire.error(code, "why", 7)) == {**message, "seq": 7}


def test_frame_is_a_length_and_a_message() -> None:
    assert wire.frame(b"abc") == b"\x00\x00\x00\x03abc"
    assert wire.frame(b"") == bytes(4)


def test_lone_surrogates_become_question_marks() -> None:
    # As os.fsdecode makes of a file name, in an exception's message.
    assert fields(wire.pack({"a": "caf\udce9", "b\ud800": ["ä"]})) == {
        "a": "caf?",
        "b?": ["ä"],
    }


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\xa5text!",
        b"\x90",
        b"\xc0",
        b"\x81\xa1a",
        b"\x81\x01\x01",
        b"\x81\xa1a\xa1\xff",
        wire.slow(1.0) + b"\x00",
        b"\x91" * 10_000,
        b"\x81\x90\x01",
    ],
)
def test_invalid_message_is_a_value_error(message: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - msgpack's own texts
        wire.decode(message)


def test_columns_have_the_documented_sizes() -> None:
    sizes = {"B": 1, "H": 2, "I": 4, "f": 4, "d": 8}
    for columns in (
        wire.EXECUTION_COLUMNS,
        wire.PHASE_COLUMNS,
        wire.POINT_COLUMNS,
        wire.RUN_COLUMNS,
    ):
        for code in columns.values():
            assert struct.calcsize(code) == sizes[code]


def test_an_execution_costs_25_bytes_and_16_more_with_phases() -> None:
    assert struct.calcsize("<" + "".join(wire.EXECUTION_COLUMNS.values())) == 25
    assert struct.calcsize("<" + "".join(wire.PHASE_COLUMNS.values())) == 16


def test_exported_names_exist() -> None:
    for name in wire.__all__:
        assert hasattr(wire, name)
