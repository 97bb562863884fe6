"""Remote write to a real Prometheus: kills and outages of either side, exact totals."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import math
import signal
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import cramjam
import pytest
from tests.agents import DEADLINE, Agent, new_agent, until
from tests.certificates import certificate
from tests.e2e.test_peers import metrics
from tests.e2e.test_prometheus import (
    BUCKET,
    DURATIONS,
    EXECUTIONS,
    FLOW,
    RECORD,
    ROUND,
    assert_no_reset,
    counts,
    expected,
)
from tests.prometheus import NATIVE, Prometheus, running_prometheus

from kaywatch_agent.export.encoding import encode_labels, messages

RECEIVER = "--web.enable-remote-write-receiver"
INTERVAL = 1.0


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    with running_prometheus(tmp_path, (), NATIVE, RECEIVER) as server:
        yield server


def to_toml(value: Any) -> str:
    if isinstance(value, dict):
        pairs = ", ".join(f"{key} = {json.dumps(text)}" for key, text in value.items())
        return f"{{ {pairs} }}"
    return json.dumps(value)


@contextlib.contextmanager
def agent_that_writes(url: str, **keys: Any) -> Iterator[Agent]:
    """Run an agent with one `[[export.remote_write]]`."""
    values = {"url": url, "name": "prom", "interval": f"{INTERVAL}s", **keys}
    table = "\n".join(f"{key} = {to_toml(value)}" for key, value in values.items())
    with new_agent() as agent:
        config = agent.folder / "kaywatch.toml"
        config.write_text(f"[[export.remote_write]]\n{table}\n")
        agent.options = ("--config", str(config))
        yield agent.start()


@pytest.fixture
def agent(prometheus: Prometheus) -> Iterator[Agent]:
    with agent_that_writes(write_url(prometheus)) as result:
        yield result


def write_url(prometheus: Prometheus) -> str:
    return f"{prometheus.url}/api/v1/write"


def wait_executions(prometheus: Prometheus, wanted: dict[str, int]) -> None:
    """Wait until Prometheus has exactly these totals."""

    def totals() -> dict[str, float]:
        samples = prometheus.query(f"sum by (node) ({EXECUTIONS})")
        return {labels["node"]: value for labels, value in samples}

    until(lambda: totals() == wanted, f"Prometheus has {wanted}")


def unsent(agent: Agent) -> list[Path]:
    return sorted(Path(f"{agent.store}.remote_write", "prom").glob("*.unsent"))


@pytest.mark.parametrize(("max_buckets", "growth"), [(160, BUCKET**4), (999, BUCKET)])
def test_counts_and_quantiles_are_those_of_the_agent(
    prometheus: Prometheus, max_buckets: int, growth: float
) -> None:
    """With at most 160 buckets, each is up to four of the agent's."""
    url = write_url(prometheus)
    with agent_that_writes(url, max_buckets=max_buckets) as agent:
        check_counts_and_quantiles(agent, prometheus, growth)


def check_counts_and_quantiles(
    agent: Agent, prometheus: Prometheus, growth: float
) -> None:
    agent.run(f"{RECORD}\nrecord(1, 3_000)\nassert kaywatch.flush(10)")
    durations = expected(1, 3_000)
    wait_executions(prometheus, counts(range(1, 2), 3_000))

    for node, values in durations.items():
        statistics = agent.node(node)
        values.sort()
        select = f'{DURATIONS}{{node="{node}"}}'
        assert prometheus.value(f"histogram_count({select})") == len(values)
        total = prometheus.value(f"histogram_sum({select})")
        assert total == pytest.approx(math.fsum(values))
        for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            exact = values[math.ceil(q * len(values)) - 1]
            quantile = prometheus.value(f"histogram_quantile({q}, {select})")
            assert quantile is not None
            for other in (statistics[f"{name}_execution_time"], exact):
                assert 1 / growth <= quantile / other <= growth, (node, name)
    ((labels, _),) = prometheus.query(f'{EXECUTIONS}{{node="draft"}}')
    assert labels["job"] == "kaywatch"
    assert labels["instance"] and labels["epoch"].isdigit()
    # Each counter began with a zero: what it counted first is an increase.
    born = prometheus.query(f"min_over_time({EXECUTIONS}[1h])")
    assert {value for _, value in born} == {0.0}
    # And the completeness of the numbers came with them.
    received = prometheus.value("sum(kaywatch_series_received_total)")
    assert received is not None and received >= 3_000


