"""Metrics: the worker's figures in the text format that Prometheus reads."""

from collections.abc import Iterator

import trio
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from dspex.runtime import ActorStarted
from dspex.runtime.reasons import is_orderly
from dspex.runtime.telemetry import Event
from dspex.worker.app import Runtime
from dspex.worker.run_stream import Streams


class RuntimeCollector(Collector):
    """Reads the runtime at each scrape; between scrapes it only counts deaths."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # Those that were there before it listened.
        self.started = len(runtime.node.processes())
        self.ended = 0
        self.crashed = 0
        self.open_streams: set[trio.CancelScope] = set()
        self.streams = Streams(runtime.table)
        runtime.node.telemetry.attach(self._note)

    def _note(self, event: Event) -> None:
        if isinstance(event, ActorStarted):
            self.started += 1
        else:
            self.ended += 1
            self.crashed += not is_orderly(event.reason)

    def collect(self) -> Iterator[Metric]:
        """Give the figures as they are now."""
        runtime = self._runtime
        runs = GaugeMetricFamily(
            "dspex_runs", "Runs of this process, by status.", labels=["status"]
        )
        for status, count in runtime.table.counts.items():
            runs.add_metric([status], count)
        yield runs
        yield CounterMetricFamily(
            "dspex_runs_accepted", "Runs accepted.", runtime.table.accepted
        )
        yield GaugeMetricFamily(
            "dspex_steps_in_flight", "Steps that run now.", len(runtime.in_flight)
        )
        yield GaugeMetricFamily(
            "dspex_actors", "Live actors.", len(runtime.node.processes())
        )
        yield CounterMetricFamily(
            "dspex_actors_started", "Actors started, restarts included.", self.started
        )
        yield CounterMetricFamily("dspex_actors_ended", "Actors ended.", self.ended)
        yield CounterMetricFamily(
            "dspex_actors_crashed", "Actors that ended abnormally.", self.crashed
        )
        yield GaugeMetricFamily(
            "dspex_mailbox_messages",
            "Messages that wait in all mailboxes.",
            sum(it.mailbox.depth for it in runtime.node.processes()),
        )
        tokens = CounterMetricFamily(
            "dspex_tokens", "Tokens of finished model calls.", labels=["kind"]
        )
        for kind, count in runtime.table.tokens.items():
            tokens.add_metric([kind], count)
        yield tokens
        yield GaugeMetricFamily(
            "dspex_event_streams",
            "Open event streams.",
            len(self.open_streams) + len(self.streams.open),
        )
        yield GaugeMetricFamily(
            "dspex_tasks",
            "Live trio tasks.",
            trio.lowlevel.current_statistics().tasks_living,
        )


def make_registry(collector: RuntimeCollector) -> CollectorRegistry:
    """Give a registry of this worker's own; the global one is left alone."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)  # memory, CPU, descriptors; registers itself
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """Give the text of a scrape."""
    return generate_latest(registry)
