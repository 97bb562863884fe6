from __future__ import annotations

from typing import Any

import msgpack
import pytest
from tests.agent.protocol.samples import (
    CLIENT,
    ROW,
    START,
    batch,
    count_rejected,
    decode,
    decode_batch,
    decode_rejection,
    events,
    executions,
    hello,
    points,
    rows,
    runs,
)
from tests.agent.protocol.whole import Decoder

from kaywatch import wire
from kaywatch.wire import ErrorCode
from kaywatch_agent.model.bounds import MAX_COUNT
from kaywatch_agent.protocol.limits import MAX_SEQ
from kaywatch_agent.protocol.messages import Bye, Flush, Hello, Rejected

DEEP = b"\x91" * 100_000 + b"\xc0"


def raw(**values: bytes) -> bytes:
    """Return a map from text to values that are encoded already."""
    result = bytes([0x80 + len(values)])
    for key, value in values.items():
        result += msgpack.packb(key) + value
    return result


# -- sound messages --------------------------------------------------------------------


def test_a_hello_is_decoded() -> None:
    assert decode(hello()) == Hello(
        client=CLIENT.hex(),
        service="shop",
        host="web1",
        pid=4711,
        start=START,
        sdk="mine/1.0",
        tags=(("release", "r7"),),
    )


def test_a_hello_needs_only_its_client() -> None:
    message = decode(wire.pack({"type": "hello", "client": CLIENT}))
    assert message == Hello(CLIENT.hex(), "", "", 0, 0.0, "", ())


def test_a_bye_names_the_last_batch_and_the_last_drops() -> None:
    message = decode(wire.bye(CLIENT, 7, {"buffer_full": 3}))
    assert message == Bye(CLIENT.hex(), 7, {"buffer_full": 3})


def test_a_flush_may_be_anonymous() -> None:
    assert decode(wire.flush(CLIENT)) == Flush(CLIENT.hex())
    assert decode(wire.pack({"type": "flush"})) == Flush("")


def test_a_batch_has_its_sequence_and_drops() -> None:
    result = decode_batch(
        batch(seq=9, recorded=12, drops={"buffer_full": 2, "rejected": 1})
    )
    assert (result.client, result.seq, result.sent) == (CLIENT.hex(), 9, START + 10)
    assert (result.service, result.recorded) == ("shop", 12)
    assert result.drops == {"buffer_full": 2, "rejected": 1}
    assert len(events(result)) == 3
    assert not count_rejected(result)


def test_a_batch_needs_nothing_but_its_type() -> None:
    result = decode_batch(wire.pack({"type": "batch"}))
    assert (result.client, result.seq, result.sent, result.recorded) == (
        "",
        None,
        None,
        0,
    )
    assert not events(result)
    assert result.in_flight is None


def test_all_sections_of_a_batch_are_read() -> None:
    result = decode_batch(batch(points=points(2), runs=runs(1)))
    assert len(events(result)) == 6
    assert not count_rejected(result)


# -- no message at all -----------------------------------------------------------------


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\x81\xa4type",
        wire.flush(CLIENT)[:-1],
        wire.flush(CLIENT) + b"\x00",
        b"\xdf\xff\xff\xff\xff",
        raw(type=b"\xa5flush", x=b"\xc1"),
        raw(type=b"\xa5flush", x=b"\xdd\xff\xff\xff\xff"),
        raw(type=b"\xa5flush", x=b"\xc6\xff\xff\xff\xff"),
        raw(type=b"\xa5flush", x=DEEP),
    ],
    ids=lambda packed: packed[:16].hex() or "empty",
)
def test_invalid_msgpack_is_bad_msgpack(packed: bytes) -> None:
    rejection = decode_rejection(packed)
    assert (rejection.code, rejection.seq, rejection.fatal) == (
        ErrorCode.BAD_MSGPACK,
        None,
        False,
    )


@pytest.mark.parametrize(
    "value", [None, 1, "batch", b"batch", [], ["batch"], 1.5, True]
)
def test_a_message_other_than_a_map_is_a_bad_message(value: object) -> None:
    rejection = decode_rejection(wire.pack(value))
    assert rejection.code is ErrorCode.BAD_MESSAGE
    assert rejection.text.startswith("expected a map")


def test_deep_nesting_is_rejected() -> None:
    assert decode_rejection(DEEP).code is ErrorCode.BAD_MESSAGE


@pytest.mark.parametrize("key", [1, b"type", None, 1.5, True])
def test_keys_that_are_no_strings_are_a_bad_message(key: object) -> None:
    packed = msgpack.packb({"type": "flush", key: "flush"})
    assert decode_rejection(packed).code is ErrorCode.BAD_MESSAGE


def test_a_message_without_a_type_is_a_bad_message() -> None:
    rejection = decode_rejection(wire.pack({"v": 1, "client": CLIENT}))
    assert rejection.code is ErrorCode.BAD_MESSAGE
    assert "type" in rejection.text


