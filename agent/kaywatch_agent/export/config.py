"""The settings of exports (`[[export.remote_write]]`, `[[export.otlp]]`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.request_config import RequestConfig
from kaywatch_agent.notify.secret import Secret, section_with_secrets
from kaywatch_agent.regex import Expression
from kaywatch_agent.runtime.host import host_name
from kaywatch_agent.settings.reader import Duration, ErrorCollector, Size, check_url
from kaywatch_agent.units import parse_duration, parse_size

__all__ = [
    "ExportConfig",
    "OtlpConfig",
    "RemoteWriteConfig",
    "TargetConfig",
    "parse_export",
]

WRITE_PATH: Final = "/api/v1/write"
QUERY_PATH: Final = "/api/v1/query"
MIN_INTERVAL: Final = 1.0
MAX_INTERVAL: Final = 300.0  # Prometheus's queries see a sample for five minutes
MIN_DISK: Final = 1_000_000
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
# Of every series; another value of the store's own label would join different totals.
_OWN_LABELS: Final = frozenset({"__name__", "epoch"})


@dataclass(frozen=True, kw_only=True)
class TargetConfig(RequestConfig):
    """A server that all metrics are sent to.

    Attributes:
        url: the full URL of the server's endpoint.
        name: in metrics, logs and on `/health`; by default the host of the URL.
        username: for HTTP basic authentication.
        password: for HTTP basic authentication.
        bearer_token: for the header `Authorization: Bearer`.
        interval: how often the current values are sent.
        include: regular expressions. If there are any, only metrics whose whole name
            matches one of them are sent.
        exclude: regular expressions; metrics whose whole name matches one of them are
            not sent.
        max_buckets: a histogram with more buckets is sent with a lower resolution.
            Mimir allows 160.
        max_disk: the disk space for samples that could not be sent yet. As it fills up,
            the interval gets longer: totals stay exact, and curves get coarser.
    """

    url: str
    name: str = ""
    username: str = ""
    password: Secret | None = None
    bearer_token: Secret | None = None
    interval: Duration = "15s"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_buckets: int = 160
    max_disk: Size = "64MB"

    def __post_init__(self) -> None:
        problems = ErrorCollector()
        with problems.collect():
            self.check_requests()
        with problems.collect():
            check_url(self.path + "url", self.url)
            self._check_url()
        for key, patterns in (("include", self.include), ("exclude", self.exclude)):
            for number, pattern in enumerate(patterns):
                try:
                    Expression(pattern)
                except ValueError as error:
                    problems.add(f"{self.path}{key}[{number}]", str(error))
        self._check_numbers(problems)
        self._check_own(problems)
        problems.raise_all()

    def _check_own(self, problems: ErrorCollector) -> None:
        """Validate the keys of one kind of server."""

    def _check_url(self) -> None:
        if "@" in urlsplit(self.url).netloc:
            text = "set username and password by their own keys"
            raise ConfigError(self.path + "url", text)
        if not _NAME.fullmatch(self.identity):
            text = "a name consists of at most 64 letters, digits and _.-"
            raise ConfigError(self.path + "name", text)
        if self.bearer_token is not None and (self.username or self.password):
            text = "set either bearer_token or username and password"
            raise ConfigError(self.path + "bearer_token", text)
        if bool(self.username) is not bool(self.password):
            raise ConfigError(
                self.path + "username", "set both username and password, or neither"
            )

    def _check_numbers(self, problems: ErrorCollector) -> None:
        if not MIN_INTERVAL <= parse_duration(self.interval) <= MAX_INTERVAL:
            text = f'"{self.interval}" is not between 1s and 5m'
            problems.add(self.path + "interval", text)
        if self.max_buckets < 1:
            problems.add(self.path + "max_buckets", f"{self.max_buckets}: at least 1")
        if parse_size(self.max_disk) < MIN_DISK:
            problems.add(self.path + "max_disk", f'"{self.max_disk}": at least "1MB"')

    @property
    def identity(self) -> str:
        """The name, or by default the host and port of the URL."""
        return self.name or urlsplit(self.url).netloc.replace(":", "-").strip("[]")


@dataclass(frozen=True, kw_only=True)
class RemoteWriteConfig(TargetConfig):
    """A server that receives Prometheus remote write (`[[export.remote_write]]`).

    Prometheus, Mimir, Thanos and VictoriaMetrics do; see
    [prometheus.md](prometheus.md).

    Attributes:
        labels: labels of every series; by default `job = "kaywatch"` and `instance`,
            the name of the host; `KAYWATCH_HOST` overrides it.
        histograms: `native`; or `classic`, for servers without native histograms, which
            may drop them silently; `auto` sends native ones until they are refused, or
            until `query_url` shows that they are not stored.
        query_url: the query API of the server, such as
            `https://prometheus.example.org/api/v1/query`; by default that of `url`, if
            it ends with `/api/v1/write`. The agent asks it, with the same credentials,
            whether histograms were stored.
    """

    labels: dict[str, str] = field(default_factory=dict)
    histograms: Literal["auto", "native", "classic"] = "auto"
    query_url: str = ""

    def _check_own(self, problems: ErrorCollector) -> None:
        if self.query_url:
            with problems.collect():
                check_url(self.path + "query_url", self.query_url)
        for label in self.labels:
            if not _LABEL.fullmatch(label) or label in _OWN_LABELS:
                problems.add(f"{self.path}labels.{label}", "not a valid label name")

    @property
    def path(self) -> str:
        """The prefix of its keys in error messages."""
        return "export.remote_write."

    @property
    def all_labels(self) -> dict[str, str]:
        """The labels of every series, except for the epoch of the store."""
        return {"job": "kaywatch", "instance": host_name(), **self.labels}

    @property
    def query_address(self) -> str:
        """The URL of the query API; empty if it is not known."""
        if self.query_url or not self.url.endswith(WRITE_PATH):
            return self.query_url
        return self.url.removesuffix(WRITE_PATH) + QUERY_PATH


@dataclass(frozen=True, kw_only=True)
class OtlpConfig(TargetConfig):
    """A server that receives OTLP over HTTP, such as an OpenTelemetry Collector.

    Needs `pip install 'kaywatch[otlp]'`; see [otlp.md](otlp.md).

    Attributes:
        temporality: `cumulative`, which is exact whatever is sent twice; or `delta`.
        gen_ai_names: OpenTelemetry's names of metrics of language models that are sent
            in addition to ours: `none`, `old` (1.36), `new` (0.1.0 of the conventions'
            own repository) or `both`.
        resource: attributes of all resources, such as
            `{ "deployment.environment.name" = "staging" }`.
    """

    temporality: Literal["cumulative", "delta"] = "cumulative"
    gen_ai_names: Literal["none", "old", "new", "both"] = "new"
    resource: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The prefix of its keys in error messages."""
        return "export.otlp."


