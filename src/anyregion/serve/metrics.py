"""`Metrics`: counts and times of the service, as Prometheus reads them."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable

# seconds; the last bucket holds all
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters and histograms; every method may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[tuple[str, str, int], int] = defaultdict(int)
        self._seconds: dict[str, list[int]] = {}
        self._sums: dict[str, float] = defaultdict(float)
        self._batches: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request. `route` is the pattern, never the path: ids are not kept."""
        with self._lock:
            self._requests[method, route, status] += 1
            counts = self._seconds.setdefault(route, [0] * (len(BUCKETS) + 1))
            counts[next((i for i, b in enumerate(BUCKETS) if seconds <= b), len(BUCKETS))] += 1
            self._sums[route] += seconds

    def batch(self, kind: str, size: int) -> None:
        """Count what went through the model together."""
        with self._lock:
            self._batches[kind][0] += 1
            self._batches[kind][1] += size

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Report what `read` returns at that time."""
        self._gauges[name] = (help_text, read)

    def text(self) -> str:
        """The exposition format, version 0.0.4."""
        lines: list[str] = []

        def head(name: str, kind: str, help_text: str) -> None:
            lines.append(f"# HELP {name} {help_text}")
            lines.append(f"# TYPE {name} {kind}")

        with self._lock:
            name = "anyregion_requests_total"
            head(name, "counter", "Requests by method, route and status.")
            for (method, route, status), count in sorted(self._requests.items()):
                labels = f'method="{method}",route="{route}",status="{status}"'
                lines.append(f"{name}{{{labels}}} {count}")
            name = "anyregion_request_seconds"
            head(name, "histogram", "Seconds from a request to its answer.")
            for route, counts in sorted(self._seconds.items()):
                total = 0
                for bound, count in zip((*BUCKETS, "+Inf"), counts, strict=True):
                    total += count
                    lines.append(f'{name}_bucket{{route="{route}",le="{bound}"}} {total}')
                lines.append(f'{name}_sum{{route="{route}"}} {self._sums[route]:.6f}')
                lines.append(f'{name}_count{{route="{route}"}} {total}')
            head("anyregion_batches_total", "counter", "Passes through the model.")
            for kind, (passes, _) in sorted(self._batches.items()):
                lines.append(f'anyregion_batches_total{{kind="{kind}"}} {passes}')
            head("anyregion_batched_total", "counter", "Requests in these passes.")
            for kind, (_, size) in sorted(self._batches.items()):
                lines.append(f'anyregion_batched_total{{kind="{kind}"}} {size}')
        for name, (help_text, read) in sorted(self._gauges.items()):
            head(f"anyregion_{name}", "gauge", help_text)
            lines.append(f"anyregion_{name} {read():g}")
        return "\n".join(lines) + "\n"