@pytest.mark.parametrize("name", ["", "Batch", "ack", "x" * 100_000, "\x00", "héllo"])
def test_an_unknown_type_is_reported_with_the_known_ones(name: str) -> None:
    rejection = decode_rejection(wire.pack({"type": name, "seq": 5}))
    assert (rejection.code, rejection.seq) == (ErrorCode.UNKNOWN_TYPE, None)
    assert "hello, batch, flush, bye" in rejection.text
    assert len(rejection.text) < 200


def test_a_duplicate_key_counts_by_its_last_value() -> None:
    packed = b"\x83" + msgpack.packb("type") + msgpack.packb("hello")
    packed += msgpack.packb("type") + msgpack.packb("flush")
    packed += msgpack.packb("client") + msgpack.packb(CLIENT)
    assert decode(packed) == Flush(CLIENT.hex())


def test_unknown_keys_are_ignored_whatever_they_hold() -> None:
    packed = wire.pack({"type": "flush", "x": {"y": [None, {1: 2}]}, "": b"", "z": 1.5})
    assert decode(packed) == Flush("")
    assert decode(raw(type=b"\xa5flush", x=b"\xa1\xff")) == Flush("")


# -- versions --------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 2, -1, 2**64 - 1])
@pytest.mark.parametrize("kind", ["hello", "batch", "flush", "bye", "new"])
def test_another_version_is_reported_and_does_not_end_the_session(
    version: int, kind: str
) -> None:
    packed = wire.pack({"type": kind, "v": version, "client": CLIENT, "seq": 4})
    rejection = decode_rejection(packed)
    assert (rejection.code, rejection.seq) == (ErrorCode.UNSUPPORTED_VERSION, None)
    assert str(version) in rejection.text


@pytest.mark.parametrize(
    "changed", [{"client": "text"}, {"seq": "x"}, {"type": 5}, {"drops": []}]
)
def test_another_version_is_reported_even_with_changed_keys(
    changed: dict[str, Any],
) -> None:
    rejection = decode_rejection(batch(v=2, **changed))
    assert (rejection.code, rejection.seq) == (ErrorCode.UNSUPPORTED_VERSION, None)


@pytest.mark.parametrize("version", ["1", 1.0, True, [1]])
def test_a_version_that_is_no_number_is_a_bad_message(version: object) -> None:
    rejection = decode_rejection(batch(v=version, seq=3))
    assert (rejection.code, rejection.seq) == (ErrorCode.BAD_MESSAGE, 3)


# -- fields of a wrong type ------------------------------------------------------------

WRONG: dict[str, list[object]] = {
    "client": ["0123456789abcdef", 5, [1], {}],
    "service": [5, b"shop", ["shop"], 1.5, True],
    "sent": ["now", True, b"\x00", [1]],
    "recorded": ["3", 3.0, True, [3]],
    "drops": [3, "x", ["x", 1], {"x": "1"}, {"x": 1.0}, {"x": True}, {1: 1}],
    "table": ["text", 5, {}, []],
    "host": [5],
    "pid": ["4711", 1.0],
    "start": ["now"],
    "sdk": [5],
    "tags": [5, ["x"], {"x": 5}, {1: "x"}],
}
CASES = [(key, value) for key, values in WRONG.items() for value in values]


@pytest.mark.parametrize(("key", "value"), CASES)
def test_a_field_of_a_wrong_type_refuses_the_batch_for_good_and_is_named(
    key: str, value: object
) -> None:
    rejection = decode_rejection(batch(seq=5, **{key: value}))
    assert (rejection.code, rejection.seq, rejection.fatal) == (
        ErrorCode.BAD_MESSAGE,
        5,
        False,
    )
    assert key in rejection.text


@pytest.mark.parametrize("key", sorted(WRONG))
def test_nil_is_a_wrong_type(key: str) -> None:
    packed = batch()[1:] + msgpack.packb(key) + b"\xc0"
    message = decode(bytes([batch()[0] + 1]) + packed)
    # `sent` is the one that may be unknown.
    assert isinstance(message, Rejected) == (key != "sent")


@pytest.mark.parametrize("seq", ["1", 1.0, True, b"1", [1], {}, 2**63, 2**64 - 1])
def test_a_seq_that_is_no_seq_refuses_the_batch_without_naming_one(seq: object) -> None:
    rejection = decode_rejection(batch(seq=seq))
    assert (rejection.code, rejection.seq) == (ErrorCode.BAD_MESSAGE, None)
    assert "seq" in rejection.text


@pytest.mark.parametrize("seq", [0, -1, -(2**63)])
def test_a_seq_below_one_refuses_the_batch(seq: int) -> None:
    rejection = decode_rejection(batch(seq=seq))
    assert (rejection.code, rejection.seq) == (ErrorCode.BAD_MESSAGE, None)
    assert f"{seq}, expected 1" in rejection.text


def test_the_highest_seq_is_one() -> None:
    assert decode_batch(batch(seq=MAX_SEQ)).seq == MAX_SEQ


