"""PROTOCOL.md matches the code: examples, test vectors and tables."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.agent.protocol.fakes import Agent, FakeLink
from tests.agent.protocol.samples import (
    count_rejected,
    decode_batch,
    events,
    plain,
    read,
)
from tests.agent.protocol.whole import Batch, Decoder
from tests.agents import DEADLINE

from kaywatch import wire
from kaywatch.wire import Phase
from kaywatch_agent.aggregate import bucket, detail_quota
from kaywatch_agent.aggregate.registry import Limits
from kaywatch_agent.model import bounds
from kaywatch_agent.model.records import (
    FailureRecord,
    InFlight,
    NodeRevisits,
    ProcessSample,
    TopologyRecord,
)
from kaywatch_agent.pipeline import session, sessions
from kaywatch_agent.protocol import limits, messages, rows, table
from kaywatch_agent.protocol.messages import Bye, Capture, Flush, Hello

PAGE = (Path(wire.__file__).parent / "PROTOCOL.md").read_text(encoding="utf-8")
CLIENT = bytes(range(16))


def read_blocks(language: str) -> dict[str, str]:
    """Return the page's fenced blocks of a language by their name."""
    matches = re.findall(rf"^```{language} ?(.*)\n((?s:.*?))^```$", PAGE, re.MULTILINE)
    return dict(matches)


def binary(value: Any) -> Any:
    """Turn "hex:..." into bytes, wherever it is."""
    if isinstance(value, str) and value.startswith("hex:"):
        return bytes.fromhex(value[4:])
    if isinstance(value, dict):
        return {key: binary(item) for key, item in value.items()}
    if isinstance(value, list):
        return [binary(item) for item in value]
    return value


MEANINGS = {
    name: binary(json.loads(text)) for name, text in read_blocks("json").items()
}
FRAMES = {name: bytes.fromhex(text) for name, text in read_blocks("hex").items()}
MESSAGES = sorted(MEANINGS.keys() - {"table"})


def test_each_vector_has_a_meaning_and_bytes() -> None:
    assert MEANINGS.keys() == FRAMES.keys()
    assert {MEANINGS[name]["type"] for name in MESSAGES} == {
        *("hello", "batch", "flush", "bye"),
        *("ack", "error", "resend", "slow", "capture", "captured"),
    }


@pytest.mark.parametrize("name", MESSAGES)
def test_the_bytes_equal_msgpack_of_the_values(name: str) -> None:
    assert wire.frame(wire.pack(MEANINGS[name])).hex() == FRAMES[name].hex()


@pytest.mark.parametrize("name", MESSAGES)
def test_the_bytes_decode_to_the_meaning(name: str) -> None:
    assert wire.decode(FRAMES[name][4:]) == MEANINGS[name]


def test_the_agent_answers_with_this_error() -> None:
    both = {**MEANINGS["batch-columns"], "seq": 3, "events": [{"node": "pay"}]}
    link = FakeLink()
    Agent().open(link).receive(wire.frame(wire.pack(both)))
    assert link.replies() == [MEANINGS["error"]]


def test_the_table_is_the_one_in_the_batch() -> None:
    assert wire.pack(MEANINGS["table"]) == FRAMES["table"]
    assert MEANINGS["batch-columns"]["table"] == FRAMES["table"]


def without(meaning: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in meaning.items() if key not in keys}


