"""`kaywatch doctor exports`: a canary is written to real servers, and read back."""

from __future__ import annotations

from pathlib import Path

from tests.agents import free_port
from tests.prometheus import (
    NATIVE,
    Prometheus,
    running_prometheus,
    running_victoria_metrics,
)
from tests.receivers import Receivers, Reply, run_receivers

from kaywatch_agent.cli.doctor.checks import run_checks
from kaywatch_agent.cli.doctor.context import Options, gather
from kaywatch_agent.cli.doctor.result import CheckResult

RECEIVER = "--web.enable-remote-write-receiver"
COUNTER, HISTOGRAM = "kaywatch_canary_total", "kaywatch_canary_seconds"


def doctor(
    folder: Path, url: str, *lines: str, kind: str = "remote_write"
) -> list[CheckResult]:
    """Return the results for one server."""
    path = folder / "kaywatch.toml"
    text = "\n".join([f"[[export.{kind}]]", f'url = "{url}"', 'name = "it"', *lines])
    path.write_text(f"{text}\n")
    context = gather(Options(config=str(path), url="http://127.0.0.1:1"))
    assert context.config_error is None
    ((_, results),) = run_checks(context, ("exports",))
    return results


def only(results: list[CheckResult], status: str, *words: str) -> None:
    """Check that there is one result, with these words."""
    assert [result.status for result in results] == [status], results
    assert all(word in f"{results[0].text} {results[0].fix}" for word in words), results


def write_url(server: Prometheus) -> str:
    return f"{server.url}/api/v1/write"


def test_a_prometheus_with_native_histograms(tmp_path: Path) -> None:
    with running_prometheus(tmp_path, (), NATIVE, RECEIVER) as server:
        only(doctor(tmp_path, write_url(server)), "ok", "was stored, and read back")
        # A second canary is not mistaken for the first; and both have ended.
        only(doctor(tmp_path, write_url(server)), "ok", "was stored, and read back")
        assert server.query(f'{{__name__=~"{COUNTER}|{HISTOGRAM}"}}') == []
        assert len(server.query(f"last_over_time({COUNTER}[5m])")) == 2
        unknown = 'query_url = "http://127.0.0.1:1/api/v1/query"'
        results = doctor(tmp_path, write_url(server), unknown)
        only(results, "not checked", "not known", "connection refused")


def test_a_prometheus_without_native_histograms(tmp_path: Path) -> None:
    with running_prometheus(tmp_path, (), RECEIVER) as server:
        url = write_url(server)
        warned, stored = doctor(tmp_path, url)
        assert warned.status == "warning" and "are refused" in warned.text
        assert stored.status == "ok"
        lost, _ = doctor(tmp_path, url, 'histograms = "native"')
        assert lost.status == "problem" and 'histograms = "classic"' in lost.fix
        only(doctor(tmp_path, url, 'histograms = "classic"'), "ok", "was stored")


def test_what_victoria_metrics_discards_is_named(tmp_path: Path) -> None:
    with running_victoria_metrics(tmp_path) as server:
        warned, stored = doctor(tmp_path, write_url(server))
        assert warned.status == "warning"
        assert f"{HISTOGRAM} was accepted and silently discarded" in warned.text
        assert stored.status == "ok"
        results = doctor(tmp_path, write_url(server), 'histograms = "classic"')
        only(results, "ok", "was stored, and read back")


def test_a_server_that_stores_nothing_is_a_problem(tmp_path: Path) -> None:
    """Accepted by one server, and looked for in another."""
    with running_prometheus(tmp_path, ()) as other, run_receivers() as receivers:
        query = f'query_url = "{other.url}/api/v1/query"'
        results = doctor(tmp_path, f"{receivers.url}/write", query)
        only(results, "problem", COUNTER, "cannot be found", "query_url")
        refuse(receivers, tmp_path)


def refuse(receivers: Receivers, folder: Path) -> None:
    receivers.answer("/write", Reply(401, "who are you?"))
    url = f"{receivers.url}/write"
    only(doctor(folder, url), "problem", "was refused", "HTTP 401: who are you?")
    # Its address of queries is not known.
    only(doctor(folder, url), "not checked", "set query_url")


def test_a_prometheus_that_receives_nothing(tmp_path: Path) -> None:
    with running_prometheus(tmp_path, ()) as server:
        results = doctor(tmp_path, write_url(server))
    only(results, "problem", "HTTP 404", "--web.enable-remote-write-receiver")


def test_a_server_that_receives_only_remote_write_2(tmp_path: Path) -> None:
    """As the OpenTelemetry Collector does."""
    with run_receivers() as receivers:
        receivers.answer("/write", Reply(415, "unsupported proto version"))
        results = doctor(tmp_path, f"{receivers.url}/write")
    only(results, "problem", "HTTP 415: unsupported proto", "[[export.otlp]]")


def test_no_server_and_no_password(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/api/v1/write"
    only(doctor(tmp_path, url), "problem", "connection refused")
    secret = tmp_path / "absent"
    lines = ('username = "a"', f'password_file = "{secret}"')
    only(doctor(tmp_path, url, *lines), "problem", f"cannot read {secret}")
