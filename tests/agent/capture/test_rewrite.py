"""Captured messages become those of a replay: new clients, times from now."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.agent.protocol.samples import (
    CLIENT,
    FAILURE,
    FLIGHT,
    ROW,
    START,
    batch,
    calm,
    executions,
    hello,
    plain,
    points,
    rows,
    runs,
)
from tests.agent.protocol.whole import Batch, Decoder

from kaywatch import wire
from kaywatch_agent.capture.rewrite import (
    MessageRewriter,
    RewrittenMessage,
    count_events,
    send_offset,
)

SHIFT = 1_000.0


def rewritten(
    message: bytes, shift: float = SHIFT, salt: bytes = b"one"
) -> RewrittenMessage:
    out = MessageRewriter(salt).rewrite(message, 1, shift)
    assert out is not None
    return out


def decode_message(message: bytes) -> Any:
    return Decoder().decode(message)


def test_each_replay_uses_client_ids_of_its_own() -> None:
    ids = {rewritten(batch(seq=1), salt=salt).client for salt in (b"one", b"two")}
    assert len(ids | {CLIENT}) == 3
    assert {len(client) for client in ids} == {16}
    rewriter = MessageRewriter(b"one")
    messages = [hello(), batch(seq=1), wire.flush(CLIENT), wire.bye(CLIENT, 1)]
    outs = [rewriter.rewrite(message, n, 0.0) for n, message in enumerate(messages)]
    assert len({out.client for out in outs if out}) == 1
    for out in outs:
        assert out is not None
        assert wire.decode(out.message)["client"] == out.client


def test_all_times_are_shifted_and_nothing_else_changes() -> None:
    message = batch(
        seq=7,
        sent=START,
        executions=executions(3),
        points=points(2),
        runs=runs(2),
        failures=[FAILURE],
        in_flight=[[*FLIGHT, 5, START - 9, 2]],  # with all that describes its run
        loops=[["g", "n", 2, "r"]],
    )
    before, after = decode_message(message), decode_message(rewritten(message).message)

    assert after.sent == before.sent + SHIFT
    for section, name in (("executions", "end"), ("points", "time"), ("runs", "end")):
        old, new = getattr(before, section), getattr(after, section)
        assert (getattr(new, name) == getattr(old, name) + SHIFT).all()
        for column in old._fields:
            if column not in (name, "phases"):
                assert (getattr(new, column) == getattr(old, column)).all()
    assert after.failures[0] == replace(
        before.failures[0], time=before.failures[0].time + SHIFT
    )
    assert after.in_flight[0] == replace(
        before.in_flight[0],
        start=before.in_flight[0].start + SHIFT,
        run_start=before.in_flight[0].run_start + SHIFT,
    )
    assert after.loops == before.loops
    assert (after.seq, after.service) == (7, before.service)
    assert not after.rejected


def test_times_of_rows_are_shifted_and_missing_times_stay_missing() -> None:
    times = [{**ROW, "end": START}, {**ROW, "time": 5}, ROW, {**ROW, "end": 0}]
    result = wire.decode(rewritten(rows(*times)).message)["events"]
    assert [row.get("end", row.get("time")) for row in result] == [
        *(START + SHIFT, 5 + SHIFT),
        *(None, 0),
    ]
    message = batch(seq=1, executions=executions(2, end=[0.0, START]))
    assert decode_message(rewritten(message).message).executions.end.tolist() == [
        *(0.0, START + SHIFT)
    ]


def test_a_shift_of_zero_keeps_times() -> None:
    message = batch(seq=1, executions=executions(3))
    after = decode_message(rewritten(message, shift=0.0).message)
    assert plain(after) == plain(decode_message(message)._replace(client=after.client))


def test_batches_without_a_number_get_a_client_and_a_number() -> None:
    rewriter = MessageRewriter(b"salt")
    outs = [rewriter.rewrite(rows(ROW), n, 0.0) for n in (1, 1, 2)]
    assert [out.seq for out in outs if out] == [1, 2, 1]
    first, second, other = (decode_message(out.message) for out in outs if out)
    assert first.client == second.client != other.client
    assert isinstance(first, Batch) and first.seq == 1


def test_events_recorded_before_the_capture_do_not_count_as_lost() -> None:
    rewriter = MessageRewriter(b"salt")

    def recorded(seq: int, total: int, **more: Any) -> int:
        message = batch(seq=seq, recorded=total, executions=executions(3), **more)
        out = rewriter.rewrite(message, 1, 0.0)
        assert out is not None
        return int(wire.decode(out.message)["recorded"])

    assert recorded(8, 1_005, drops={"buffer_full": 2}) == 5
    assert recorded(9, 1_008) == 8
    # A client captured from its start reports everything itself.
    whole = batch(client=bytes(16), seq=1, recorded=9, executions=executions(3))
    out = rewriter.rewrite(whole, 1, 0.0)
    assert out is not None
    assert wire.decode(out.message)["recorded"] == 9


def test_unknown_keys_are_sent_unchanged() -> None:
    message = batch(seq=1, later={"a": [1, b"2"]}, executions=executions(1))
    assert wire.decode(rewritten(message).message)["later"] == {"a": [1, b"2"]}


@pytest.mark.parametrize(
    "message",
    [b"", b"\xc1", wire.capture(), wire.ack(1, CLIENT), wire.pack({"type": "new"})],
)
def test_messages_that_no_agent_accepts_are_not_sent(message: bytes) -> None:
    assert MessageRewriter(b"").rewrite(message, 1, 1.0) is None


def test_events_are_counted_without_decoding_them() -> None:
    assert count_events(batch(executions=executions(3), points=points(2))) == 5
    assert count_events(rows(ROW, ROW)) == 2
    assert count_events(hello()) == count_events(b"") == 0
    assert count_events(batch(executions=7)) == count_events(batch(executions={})) == 0


def test_a_message_is_sent_at_its_captured_offset_divided_by_the_speed() -> None:
    arrivals = [100.0, 100.0, 101.5, 160.0]
    assert [send_offset(at, 100.0, 1.0) for at in arrivals] == [0.0, 0.0, 1.5, 60.0]
    assert [send_offset(at, 100.0, 10.0) for at in arrivals] == [0.0, 0.0, 0.15, 6.0]
    assert [send_offset(at, 100.0, math.inf) for at in arrivals] == [0.0] * 4
    # A clock that was set back while it was captured.
    assert send_offset(99.0, 100.0, 1.0) == 0.0


@given(
    st.lists(st.floats(0, 1e6), min_size=2).map(sorted),
    st.floats(1e-3, 1e3),
)
def test_intervals_between_messages_are_the_captured_ones(
    arrivals: list[float], speed: float
) -> None:
    sent = [send_offset(at, arrivals[0], speed) for at in arrivals]
    assert sent == sorted(sent)
    np.testing.assert_allclose(
        np.diff(sent) * speed,
        np.diff(arrivals),
        rtol=1e-6,
        atol=1e-6 * (1 + arrivals[-1]),
    )


@calm
@given(st.data())
def test_hostile_messages_never_raise(data: st.DataObject) -> None:
    values = st.recursive(
        st.none()
        | st.integers(-5, 2**63)
        | st.binary(max_size=9)
        | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        ),
        max_leaves=8,
    )
    sections = ["executions", "points", "runs", "failures", "events", "in_flight"]
    known = st.fixed_dictionaries(
        {"type": st.just("batch"), "seq": st.none() | st.integers(1, 9)},
        optional=dict.fromkeys([*sections, "sent", "recorded"], values),
    )
    message = wire.pack(data.draw(known))
    cut = message[: data.draw(st.integers(0, len(message)))]
    for content in (message, cut):
        out = MessageRewriter(b"x").rewrite(content, 1, 5.0)
        if out is not None:
            wire.decode(out.message)
