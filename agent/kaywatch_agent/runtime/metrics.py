"""The agent's own metrics: each is declared where it is counted, and all are collected.

A component declares what it counts in a subclass of `Metrics`, and owns an instance of
it. `app.py` includes the instances in one registry, which is what /metrics and the
store read.

    class IngestMetrics(Metrics):
        connections = Counter("kaywatch_connections_total", "Connections accepted.")
        refused = Counter("kaywatch_refused_total", "...", labels=("reason",))

    self.metrics = IngestMetrics()
    self.metrics.connections.add()
    self.metrics.refused.labels("quota").add(2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, Self

import msgspec

__all__ = ["CATALOGUE", "Counter", "Gauge", "Instrument", "Metrics", "MetricsRegistry"]

Labels = tuple[str, ...]
Samples = dict[Labels, float]


class Instrument:
    """What counts or measures: a declaration in a class body, values in an instance.

    A metric without labels has a `value`. One with labels has children instead, which
    have the values; `labels` returns a child, which its user may keep.

    Attributes:
        name: on /metrics.
        help: a sentence.
        label_names: in the order of the arguments of `labels`.
        durable: whether the store keeps it over restarts. Counts of data are durable,
            as the data are. The others begin anew with each process, as Prometheus
            expects of a counter: one that a crash sets back by a little would look as
            if all of it came again.
        value: the present value, unless `set_function` is in use.
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
        # Only for what is unset: the value of a metric that has labels.
        raise AttributeError(f"{self.name}.{name}: call labels() first")

    def labels(self, *values: str) -> Self:
        """Return the child for some values of the labels; it is made once."""
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
        """Return the present value for each combination of labels."""
        if self._function is not None:
            found = self._function()
            return {**found} if isinstance(found, Mapping) else {(): float(found)}
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
        """Add a number that is not negative."""
        self.value += amount


class Gauge(Instrument):
    """A value that goes up and down."""

    __slots__ = ()
    type = "gauge"

    def set(self, value: float) -> None:
        """Replace the value."""
        self.value = float(value)


# All metrics that are declared in the modules imported so far.
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
        """Begin to count, from zero."""
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

        Components may share a class, as the connections to two brokers do: the
        values with equal labels are added up.
        """
        for component in components:
            for metric in component:
                self._metrics.setdefault(metric.name, []).append(metric)

    def collect(self) -> Iterator[tuple[Instrument, Samples]]:
        """Yield each metric with its values by labels."""
        for first, *others in self._metrics.values():
            samples = first.samples()
            for other in others:
                for labels, value in other.samples().items():
                    samples[labels] = samples.get(labels, 0.0) + value
            yield first, samples

    def changes(self, full: bool) -> bytes:  # noqa: ARG002
        """Return the durable counters as JSON: all of them, for they are few."""
        counters = {
            metric.name: [*samples.items()]
            for metric, samples in self.collect()
            if metric.durable
        }
        return msgspec.json.encode(counters)

    def committed(self, change: bytes) -> None:
        """Do nothing: the next change has all counters in any case."""

    def refused(self, change: bytes) -> None:
        """Do nothing: the next change has all counters in any case."""

    def restore(self, change: bytes) -> None:
        """Go on counting from a change that was stored; include all components first.

        A counter that is not durable now is left out.
        """
        found = msgspec.json.decode(change, type=dict[str, list[tuple[Labels, float]]])
        for name, values in found.items():
            for metric in self._metrics.get(name, ())[:1]:
                if metric.durable:
                    for labels, value in values:
                        child = metric.labels(*labels) if labels else metric
                        child.value += value