def test_kills_of_either_side_and_an_outage_double_and_lose_nothing(
    agent: Agent, prometheus: Prometheus
) -> None:
    stop = agent.folder / "stop"
    child = agent.spawn(f"{RECORD}\nrecord_until(sys.argv[1])", str(stop))
    until(lambda: prometheus.query(EXECUTIONS), "Prometheus has a sample")
    agent.stop(signal.SIGKILL)
    agent.start()
    prometheus.kill()
    until(lambda: len(unsent(agent)) >= 3, "snapshots wait")
    agent.stop(signal.SIGKILL)
    agent.start()
    waiting = len(unsent(agent))
    assert waiting >= 3
    until(lambda: "prom" in health(agent), "the outage is on /health")
    assert metrics(agent, "kaywatch_remote_write_lag_seconds")['server="prom"'] > 0
    prometheus.start()
    until(lambda: len(unsent(agent)) < waiting, "the snapshots are sent")
    agent.stop(signal.SIGTERM)
    agent.start()
    stop.touch()
    rounds = int(child.communicate(timeout=DEADLINE)[0])
    assert child.returncode == 0

    totals = counts(range(rounds), ROUND)
    wait_executions(prometheus, totals)
    for node, executions in totals.items():
        select = f'{DURATIONS}{{node="{node}"}}'
        assert prometheus.value(f"histogram_count({select})") == executions
    assert_no_reset(prometheus)
    assert metrics(agent, "kaywatch_remote_write_dropped_total") == {}
    until(lambda: health(agent) == "", "everything is well again")


def health(agent: Agent) -> str:
    """Return the problem of remote write."""
    stage = agent.get("/health")["stages"].get("remote write prom", {"problem": ""})
    return f"prom: {stage['problem']}" if stage["problem"] else ""


class Relay:
    """Passes requests on to a server; keeps them, and may swallow the answers."""

    def __init__(self, target: str) -> None:
        self.bodies: list[bytes] = []
        self.errors: list[bytes] = []
        self.before_answer: Callable[[], None] = lambda: None
        self.loses_answers = False
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = urllib.request.Request(
                    target, body, dict(self.headers.items())
                )
                try:
                    with urllib.request.urlopen(request, timeout=DEADLINE) as response:
                        status, text = response.status, response.read()
                except urllib.error.HTTPError as error:
                    status, text = error.code, error.read()
                    relay.errors.append(text)
                except OSError:  # nobody listens
                    self.close_connection = True
                    return
                relay.bodies.append(body)
                relay.before_answer()
                if relay.loses_answers:
                    self.close_connection = True
                    return
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/api/v1/write"


def test_a_kill_between_the_request_and_its_answer_sends_the_same_again(
    prometheus: Prometheus,
) -> None:
    with (
        Relay(write_url(prometheus)) as relay,
        agent_that_writes(relay.url) as agent,
    ):
        agent.run(f"{RECORD}\nrecord(5, 500)\nassert kaywatch.flush(10)")
        wait_executions(prometheus, counts(range(5, 6), 500))
        killed = threading.Event()

        def kill_agent() -> None:
            relay.before_answer = lambda: None
            assert agent.process is not None
            agent.process.send_signal(signal.SIGKILL)
            killed.set()

        relay.before_answer = kill_agent
        assert killed.wait(DEADLINE)
        agent.stop(signal.SIGKILL)
        last = relay.bodies[-1]
        sent = len(relay.bodies)
        agent.start()
        until(lambda: len(relay.bodies) > sent, "the snapshot is sent again")
        again = relay.bodies[sent:][0]
        assert decoded(again) == decoded(last)
        agent.run(f"{RECORD}\nrecord(6, 500)\nassert kaywatch.flush(10)")
        wait_executions(prometheus, counts(range(5, 7), 500))
        assert relay.errors == []
        assert metrics(agent, "kaywatch_remote_write_dropped_total") == {}
    assert_no_reset(prometheus)