@dataclass(frozen=True)
class ExportConfig:
    """What is sent to other systems (`[export]`).

    Attributes:
        remote_write: servers that receive Prometheus remote write.
        otlp: servers that receive OTLP over HTTP.
    """

    remote_write: tuple[RemoteWriteConfig, ...] = ()
    otlp: tuple[OtlpConfig, ...] = ()

    @property
    def targets(self) -> tuple[TargetConfig, ...]:
        """All servers."""
        return (*self.remote_write, *self.otlp)


_TargetT = TypeVar("_TargetT", bound=TargetConfig)


def parse_export(table: object) -> ExportConfig:
    """Return the table `[export]`.

    Raises:
        ConfigError: all errors, each with its key.
    """
    if not isinstance(table, dict):
        raise ConfigError("export", f"expected a table [export], got {table!r}")
    problems = ErrorCollector()
    for key in table.keys() - {"remote_write", "otlp"}:
        problems.add(f"export.{key}", "unknown key (known: remote_write, otlp)")
    config = ExportConfig(
        _servers(RemoteWriteConfig, "remote_write", table, problems),
        _servers(OtlpConfig, "otlp", table, problems),
    )
    names = [target.identity for target in config.targets]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.add("export", f"two servers are called {name}: set name")
    problems.raise_all()
    return config


def _servers(
    kind: type[_TargetT], key: str, table: Mapping[str, Any], problems: ErrorCollector
) -> tuple[_TargetT, ...]:
    path = f"export.{key}"
    tables = table.get(key, [])
    if not isinstance(tables, list):
        problems.add(path, f"expected a list of tables [[{path}]]")
        return ()
    servers = []
    for number, each in enumerate(tables):
        with problems.collect():
            if not isinstance(each, Mapping):
                raise ConfigError(f"{path}[{number}]", f"expected a table [[{path}]]")
            servers.append(section_with_secrets(kind, each, f"{path}[{number}]"))
    return tuple(servers)