def test_our_encoder_makes_these_bytes() -> None:
    def fields(name: str) -> dict[str, Any]:
        return without(MEANINGS[name], "type", "v")

    def batch(name: str) -> bytes:
        result = fields(name)
        known = ("client", "seq", "sent", "service", "recorded", "drops")
        sections = without(result, *known)
        return wire.batch(
            **{key: result[key] for key in known if key in result}, sections=sections
        )

    made = {
        "hello": wire.hello(**fields("hello")),
        "hello-again": wire.hello(**fields("hello-again")),
        "batch-columns": batch("batch-columns"),
        "batch-phases": batch("batch-phases"),
        "batch-details": batch("batch-details"),
        "batch-loops": batch("batch-loops"),
        "batch-process": batch("batch-process"),
        "flush": wire.flush(**fields("flush")),
        "flush-without-client": wire.flush(),
        "bye": wire.bye(**fields("bye")),
        "ack": wire.ack(**fields("ack")),
        "ack-without-client": wire.ack(**fields("ack-without-client")),
        "ack-greeting": wire.ack(**fields("ack-greeting")),
        "resend": wire.resend(**fields("resend")),
        "error": wire.error(**fields("error")),
        "slow": wire.slow(**fields("slow")),
        "capture": wire.capture(),
        "captured": wire.captured(**fields("captured")),
    }
    for name, message in made.items():
        assert wire.frame(message).hex() == FRAMES[name].hex(), name
    assert made.keys() == set(MESSAGES) - {"batch-rows"}


def decode_vector(name: str) -> Any:
    (message,) = read([FRAMES[name]])
    return message


def test_the_agent_reads_the_hello() -> None:
    assert decode_vector("hello") == Hello(
        client=CLIENT.hex(),
        service="shop",
        host="web1",
        pid=4711,
        start=1700000000.5,
        sdk="mine/1.0",
        tags=(("release", "r7"),),
    )


def test_the_agent_reads_where_a_client_begins() -> None:
    message = decode_vector("hello-again")
    assert (message.greeting, message.first) == (2, 3)


def test_the_agent_reads_memory_and_cpu_of_a_process() -> None:
    message = decode_vector("batch-process")
    assert message.process == ProcessSample(rss_bytes=31_457_280, cpu_seconds=1.5)
    assert not count_rejected(message)


def test_the_agent_reads_the_columns() -> None:
    message = decode_vector("batch-columns")
    assert (message.client, message.seq, message.sent) == (
        CLIENT.hex(),
        1,
        1700000010.25,
    )
    assert (message.service, message.recorded) == ("shop", 5)
    assert message.drops == {"buffer_full": 1}
    assert not count_rejected(message)
    ok = {"outcome": "ok", "attempts": 1, "action": "default", "error": "", "phase": ""}
    failed = {"outcome": "error", "attempts": 3, "action": ""}
    assert events(message) == [
        {
            "graph": "checkout",
            "node": "pay",
            "end": 1700000008.5,
            "seconds": 0.125,
            **ok,
        },
        {
            "graph": "checkout",
            "node": "ship",
            "end": 1700000009.5,
            "seconds": 2.5,
            **failed,
            "error": "Timeout",
            "phase": "exec",
        },
        {
            "metric": "tokens",
            "kind": "count",
            "graph": "checkout",
            "node": "pay",
            "labels": {"model": "m1"},
            "time": 1700000008.0,
            "value": 512.0,
        },
        {
            "graph": "checkout",
            "end": 1700000009.75,
            "seconds": 2.75,
            "outcome": "ok",
            "reason": "no_successors",
            "node": "pay",
            "action": "default",
            "visits": 2,
        },
    ]


def test_the_agent_reads_the_phases() -> None:
    message = decode_vector("batch-phases")
    assert not count_rejected(message)
    pay, ship = events(message)
    assert (pay["node"], pay["seconds"], pay["outcome"]) == ("pay", 2.5, "fallback")
    values = {name: pay[name] for name in wire.PHASE_COLUMNS}
    assert values == {"prep": 0.25, "exec": 0.5, "wait": 1.5, "items": 12}
    assert (ship["node"], ship["seconds"]) == ("ship", 0.125)
    assert not ship.keys() & wire.PHASE_COLUMNS.keys()