def test_invalid_utf8_in_a_known_key_is_a_bad_message() -> None:
    rejection = decode_rejection(raw(type=b"\xa5batch", service=b"\xa2\xff\xfe"))
    assert rejection.code is ErrorCode.BAD_MESSAGE
    # A surrogate in UTF-8, which Python's own encoder does not make.
    rejection = decode_rejection(raw(type=b"\xa5batch", service=b"\xa3\xed\xa0\x80"))
    assert rejection.code is ErrorCode.BAD_MESSAGE


@pytest.mark.parametrize("client", [b"", b"short", b"x" * 15, b"x" * 17, b"x" * 1_000])
@pytest.mark.parametrize("make", [hello, batch])
def test_a_client_is_sixteen_bytes(client: bytes, make: Any) -> None:
    rejection = decode_rejection(make(client=client))
    assert rejection.code is ErrorCode.BAD_MESSAGE
    assert rejection.seq == (1 if make is batch else None)
    assert "client" in rejection.text


@pytest.mark.parametrize(
    "packed", [hello(client=None), batch(client=None), wire.bye(b"", 1)]
)
def test_a_missing_client_id_is_reported(packed: bytes) -> None:
    rejection = decode_rejection(packed)
    assert (rejection.code, rejection.text) == (
        ErrorCode.BAD_MESSAGE,
        "client: missing",
    )


def test_a_batch_of_rows_and_columns_is_refused_for_good() -> None:
    rejection = decode_rejection(batch(events=[ROW], seq=3))
    assert (rejection.code, rejection.seq) == (ErrorCode.BAD_MESSAGE, 3)
    assert "rows or columns" in rejection.text


# -- numbers out of bounds -------------------------------------------------------------


@pytest.mark.parametrize("pid", [-1, 2**31, 2**64 - 1])
def test_a_pid_out_of_bounds_is_none(pid: int) -> None:
    message = decode(hello(pid=pid))
    assert isinstance(message, Hello)
    assert message.pid == 0


@pytest.mark.parametrize("time", [float("nan"), float("inf"), -1.0, 1e300])
def test_a_time_that_is_none_is_ignored(time: float) -> None:
    message = decode(hello(start=time))
    assert isinstance(message, Hello)
    assert message.start == 0.0
    assert decode_batch(batch(sent=time)).sent is None


def test_a_whole_number_is_a_time_too() -> None:
    assert decode_batch(batch(sent=1_700_000_000)).sent == START


@pytest.mark.parametrize(("value", "bounded"), [(-5, 0), (2**64 - 1, MAX_COUNT)])
def test_recorded_is_kept_in_bounds(value: int, bounded: int) -> None:
    assert decode_batch(batch(recorded=value)).recorded == bounded


def test_drops_are_kept_in_bounds_and_unknown_reasons_are_one() -> None:
    drops = {
        "buffer_full": 2**64 - 1,
        "rejected": -3,
        "unpackable": 0,
        "new": 4,
        "newer": 5,
    }
    assert decode_batch(batch(drops=drops)).drops == {
        "buffer_full": MAX_COUNT,
        "other": 9,
    }


def test_names_are_cut_not_refused() -> None:
    long = "ä" * (wire.MAX_NAME + 1)
    message = decode(hello(service=long, host=long, sdk=long, tags={long: long}))
    assert isinstance(message, Hello)
    cut = "ä" * wire.MAX_NAME
    assert (message.service, message.host, message.sdk) == (cut, cut, cut)
    assert message.tags == ((cut, cut),)
    assert decode_batch(batch(service=long)).service == cut


def test_only_the_first_sixteen_tags_are_kept() -> None:
    message = decode(hello(tags={f"t{number:03}": "x" for number in range(100)}))
    assert isinstance(message, Hello)
    assert [key for key, _ in message.tags] == [f"t{number:03}" for number in range(16)]


# -- one bad part leaves the others ----------------------------------------------------


def test_each_part_of_a_batch_fails_by_itself() -> None:
    result = decode_batch(
        batch(
            executions=executions(3, seconds=[1.0, -1.0, 1.0]),
            points={"series": b"\x00"},
            runs=runs(2),
            failures=5,
            in_flight=[["g", "n", START, "r"], 5],
        )
    )
    assert len(events(result)) == 4
    assert result.in_flight is not None
    assert len(result.in_flight) == 1
    assert count_rejected(result) == {
        ErrorCode.BAD_VALUE: 1,
        ErrorCode.BAD_COLUMNS: 1,
        ErrorCode.BAD_SECTION: 2,
    }
    assert result.problem == (
        "executions.seconds: NaN, negative, or over 253402300799 seconds"
    )


def test_a_decoder_is_as_good_after_bad_messages_as_before() -> None:
    decoder = Decoder()
    for packed in (b"", b"\xc1", DEEP, batch(seq=0), rows(5), batch(table=b"\xc1")):
        decoder.decode(packed)
    assert len(events(decode_batch(batch()))) == 3
    message = decoder.decode(batch())
    assert not isinstance(message, Rejected)