def test_a_server_that_is_killed_before_its_answer_stores_it_once(
    prometheus: Prometheus,
) -> None:
    """It has stored a request, and gets the identical one again after its start."""
    with (
        Relay(write_url(prometheus)) as relay,
        agent_that_writes(relay.url) as agent,
    ):
        agent.run(f"{RECORD}\nrecord(17, 500)\nassert kaywatch.flush(10)")
        wait_executions(prometheus, counts(range(17, 18), 500))
        killed = threading.Event()

        def kill_server() -> None:
            relay.before_answer = lambda: None
            relay.loses_answers = True
            prometheus.kill()
            killed.set()

        relay.before_answer = kill_server
        assert killed.wait(DEADLINE)
        last = relay.bodies[-1]
        sent = len(relay.bodies)
        relay.loses_answers = False
        prometheus.start()
        until(lambda: len(relay.bodies) > sent, "the request is sent again")
        assert decoded(relay.bodies[sent]) == decoded(last)
        agent.run(f"{RECORD}\nrecord(18, 500)\nassert kaywatch.flush(10)")
        wait_executions(prometheus, counts(range(17, 19), 500))
        # Until it has read its log, it answers that it is not ready.
        assert {*relay.errors} <= {b"Service Unavailable"}
        assert metrics(agent, "kaywatch_remote_write_dropped_total") == {}
    assert_no_reset(prometheus)


def decoded(body: bytes) -> bytes:
    return bytes(cramjam.snappy.decompress_raw(body))


def test_a_server_without_native_histograms_gets_classic_ones(tmp_path: Path) -> None:
    with (
        running_prometheus(tmp_path, (), RECEIVER) as prometheus,
        agent_that_writes(write_url(prometheus)) as agent,
    ):
        agent.run(f"{RECORD}\nrecord(7, 1_000)\nassert kaywatch.flush(10)")
        wait_executions(prometheus, counts(range(7, 8), 1_000))
        for node, values in expected(7, 1_000).items():
            select = f'{DURATIONS}_bucket{{node="{node}",le="+Inf"}}'
            until(lambda: prometheus.value(select) == len(values), select)  # noqa: B023
            below = prometheus.value(f'{DURATIONS}_bucket{{node="{node}",le="0.0625"}}')
            assert below == sum(value <= 0.0625 for value in values)
        dropped = metrics(agent, "kaywatch_remote_write_dropped_total")
        assert set(dropped) == {'server="prom",reason="native_disabled"'}
        assert health(agent) == ""


def test_only_the_series_that_the_server_rejects_is_dropped(
    agent: Agent, prometheus: Prometheus
) -> None:
    agent.run(f"{RECORD}\nrecord(8, 300)\nassert kaywatch.flush(10)")
    wait_executions(prometheus, counts(range(8, 9), 300))
    ((labels, value),) = prometheus.query(f'{EXECUTIONS}{{node="draft"}}')
    name = labels.pop("__name__")
    series = messages.TimeSeries.FromString(encode_labels(name, labels.items(), {}))
    # Another writer of the same series, whose clock is ahead.
    ahead = int(time.time() * 1000) + 300_000
    series.samples.add(value=value, timestamp=ahead)
    push(prometheus, series)

    reason = 'server="prom",reason="out_of_order"'
    until(
        lambda: reason in metrics(agent, "kaywatch_remote_write_dropped_total"),
        "the series is dropped",
    )
    agent.run(f"{RECORD}\nrecord(9, 300)\nassert kaywatch.flush(10)")
    more = counts(range(8, 10), 300)
    for node in ("review", "publish"):
        select = f'{EXECUTIONS}{{node="{node}"}}'
        until(lambda: prometheus.value(select) == more[node], select)  # noqa: B023
    assert prometheus.value(f'{EXECUTIONS}{{node="draft"}}') == value
    until(lambda: "1 out_of_order" in health(agent), "it is on /health")
    alert = until(lambda: rejected_alert(agent), "there is an alert")
    assert alert["labels"]["server"] == "prom"
    assert "rejected 1 series of the last snapshot" in json.dumps(alert)
    assert set(metrics(agent, "kaywatch_remote_write_dropped_total")) == {reason}
    share = metrics(agent, "kaywatch_remote_write_completeness")['server="prom"']
    assert 0 < share < 1


