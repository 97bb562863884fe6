"""Properties of all input: a round trip is the identity, and nothing ever raises."""

from __future__ import annotations

import math
import random
from typing import Any

import msgpack
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import astuple
from tests.agent.protocol.fakes import Agent, FakeLink
from tests.agent.protocol.samples import (
    CLIENT,
    FAILURE,
    FLIGHT,
    ROW,
    TABLE,
    TOPOLOGY,
    batch,
    calm,
    events,
    executions,
    hello,
    plain,
    points,
    read,
    rows,
    runs,
)
from tests.agent.protocol.whole import Batch, Decoder
from tests.flights import Endless

from kaywatch import wire
from kaywatch._send.packer import Packer
from kaywatch.recorder import Failure, Recorder, Topology
from kaywatch_agent.model.bounds import MAX_TIME
from kaywatch_agent.model.records import InFlight
from kaywatch_agent.protocol.framing import FrameReader, OutOfStep, Oversized
from kaywatch_agent.protocol.limits import MAX_SEQ, MAX_VALUE
from kaywatch_agent.protocol.messages import Bye, Flush, Hello, Rejected
from kaywatch_agent.protocol.names import clean_name, clean_text

# All of Unicode, lone surrogates (as os.fsdecode makes them) and NUL included, but no
# digits: a name that may have an id in it is folded.
names = st.text(st.characters(exclude_categories=("Nd",)), max_size=12)
long_names = names | st.text("aä\U0001f600", min_size=190, max_size=260)
seconds = st.floats(0, MAX_TIME)
finite = st.floats(-MAX_VALUE, MAX_VALUE)
errors = st.none() | st.tuples(
    long_names, st.sampled_from(["", "prep", "exec", "post"])
)
outcomes = st.sampled_from(list(map(int, wire.Outcome)))


def expected_name(name: str) -> str:
    """Return a name as it has to arrive: cut, in UTF-8, and printable."""
    return clean_name(name[: wire.MAX_NAME].encode("utf-8", "replace").decode())


def send_recorded(recorder: Recorder) -> Batch:
    """Send the content of a recorder to a decoder; return the decoded batch."""
    recorder.open()
    taken = Packer(recorder).take()
    assert taken is not None
    message = wire.batch(
        client=CLIENT,
        seq=1,
        sent=1.0,
        service="shop",
        recorded=taken.events,
        sections=taken.sections,
    )
    (result,) = read([wire.frame(message)])
    assert isinstance(result, Batch)
    assert not result.rejected, result.problem
    return result


@calm
@given(
    st.lists(
        st.tuples(
            st.tuples(long_names, long_names),
            seconds,
            outcomes,
            st.integers(0, 100_000),
            long_names,
            errors,
        ),
        min_size=1,
        max_size=30,
    )
)
def test_executions_arrive_as_they_were_recorded(given_: list[Any]) -> None:
    recorder = Recorder()
    recorder.open()
    expected = []
    for (graph, node), took, outcome, attempts, action, error in given_:
        series = recorder.series(graph, node)
        series.record(took, outcome, attempts, action, error)
        expected.append(
            {
                "graph": expected_name(graph),
                "node": expected_name(node) or "__unnamed__",
                "end": recorder.pending.executions.flat[-6],
                "seconds": took,
                "outcome": wire.Outcome(outcome).name.lower(),
                "attempts": min(attempts, 65_535),
                "action": expected_name(action),
                "error": expected_name(error[0]) if error else "",
                "phase": error[1] if error else "",
            }
        )
    assert events(send_recorded(recorder)) == expected


@calm
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["observe", "count", "gauge"]),
            long_names,
            st.tuples(names, names),
            st.dictionaries(names, names, max_size=3),
            finite,
        ),
        min_size=1,
        max_size=20,
    )
)
def test_points_arrive_as_they_were_recorded(given_: list[Any]) -> None:
    recorder = Recorder()
    recorder.open()
    expected = []
    for kind, metric, (graph, node), labels, number in given_:
        value = abs(number) if kind == "count" else number
        recorder.point(kind, metric, graph, node, labels)(value)
        expected.append(
            {
                "metric": expected_name(metric) or "__unnamed__",
                "kind": kind,
                "graph": expected_name(graph),
                "node": expected_name(node),
                "labels": dict(
                    sorted(
                        (expected_name(k), expected_name(v)) for k, v in labels.items()
                    )
                ),
                "time": recorder.pending.points.flat[-2],
                "value": value,
            }
        )
    result = events(send_recorded(recorder))
    for one, other, (*_, labels, _) in zip(result, expected, given_, strict=True):
        # Two names with characters that are replaced may have become one.
        if not len(one["labels"]) == len(other["labels"]) == len(labels):
            one["labels"] = other["labels"]
        assert one == other


