"""The agent's own metrics: declared where they are counted, collected in a registry.

A component declares its metrics in a subclass of `Metrics`, and owns an instance of it.
`components.py` includes the instances in one registry, which /metrics and the store
read.

    class IngestMetrics(Metrics):
        connections = Counter("kaywatch_connections_total", "Connections accepted.")
        refused = Counter("kaywatch_refused_total", "...", labels=("reason",))

    self.metrics = IngestMetrics()
    self.metrics.connections.add()
    self.metrics.refused.labels("quota").add(2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, Self

import msgspec

__all__ = ["CATALOGUE", "Counter", "Gauge", "Instrument", "Metrics", "MetricsRegistry"]

Labels = tuple[str, ...]
Samples = dict[Labels, float]


class Instrument:
    """A metric: a declaration in a class body, with values in an instance.

    A metric without labels has a `value`. A metric with labels has children, which have
    the values; `labels` returns a child, which the caller may keep.

    Attributes:
        name: its name on /metrics.
        help: one sentence.
        label_names: in the order of the arguments of `labels`.
        durable: whether the store keeps it across restarts. Counts of data are durable,
            like the data. Other metrics restart from zero, as Prometheus expects: a
            counter that a crash set back slightly would look as if it had been reset
            and then counted everything again.
        value: the current value, unless `set_function` is used.
    """

    __slots__ = (
        "_children",
        "_function",
        "durable",
        "help",
        "label_names",
        "name",
        "value",
    )
    type: ClassVar[str]
    value: float

    def __init__(
        self, name: str, help: str, *, labels: Labels = (), durable: bool = False
    ) -> None:
        self.name = name
        self.help = help
        self.label_names = labels
        self.durable = durable
        self._children: dict[Labels, Self] = {}
        self._function: Callable[[], float | Mapping[Labels, float]] | None = None
        if not labels:
            self.value = 0.0

    def __getattr__(self, name: str) -> Any:
        # Called for unset attributes only: the value of a metric with labels.
        raise AttributeError(f"{self.name}.{name}: call labels() first")

    def labels(self, *values: str) -> Self:
        """Return the child for label values; it is created once."""
        child = self._children.get(values)
        if child is None:
            if not values or len(values) != len(self.label_names):
                raise ValueError(f"{self.name}: expected labels {self.label_names}")
            child = self._children[values] = type(self)(self.name, self.help)
        return child

    def set_function(
        self, function: Callable[[], float | Mapping[Labels, float]]
    ) -> None:
        """Take the value from a function when metrics are collected.

        Args:
            function: returns the value, or a value for each combination of labels.
        """
        self._function = function

    def samples(self) -> Samples:
        """Return the current value for each combination of labels."""
        if self._function is not None:
            value = self._function()
            values = value if isinstance(value, Mapping) else {(): value}
            return {labels: float(number) for labels, number in values.items()}
        if self.label_names:
            return {labels: child.value for labels, child in self._children.items()}
        return {(): self.value}

    def fresh(self) -> Self:
        """Return the same metric without values."""
        return type(self)(
            self.name, self.help, labels=self.label_names, durable=self.durable
        )


class Counter(Instrument):
    """A count that never goes down."""

    __slots__ = ()
    type = "counter"

    def add(self, amount: float = 1.0) -> None:
        """Add a non-negative number."""
        self.value += amount


class Gauge(Instrument):
    """A value that goes up and down."""

    __slots__ = ()
    type = "gauge"

    def set(self, value: float) -> None:
        """Replace the value."""
        self.value = float(value)


# All metrics declared in the modules imported so far.
CATALOGUE: Final[dict[str, Instrument]] = {}


class Metrics:
    """The metrics of one component; a subclass declares them as class attributes.

    An instance has its own values, so that several agents can live in one process.
    """

    _declared: ClassVar[dict[str, Instrument]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        declared = {
            attribute: metric
            for attribute, metric in vars(cls).items()
            if isinstance(metric, Instrument)
        }
        for metric in declared.values():
            if metric.name in CATALOGUE:
                raise TypeError(f"{cls.__name__}: {metric.name} is declared twice")
            CATALOGUE[metric.name] = metric
        cls._declared = {**cls._declared, **declared}

    def __init__(self) -> None:
        """Create the metrics with values of zero."""
        for attribute, metric in self._declared.items():
            setattr(self, attribute, metric.fresh())

    def __iter__(self) -> Iterator[Instrument]:
        """Yield the metrics in the order of their declaration."""
        return iter([getattr(self, attribute) for attribute in self._declared])


class MetricsRegistry:
    """The metrics of all components of one agent."""

    def __init__(self) -> None:
        self._metrics: dict[str, list[Instrument]] = {}

    def include(self, *components: Metrics) -> None:
        """Add the metrics of components.

        Components may share a class, such as the connections to two brokers: values
        with equal labels are added up.
        """
        for component in components:
            for metric in component:
                self._metrics.setdefault(metric.name, []).append(metric)

    def collect(self) -> Iterator[tuple[Instrument, Samples]]:
        """Yield each metric with its values by labels."""
        for metrics in self._metrics.values():
            yield metrics[0], _add_up(metrics)

    def changes(self, full: bool) -> bytes:  # noqa: ARG002
        """Return all durable counters as JSON: they are few."""
        counters = {
            name: [*_add_up(metrics).items()]
            for name, metrics in self._metrics.items()
            if metrics[0].durable
        }
        return msgspec.json.encode(counters)

    def committed(self, change: bytes) -> None:
        """Do nothing: the next change contains all counters anyway."""

    def refused(self, change: bytes) -> None:
        """Do nothing: the next change contains all counters anyway."""

    def restore(self, change: bytes) -> None:
        """Continue from stored counters; include all components before.

        Counters that are no longer durable are ignored.
        """
        stored = msgspec.json.decode(change, type=dict[str, list[tuple[Labels, float]]])
        for name, values in stored.items():
            for metric in self._metrics.get(name, ())[:1]:
                if metric.durable:
                    for labels, value in values:
                        child = metric.labels(*labels) if labels else metric
                        child.value += value


def _add_up(metrics: Sequence[Instrument]) -> Samples:
    """Return the values of a metric of several components, by labels."""
    first, *others = metrics
    samples = first.samples()
    for other in others:
        for labels, value in other.samples().items():
            samples[labels] = samples.get(labels, 0.0) + value
    return samples