def rejected_alert(agent: Agent) -> Any:
    alerts = agent.get("/api/v1/alerts")["alerts"]
    named = [a for a in alerts if a["rule"] == "exports_rejected_max"]
    return named[0] if named else None


def push(prometheus: Prometheus, series: Any) -> None:
    request = messages.WriteRequest(timeseries=[series]).SerializeToString()
    connection = http.client.HTTPConnection("127.0.0.1", prometheus.port)
    with contextlib.closing(connection):
        body = bytes(cramjam.snappy.compress_raw(request))
        connection.request("POST", "/api/v1/write", body)
        assert connection.getresponse().status == 204


def test_a_new_store_is_a_new_epoch_and_the_old_one_ends(
    agent: Agent, prometheus: Prometheus
) -> None:
    agent.run(f"{RECORD}\nrecord(10, 400)\nassert kaywatch.flush(10)")
    wait_executions(prometheus, counts(range(10, 11), 400))
    ((old, _),) = prometheus.query(f'{EXECUTIONS}{{node="draft"}}')
    agent.stop()
    for path in agent.folder.glob("kaywatch.db*"):
        if path.is_file():
            path.unlink()
    started = int(time.time())
    until(lambda: int(time.time()) > started, "another second")
    agent.start()
    agent.run(f"{RECORD}\nrecord(11, 300)\nassert kaywatch.flush(10)")
    wait_executions(prometheus, counts(range(11, 12), 300))

    ((new, _),) = prometheus.query(f'{EXECUTIONS}{{node="draft"}}')
    assert new["epoch"] != old["epoch"]
    both = prometheus.value(f"sum(max_over_time({EXECUTIONS}[1h]))")
    assert both == 700


def test_filters_and_labels(prometheus: Prometheus) -> None:
    with agent_that_writes(
        write_url(prometheus),
        labels={"instance": "web-7", "team": "search"},
        include=["kaygraph_.*"],
        exclude=[".*_transitions_total"],
    ) as agent:
        agent.run(f"{RECORD}\nrecord(12, 100)\nassert kaywatch.flush(10)")
        wait_executions(prometheus, counts(range(12, 13), 100))
    names = set(prometheus.ask("label/__name__/values"))
    assert EXECUTIONS in names
    assert all(name.startswith("kaygraph_") for name in names)
    assert "kaygraph_transitions_total" not in names
    ((labels, _),) = prometheus.query(f'{EXECUTIONS}{{node="draft"}}')
    assert (labels["instance"], labels["team"]) == ("web-7", "search")


@pytest.mark.parametrize("histograms", ["native", "classic"])
def test_failures_are_exemplars(tmp_path: Path, histograms: str) -> None:
    metric = DURATIONS if histograms == "native" else f"{DURATIONS}_bucket"
    with (
        running_prometheus(tmp_path, (), NATIVE, RECEIVER) as prometheus,
        agent_that_writes(write_url(prometheus), histograms=histograms) as agent,
    ):
        agent.run(FLOW)
        for query in ("kaygraph_errors_total", metric):

            def ask(query: str = query) -> list[dict[str, Any]]:
                answer = prometheus.ask(
                    "query_exemplars", query=query, start="0", end="9e9"
                )
                return [each for series in answer for each in series["exemplars"]]

            found = until(ask, f"an exemplar of {query}")
            failures = agent.get("/api/v1/failures")["failures"]
            runs = {failure["run"] for failure in failures}
            assert {each["labels"]["run"] for each in found} <= runs
        assert metrics(agent, "kaywatch_remote_write_dropped_total") == {}