@calm
@given(
    st.lists(
        st.tuples(
            names,
            seconds,
            outcomes,
            st.sampled_from(list(wire.EndReason)),
            names,
            names,
            st.integers(0, 2**32 - 1),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_runs_arrive_as_they_were_recorded(given_: list[Any]) -> None:
    recorder = Recorder()
    recorder.open()
    expected = []
    for graph, took, outcome, reason, node, action, visits in given_:
        recorder.run_ended(graph, took, outcome, reason, node, action, visits)
        expected.append(
            {
                "graph": expected_name(graph),
                "end": recorder.pending.runs.flat[-7],
                "seconds": took,
                "outcome": wire.Outcome(outcome).name.lower(),
                "reason": str(reason),
                "node": expected_name(node),
                "action": expected_name(action),
                "visits": visits,
            }
        )
    assert events(send_recorded(recorder)) == expected


@calm
@given(names, names, names, st.integers(1, 5), outcomes)
def test_details_arrive_as_they_were_recorded(
    graph: str, node: str, text: str, attempts: int, outcome: int
) -> None:
    recorder = Recorder()
    recorder.open()
    recorder.add_failure(
        Failure(
            *(1.5, graph, node, text, text, "exec", attempts, outcome, "r-1"),
            run_start=1.25,
            visits=3,
            path=(node,),
            path_visits=(3,),
            trace_id=text,
        )
    )
    recorder.add_topology(Topology(graph, node, (node,), ((node, text, node),)))
    recorder.in_flight.add(Endless(graph, node, 2.5))
    result = send_recorded(recorder)
    output = (expected_name(graph), expected_name(node), expected_name(text))
    (failure,) = result.failures
    message = clean_text(text.encode("utf-8", "replace").decode())
    assert astuple(failure)[:6] == (1.5, "", *output, message)
    name = wire.Outcome(outcome).name.lower()
    assert astuple(failure)[6:13] == ("exec", attempts, name, "r-1", "", "", 0.0)
    assert astuple(failure)[13:] == (1.25, 3, (output[1],), (3,), output[2])
    (topology,) = result.topologies
    wiring = (output[1],), ((output[1], output[2], output[1]),)
    assert astuple(topology)[:5] == ("", output[0], output[1], *wiring)
    assert result.in_flight == (InFlight(output[0], output[1], 2.5, ""),)


@calm
@given(
    st.integers(1, MAX_SEQ),
    names,
    st.dictionaries(st.sampled_from(sorted(wire.DROP_REASONS)), st.integers(1, 1_000)),
)
def test_messages_arrive_as_they_were_sent(
    seq: int, name: str, drops: dict[str, int]
) -> None:
    stream = b"".join(
        map(
            wire.frame,
            [
                wire.hello(
                    client=CLIENT,
                    service=name,
                    host=name,
                    pid=1,
                    start=2.5,
                    sdk=name,
                    tags={name: name},
                ),
                wire.batch(
                    client=CLIENT,
                    seq=seq,
                    sent=1.5,
                    service=name,
                    recorded=3,
                    sections={},
                    drops=drops,
                ),
                wire.flush(CLIENT),
                wire.bye(CLIENT, seq, drops),
            ],
        )
    )
    text = expected_name(name)
    greeting, result, flush, bye = read([stream])
    tags = ((text, text),)
    assert greeting == Hello(CLIENT.hex(), text, text, 1, 2.5, text, tags)
    assert isinstance(result, Batch)
    assert (result.seq, result.service, result.drops) == (seq, text, drops)
    assert flush == Flush(CLIENT.hex())
    assert bye == Bye(CLIENT.hex(), seq, drops)


# -- hostile bytes ---------------------------------------------------------------------

SOUND = [
    hello(),
    batch(points=points(), runs=runs()),
    batch(failures=[FAILURE], topologies=[TOPOLOGY], in_flight=[FLIGHT]),
    rows(ROW, {"metric": "size", "value": 3, "labels": {"shop": "de"}}),
    wire.flush(CLIENT),
    wire.bye(CLIENT, 3, {"buffer_full": 1}),
]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=10)
    | st.binary(max_size=20)
    | st.just(CLIENT),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=8), inner, max_size=5)
    ),
    max_leaves=20,
)
KEYS = [
    *("v", "client", "seq", "service", "host", "pid", "start", "sdk", "tags", "sent"),
    *("recorded", "drops", "table", "executions", "points", "runs", "events"),
    *("failures", "topologies", "in_flight", "new"),
]
sections = st.sampled_from(
    [executions(), points(), runs(), [ROW], [FAILURE], [TOPOLOGY], [FLIGHT]]
)
messages = st.builds(
    lambda kind, fields: msgpack.packb({"type": kind, **fields}),
    st.sampled_from(["hello", "batch", "batch", "flush", "bye", "new"]),
    st.dictionaries(st.sampled_from(KEYS), values | sections, max_size=8),
)


