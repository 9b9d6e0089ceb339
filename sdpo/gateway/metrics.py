"""What the gateway counts, as text for Prometheus."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping

_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Histogram:
    """Counts durations in buckets."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str) -> list[str]:
        """Return the histogram in Prometheus' form."""
        result, total = [], 0
        for limit, count in zip((*map(str, _SECONDS), "+Inf"), self._counts, strict=True):
            total += count
            result.append(f'{name}_bucket{{le="{limit}"}} {total}')
        return [*result, f"{name}_sum {self._sum:.6f}", f"{name}_count {total}"]


class Metrics:
    """The counters of a gateway. `requests` is by route and status, `stored` by state, `rejected` by reason."""

    def __init__(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.stored: Counter[str] = Counter()
        self.not_stored: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.ratings = 0
        self.added = Histogram()
        self._gauges = gauges

    def text(self) -> str:
        """Return all of them in Prometheus' text form."""
        lines = self._counter("requests_total", "Requests by route and status.", {
            f'route="{route}",status="{status}"': count for (route, status), count in self.requests.items()
        })  # fmt: skip
        for name, help, label, counts in (
            ("exchanges_stored_total", "Exchanges stored, by how they ended.", "state", self.stored),
            ("exchanges_not_stored_total", "Answers that were not kept, by reason.", "reason", self.not_stored),
            ("rejected_total", "Requests refused by the gateway, by reason.", "reason", self.rejected),
        ):
            lines += self._counter(name, help, {f'{label}="{value}"': count for value, count in counts.items()})
        lines += self._counter("ratings_total", "Ratings stored.", {"": self.ratings})
        lines += [
            "# HELP sdpo_gateway_added_seconds Time of a request that was not spent waiting for the upstream.",
            "# TYPE sdpo_gateway_added_seconds histogram",
            *self.added.lines("sdpo_gateway_added_seconds"),
        ]
        for name, (help, value) in self._gauges.items():
            lines += [f"# HELP sdpo_gateway_{name} {help}", f"# TYPE sdpo_gateway_{name} gauge"]
            lines.append(f"sdpo_gateway_{name} {value():g}")
        return "\n".join(lines) + "\n"

    @staticmethod
    def _counter(name: str, help: str, counts: Mapping[str, int]) -> list[str]:
        lines = [f"# HELP sdpo_gateway_{name} {help}", f"# TYPE sdpo_gateway_{name} counter"]
        return lines + [f"sdpo_gateway_{name}{f'{{{labels}}}' if labels else ''} {n}" for labels, n in counts.items()]