def test_a_reload_applies_changes(tmp_path: Path) -> None:
    """Changed labels begin new series, and what was counted before is no increase."""
    with (
        running_prometheus(tmp_path, (), NATIVE, RECEIVER) as prometheus,
        agent_that_writes("http://127.0.0.1:1/api/v1/write", name="gone") as agent,
    ):
        url = write_url(prometheus)
        agent.run(f"{RECORD}\nrecord(14, 300)\nassert kaywatch.flush(10)")
        reload(agent, [{"url": url, "labels": {"team": "a"}}])
        wait_executions(prometheus, counts(range(14, 15), 300))
        stages = until(lambda: "remote write prom" in stages_of(agent), "its stage")
        assert stages and "remote write gone" not in stages_of(agent)

        reload(agent, [{"url": url, "labels": {"team": "b"}}])
        relabelled = f'sum({EXECUTIONS}{{team="b"}})'
        until(lambda: prometheus.value(relabelled) == 300, "the other label")
        agent.run(f"{RECORD}\nrecord(15, 300)\nassert kaywatch.flush(10)")
        until(lambda: prometheus.value(relabelled) == 600, "both rounds")
        # The series of the other label has ended, and the total was not counted twice.
        assert prometheus.query(f'{EXECUTIONS}{{team="a"}}') == []
        grown = f"sum({EXECUTIONS} - min_over_time({EXECUTIONS}[1h]))"
        assert prometheus.value(grown) == 300

        reload(agent, [])
        until(lambda: "remote write prom" not in stages_of(agent), "no stage")


def reload(agent: Agent, servers: list[dict[str, Any]]) -> None:
    """Write the configuration of some servers, and reload it."""
    tables = [
        {"name": "prom", "interval": f"{INTERVAL}s", **server} for server in servers
    ]
    text = "".join(
        "[[export.remote_write]]\n"
        + "".join(f"{key} = {to_toml(value)}\n" for key, value in table.items())
        for table in tables
    )
    (agent.folder / "kaywatch.toml").write_text(text)
    assert agent.process is not None
    agent.process.send_signal(signal.SIGHUP)


def stages_of(agent: Agent) -> set[str]:
    return set(agent.get("/health")["stages"])


# bcrypt of "open sesame", at the lowest cost.
HASH = "$2b$04$/AzrebuHCWmfJcly0U0tce5XYH54NH0.LKwnxC2ztBeohkaI64QFq"


def test_tls_and_a_password(tmp_path: Path) -> None:
    """A wrong password is a problem and no loss: the file is read at each request."""
    files = certificate(tmp_path)
    web = {
        "tls_server_config": {"cert_file": files[0].name, "key_file": files[1].name},
        "basic_auth_users": {"kaywatch": HASH},
    }
    (tmp_path / "web.yml").write_text(json.dumps(web))
    secret = tmp_path / "password"
    secret.write_text("open says me\n")
    with (
        running_prometheus(
            tmp_path,
            (),
            RECEIVER,
            NATIVE,
            f"--web.config.file={tmp_path / 'web.yml'}",
            opener=opener(files.certificate, "kaywatch", "open sesame"),
        ) as prometheus,
        agent_that_writes(
            write_url(prometheus),
            username="kaywatch",
            password_file=str(secret),
            ca=str(files.certificate),
        ) as agent,
    ):
        agent.run(f"{RECORD}\nrecord(13, 100)\nassert kaywatch.flush(10)")
        until(lambda: "HTTP 401" in health(agent), "the password is wrong")
        secret.write_text("open sesame\n")
        wait_executions(prometheus, counts(range(13, 14), 100))
        until(lambda: health(agent) == "", "the password is right")
        assert not any("sesame" in json.dumps(line) for line in agent.log)


def opener(trusted: Path, user: str, password: str) -> urllib.request.OpenerDirector:
    """Return what asks a server with a certificate and a password."""
    context = ssl.create_default_context(cafile=trusted)
    result = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    result.addheaders = [("Authorization", f"Basic {token}")]
    return result