def test_the_agent_reads_the_details() -> None:
    result = decode_vector("batch-details")
    assert result.failures == (
        FailureRecord(
            time=1700000009.5,
            graph="checkout",
            node="ship",
            type="Timeout",
            message="no answer",
            phase=Phase.EXEC,
            attempts=3,
            outcome="error",
            run="a1-7",
        ),
    )
    edges = (("pay", "default", "ship"),)
    assert result.topologies == (
        TopologyRecord(
            graph="checkout", start="pay", nodes=("pay", "ship"), edges=edges
        ),
    )
    assert result.in_flight == (InFlight("checkout", "pay", 1700000011.0, "a1-8"),)
    assert not count_rejected(result)


def test_the_agent_reads_the_loops() -> None:
    message = decode_vector("batch-loops")
    assert message.loops == (
        NodeRevisits("agent", "", 11, "a1-9", 8),
        NodeRevisits("agent", "decide", 6, "a1-9", 4),
        NodeRevisits("agent", "search", 5, "a1-9", 4),
    )
    assert message.looped == (NodeRevisits("agent", "decide", 3),)
    assert decode_vector("batch-details").loops is None
    assert not count_rejected(message)


def test_the_agent_reads_the_rows() -> None:
    message = decode_vector("batch-rows")
    first, second = events(message)
    assert (first["node"], first["seconds"], first["outcome"]) == ("pay", 0.125, "ok")
    assert (second["metric"], second["value"]) == ("basket_size", 3.0)
    assert second["labels"] == {"shop": "de"}
    assert not count_rejected(message)


def test_the_agent_reads_flush_and_bye() -> None:
    assert decode_vector("flush") == Flush(CLIENT.hex())
    assert decode_vector("flush-without-client") == Flush("")
    assert decode_vector("bye") == Bye(CLIENT.hex(), 2, {"unpackable": 1})
    assert decode_vector("capture") == Capture()


# -- the examples ----------------------------------------------------------------------


@pytest.fixture
def listening() -> Iterator[tuple[str, socket.socket]]:
    """A UNIX socket as an agent's, in a path short enough for one."""
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        path = os.path.join(folder, "s")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            server.bind(path)
            server.listen(1)
            server.settimeout(DEADLINE)
            yield path, server


def test_the_python_example_pushes_its_documented_rows(
    listening: tuple[str, socket.socket],
) -> None:
    path, server = listening
    names: dict[str, Any] = {}
    exec(read_blocks("python")[""], names)
    names["example"](path)
    connection, _ = server.accept()
    with connection:
        stream = b""
        while chunk := connection.recv(65_536):
            stream += chunk
    (result,) = read([stream])
    assert isinstance(result, Batch)
    assert result.service == "cron"
    assert not count_rejected(result)
    pay, ship, size = events(result)
    assert (pay["graph"], pay["node"], pay["seconds"]) == ("checkout", "pay", 0.12)
    assert (pay["outcome"], pay["action"]) == ("ok", "default")
    assert (ship["outcome"], ship["error"], ship["action"]) == ("error", "Timeout", "")
    assert (size["metric"], size["value"], size["labels"]) == (
        "basket_size",
        3.0,
        {"shop": "de"},
    )


@pytest.mark.parametrize(
    ("call", "seconds"),
    [("push backup 312 ok", 312.0), ("push backup 0 ok; push backup 70000 error", 0.0)],
)
def test_the_shell_example_pushes_its_documented_rows(
    call: str, seconds: float
) -> None:
    script = read_blocks("sh")[""].replace("push backup 312 ok", call)
    assert call in script
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert not done.stderr
    first, *others = read([done.stdout])
    assert isinstance(first, Batch)
    (event,) = events(first)
    assert (event["node"], event["seconds"]) == ("backup", seconds)
    assert event["outcome"] == "ok"
    for result in others:
        assert isinstance(result, Batch)
        (event,) = events(result)
        assert (event["seconds"], event["outcome"]) == (70_000.0, "error")
    assert len(others) == call.count(";")


# -- the tables of the page ------------------------------------------------------------