def mutate(sound: bytes, seed: int) -> bytes:
    """Return a message with some of its bytes changed, cut out or doubled."""
    chance = random.Random(seed)
    made = bytearray(sound)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(5):
            case 0:
                made[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del made[at : at + chance.randint(1, 8)]
            case 2:
                made[at:at] = made[at : at + chance.randint(1, 16)]
            case 3:
                made[at:at] = chance.randbytes(chance.randint(1, 4))
            case 4:
                made[at : at + 1] = bytes([chance.choice(b"\xc0\xc1\xdd\xdf\xcb\xff")])
    return bytes(made)


hostile = (
    st.binary(max_size=200)
    | messages
    | st.builds(mutate, st.sampled_from(SOUND), st.integers(0, 2**32))
)


@calm
@given(st.lists(hostile, max_size=6))
@example([batch(sent=math.nan), batch(executions=executions(1, seconds=[math.nan]))])
def test_any_frame_gets_a_decoded_result_and_the_next_one_is_read(
    packed_: list[bytes],
) -> None:
    decoder = Decoder()
    for message in packed_:
        result = decoder.decode(message)
        assert isinstance(result, Batch | Hello | Flush | Bye | Rejected)
        if isinstance(result, Rejected):
            assert result.text
    assert plain(decoder.decode(SOUND[1])) == plain(Decoder().decode(SOUND[1]))


@calm
@given(st.lists(hostile, max_size=6))
def test_a_conversation_goes_on_after_whatever_frames(packed_: list[bytes]) -> None:
    agent, link = Agent(), FakeLink()
    conversation = agent.open(link)
    for message in packed_:
        conversation.receive(wire.frame(message))
    link.replies()
    client = b"the last of them"
    conversation.receive(wire.frame(hello(client=client)))
    conversation.receive(wire.frame(batch(client=client, seq=1)))
    agent.tick()
    replies = [r for r in link.replies() if r.get("client") == client]
    assert [reply["seq"] for reply in replies] == [0, 1]
    assert not link.closed
    result = agent.pipeline.clients.get(client.hex())
    assert result is not None
    assert result.events == 3


@calm
@given(st.lists(st.binary(max_size=300), max_size=10))
def test_whatever_bytes_arrive_a_conversation_answers_or_hangs_up(
    chunks: list[bytes],
) -> None:
    agent, link = Agent(), FakeLink()
    conversation = agent.open(link)
    for chunk in chunks:
        if not link.closed:
            conversation.receive(chunk)
    agent.tick()
    conversation.close()


@calm
@given(st.binary(max_size=60), st.integers(0, 2**32))
def test_bytes_that_are_no_frames_are_skipped_by_their_length(
    noise: bytes, seed: int
) -> None:
    """An oversized frame is skipped, and the next frame is read."""
    size = len(noise)
    stream = size.to_bytes(4, "big") + noise + wire.frame(SOUND[4])
    results: list[object] = []
    reader = FrameReader(limit=50)
    chance = random.Random(seed)
    while stream:
        cut = chance.randint(1, len(stream))
        results += reader.receive(stream[:cut])
        stream = stream[cut:]
    first, second = results
    assert first == (Oversized(size) if size > 50 else noise)
    assert second == SOUND[4]
    assert not isinstance(first, OutOfStep)


def test_the_sound_messages_of_these_tests_are_sound() -> None:
    for message in SOUND:
        decoded = Decoder().decode(message)
        assert not isinstance(decoded, Rejected)
        assert not (isinstance(decoded, Batch) and decoded.rejected)
    assert TABLE["strings"][0] == ""
