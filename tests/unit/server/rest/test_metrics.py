"""How the metrics are written."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from fastim._core.histogram import Histogram
from fastim.server.rest.metrics import histogram_metric


class One(Collector):
    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self.metric


def test_histogram_when_shown_then_cumulated_and_in_seconds() -> None:
    histogram = Histogram("From here to there.", [1_000_000, 2_500_000_000])
    for value_ns in (500_000, 1_000_000, 2_000_000_000, 3_000_000_000):
        histogram.observe(value_ns)
    registry = CollectorRegistry()
    registry.register(One(histogram_metric("fastim_way_seconds", histogram)))
    assert generate_latest(registry).decode().splitlines() == [
        "# HELP fastim_way_seconds From here to there.",
        "# TYPE fastim_way_seconds histogram",
        'fastim_way_seconds_bucket{le="0.001"} 2.0',
        'fastim_way_seconds_bucket{le="2.5"} 3.0',
        'fastim_way_seconds_bucket{le="+Inf"} 4.0',
        "fastim_way_seconds_count 4.0",
        "fastim_way_seconds_sum 5.0015",
    ]