def rows_under(heading: str) -> list[list[str]]:
    """Return the cells of all tables under a heading."""
    part = re.split(rf"^#+ {heading}$", PAGE, flags=re.MULTILINE)[1]
    part = re.split(r"^## ", part, flags=re.MULTILINE)[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def names_under(heading: str) -> set[str]:
    return {
        name for row in rows_under(heading) for name in re.findall("`(.+?)`", row[0])
    }


def test_every_error_code_is_in_the_table_of_errors_and_no_other() -> None:
    assert names_under("Errors") == set(wire.ErrorCode)


def test_every_drop_reason_is_in_the_page() -> None:
    assert set(wire.DROP_REASONS) <= names_under("Messages")


def test_every_outcome_is_in_the_page_with_its_number() -> None:
    rows = rows_under("Events in columns")
    result = {row[0]: row[1] for row in rows}
    for outcome in wire.Outcome:
        assert result[str(int(outcome))] == f"`{outcome.name.lower()}`"


def test_every_reason_for_an_end_is_in_the_page() -> None:
    assert set(wire.EndReason) <= names_under("Events in columns")


@pytest.mark.parametrize(
    "columns",
    [
        wire.EXECUTION_COLUMNS,
        wire.PHASE_COLUMNS,
        wire.POINT_COLUMNS,
        wire.RUN_COLUMNS,
    ],
)
def test_every_column_is_in_the_page_with_its_type(columns: dict[str, str]) -> None:
    types = {"B": "u8", "H": "u16", "I": "u32", "f": "f32", "d": "f64"}
    result = [(row[0], row[1]) for row in rows_under("Events in columns")]
    expected = [(f"`{name}`", types[code]) for name, code in columns.items()]
    assert expected in [result[at : at + len(expected)] for at in range(len(result))]


# In what it keeps of failures and topologies.
SET_BY_THE_AGENT = {"service", "client", "since", "changed"}


def test_every_key_of_a_message_is_in_the_page() -> None:
    documented = names_under("Messages") | names_under("Events in rows")
    documented |= names_under("Events in columns") | names_under("Details")
    for struct in (
        messages.Encoded,
        FailureRecord,
        TopologyRecord,
        ProcessSample,
        rows._Row,
        table._Encoded,
    ):
        assert set(struct.__struct_encode_fields__) - SET_BY_THE_AGENT <= documented


def test_the_limits_match_the_protocol_page() -> None:
    text = " ".join(row[1] for row in rows_under("Limits")).replace(",", "")
    matches = {int(number) for number in re.findall(r"\d+", text)}
    assert matches == {
        0,
        wire.MAX_FRAME,
        detail_quota.PROCESS_BYTES,
        *(Limits.series, Limits.series_per_client, Limits.series_per_user),
        *(Limits.names, Limits.names_per_client, Limits.names_per_user),
        sessions.MAX_PROCESS_CLIENTS,
        session.MAX_CLIENTS,
        wire.MAX_NAME,
        wire.MAX_TABLE_ENTRIES,
        limits.MAX_SKIP,
        bounds.MAX_MESSAGE,
        limits.MAX_LABELS,
        limits.MAX_TAGS,
        limits.MAX_ROWS,
        bounds.MAX_LIST,
        bounds.MAX_ATTEMPTS,
        int(bucket.MAX_TICKS / bucket.TICKS),
        limits.MAX_SEQ,
        limits.MAX_GAP,
        *(1, 140),  # MAX_VALUE, as 1e140
        bounds.MAX_COUNT,
        limits.MAX_PID,
        int(bounds.MAX_TIME),
    }


def test_a_vector_is_the_same_message_in_any_chunks() -> None:
    for name in MESSAGES:
        if MEANINGS[name]["type"] in ("ack", "error", "resend", "slow", "captured"):
            continue
        packed = FRAMES[name][4:]
        decoder = Decoder().decode(packed)
        if isinstance(decoder, Batch):
            assert plain(decode_batch(packed)) == plain(decoder)


def test_links_within_the_page_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
    links = set(re.findall(r"\]\(#(.+?)\)", PAGE))
    assert links <= anchors
