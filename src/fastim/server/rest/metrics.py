"""``/metrics`` in the text format of Prometheus; every number is read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    GCCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from fastim import __version__
from fastim.server.rest.gate import has_key, is_local
from fastim.server.rest.problems import problem

if TYPE_CHECKING:
    from prometheus_client import Metric

    from fastim._core.histogram import Histogram
    from fastim.server.service import Service
    from fastim.store.base import Store

__all__ = ["histogram_metric", "make_metrics_router"]

NS_PER_S: Final = 1_000_000_000
# What grows for ever is a counter; everything else of the parts' statistics is a gauge.
_COUNTER_ENDING: Final = "_total"


class _Figures(Collector):
    """Turns the statistics of the parts into metrics."""

    def __init__(self, service: Service, store: Store) -> None:
        self._service = service
        self._store = store

    def collect(self) -> Iterator[Metric]:
        service, store = self._service, self._store
        yield GaugeMetricFamily("fastim_connections", "Open WebSockets.", value=len(service.connections))
        yield GaugeMetricFamily("fastim_store_ok", "1 if writes work.", value=int(store.health.ok))
        yield GaugeMetricFamily("fastim_store_queued", "Writes not reported yet.", value=store.queued_count)
        version = GaugeMetricFamily("fastim_info", "The version that runs.", labels=["version"])
        version.add_metric([__version__], 1)
        yield version
        errors = CounterMetricFamily("fastim_errors", "Error packets sent, by code.", labels=["code"])
        for code, count in sorted(service.dispatcher.errors.items()):
            errors.add_metric([str(code)], count)
        yield errors
        refusals = CounterMetricFamily(
            "fastim_refusals", "Connections refused before the upgrade.", labels=["status"]
        )
        if service.front is not None:
            for status, count in sorted(service.front.refusals.items()):
                refusals.add_metric([str(status)], count)
        yield refusals
        for part, stats in service.figures.items():
            yield from _from_stats(f"fastim_{part}_", stats())
        for name, histogram in service.histograms.items():
            yield histogram_metric(f"fastim_{name}_seconds", histogram)
        for name, histogram in service.size_histograms.items():
            yield histogram_metric(f"fastim_{name}", histogram, 1)


def _from_stats(prefix: str, stats: Mapping[str, int]) -> Iterator[Metric]:
    for name, value in sorted(stats.items()):
        text = f"{name.replace('_', ' ')}."
        if name.endswith(_COUNTER_ENDING):
            yield CounterMetricFamily(prefix + name.removesuffix(_COUNTER_ENDING), text, value=value)
        else:
            yield GaugeMetricFamily(prefix + name, text, value=value)


def histogram_metric(name: str, histogram: Histogram, unit: int = NS_PER_S) -> Metric:
    """Make the metric of a histogram: of nanoseconds, in seconds as Prometheus has it, or of ``unit``s."""
    counts, total = histogram.snapshot()
    bounds = [*(str(bound / unit) for bound in histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(counts), strict=True))
    return HistogramMetricFamily(name, histogram.description, buckets=buckets, sum_value=total / unit)


def make_metrics_router(service: Service, store: Store, key: bytes) -> APIRouter:
    """Make the route; other addresses than loopback must show the key."""
    registry = CollectorRegistry()
    registry.register(_Figures(service, store))
    ProcessCollector(registry=registry)
    GCCollector(registry)
    router = APIRouter()

    @router.get("/metrics", tags=["health"])
    async def metrics(request: Request) -> Response:
        """Give the metrics."""
        if not is_local(request.scope) and not has_key(request.scope, key):
            return problem(
                401, "the key is missing or wrong", {"WWW-Authenticate": "Bearer"}, code="unauthorized"
            )
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router
