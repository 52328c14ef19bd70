"""What a server counts, in the text format that Prometheus reads (version 0.0.4).

Names and label values are ours (routes, statuses, codes), never a client's text, so the number of
series is bounded; what is more than `SERIES_MAX` of one metric is counted as `other` all the same.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal

SERIES_MAX: Final = 2000
SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
COMMITS_S: Final = (0.0005, 0.001, 0.0025, *SECONDS)
BATCHES: Final = (0.0, *(float(2**n) for n in range(13)))  # the last is the most in one commit
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]


class Metric:
    """A number for each combination of labels that was met."""

    kind: Kind = "counter"

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help = help
        self.labels = tuple(labels)
        self._values: dict[Labels, float] = {}

    def add(self, *labels: str, by: float = 1.0) -> None:
        """Count."""
        key = self._key(labels)
        self._values[key] = self._values.get(key, 0.0) + by

    def lines(self) -> Iterator[str]:
        """Yield the metric as text."""
        yield from self._head()
        for key, value in sorted(self._values.items()):
            yield f"{self.name}{self._named(key)} {_number(value)}"

    def _key(self, labels: Labels) -> Labels:
        if labels in self._values or len(self._values) < SERIES_MAX:
            return labels
        return ("other",) * len(self.labels)

    def _head(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"

    def _named(self, values: Labels, *more: tuple[str, str]) -> str:
        pairs = [*zip(self.labels, values, strict=True), *more]
        shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)
        return f"{{{shown}}}" if shown else ""


class Gauge(Metric):
    """A number that is asked for when somebody reads."""

    kind: Kind = "gauge"

    def __init__(self, name: str, help: str, read: Callable[[], float]) -> None:
        super().__init__(name, help)
        self._read = read

    def lines(self) -> Iterator[str]:
        """See `Metric.lines`."""
        yield from self._head()
        yield f"{self.name} {_number(self._read())}"


class Histogram(Metric):
    """How often a number was at most so large."""

    kind: Kind = "histogram"

    def __init__(
        self, name: str, help: str, labels: Sequence[str] = (), bounds: Sequence[float] = SECONDS
    ) -> None:
        super().__init__(name, help, labels)
        self._bounds = tuple(bounds)
        self._counts: dict[Labels, list[int]] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Count a value."""
        key = self._key(labels)
        # The counts first: who reads in another thread meanwhile finds them for every value.
        counts = self._counts.setdefault(key, [0] * (len(self._bounds) + 1))
        counts[bisect_left(self._bounds, value)] += 1
        self._values[key] = self._values.get(key, 0.0) + value

    def lines(self) -> Iterator[str]:
        """See `Metric.lines`."""
        yield from self._head()
        for key, total in sorted(self._values.items()):
            reached = 0
            for bound, count in zip((*self._bounds, None), self._counts[key], strict=True):
                reached += count
                edge = "+Inf" if bound is None else _number(bound)
                yield f"{self.name}_bucket{self._named(key, ('le', edge))} {reached}"
            yield f"{self.name}_sum{self._named(key)} {_number(total)}"
            yield f"{self.name}_count{self._named(key)} {reached}"


class Metrics:
    """Everything that one server counts."""

    def __init__(self) -> None:
        self._all: list[Metric] = []
        counter, histogram = self._counter, self._histogram
        self.requests = counter(
            "perdure_requests_total", "Requests answered.", "method", "route", "status"
        )
        self.request_seconds = histogram(
            "perdure_request_seconds", "Time until the answer began.", "method", "route"
        )
        self.refused = counter(
            "perdure_errors_total", "Errors told to clients or journaled, by code.", "code"
        )
        self.cut_off = counter(
            "perdure_streams_cut_off_total", "Streams ended because nobody read them."
        )
        self.model_calls = counter(
            "perdure_model_calls_total", "Model calls that ended.", "model", "status"
        )
        self.model_seconds = histogram("perdure_model_call_seconds", "Model calls.", "model")
        self.tokens = counter("perdure_model_tokens_total", "Tokens.", "model", "kind")
        self.usd = counter("perdure_model_cost_usd_total", "Known cost, in US dollars.", "model")
        self.tool_calls = counter("perdure_tool_calls_total", "Tool calls that ended.", "status")
        self.tool_seconds = histogram("perdure_tool_call_seconds", "Tool calls that ran here.")
        self.turns = counter("perdure_turns_total", "Turns that ended.", "status")
        self.recovered = counter(
            "perdure_sessions_recovered_total", "Sessions taken over from a process that died."
        )
        self._commit_seconds = histogram(
            "perdure_store_commit_seconds", "From the beginning of a commit until it is durable.",
            bounds=COMMITS_S,
        )  # fmt: skip
        self._commit_batches = histogram(
            "perdure_store_commit_batches", "Batches of events in a commit.", bounds=BATCHES
        )

    def committed(self, seconds: float, batches: int) -> None:
        """Count a commit. Only one thread may call it, and any may read: nothing is locked."""
        self._commit_seconds.observe(seconds)
        self._commit_batches.observe(float(batches))

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Have `read` asked whenever somebody reads."""
        self._all.append(Gauge(name, help, read))

    def text(self) -> str:
        """Return everything, as Prometheus reads it."""
        return "\n".join(line for metric in self._all for line in metric.lines()) + "\n"

    def values(self) -> Mapping[str, float]:
        """Return every sample by its name with labels: for tests and for people."""
        lines = (line for line in self.text().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def _counter(self, name: str, help: str, *labels: str) -> Metric:
        self._all.append(metric := Metric(name, help, labels))
        return metric

    def _histogram(
        self, name: str, help: str, *labels: str, bounds: Sequence[float] = SECONDS
    ) -> Histogram:
        self._all.append(metric := Histogram(name, help, labels, bounds))
        return metric


def _escaped(value: str) -> str:
    plain = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return plain.encode("utf-8", "replace").decode()


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
