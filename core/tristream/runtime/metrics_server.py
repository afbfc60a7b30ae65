"""``/metrics`` for Prometheus: what a part's status says, under names of Prometheus' convention.

Names begin with ``tristream_``, units are base units, and what only grows ends with ``_total``; labels are the run, the
part, the instance, and what a measure is of. A measure of a status that ``KINDS`` does not know is a gauge of its name.
"""

import logging
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

from tristream.config.metrics import MetricsSection
from tristream.runtime.http_server import QuietHTTPServer, listen
from tristream.runtime.metric_kinds import KINDS, PREFIX, Kind
from tristream.runtime.status import PartReporter
from tristream.wire.events import PartState, PartStatus

if TYPE_CHECKING:
    from prometheus_client import Metric

LOG = logging.getLogger("tristream.metrics")

METRICS_PORT = "metrics_port"
"""Measure of a part: the port of its metrics."""
LABELS = ("run", "part", "instance")
IDLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PartCollector:
    """Makes metrics of the status as it is when Prometheus asks."""

    reporter: PartReporter

    def collect(self) -> Iterator["Metric"]:
        """The metrics of one answer."""
        status = self.reporter.status
        yield from _state_metrics(status)
        yield from _wait_metrics(status, self.reporter.wait_seconds)
        yield from _measure_metrics(status)


def serve_metrics(reporter: PartReporter, metrics: MetricsSection) -> None:
    """Serve the metrics of a part from a thread of its own, until the process ends, and tell the port in its status.

    Raises:
        UserError: the address is taken or cannot be used.
    """
    if metrics.port is None:
        return
    server = listen(
        lambda address: _Server(address, reporter),
        metrics.host,
        metrics.port,
        host_key="metrics.host",
        port_key="metrics.port",
    )
    port = int(server.server_address[1])
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    status = reporter.status
    reporter.report(status.state, status.waiting_for, measures={METRICS_PORT: float(port)})
    LOG.info("metrics at port %d", port)


class _Server(QuietHTTPServer):
    def __init__(self, address: tuple[str, int], reporter: PartReporter) -> None:
        from prometheus_client import CollectorRegistry

        self.registry = CollectorRegistry()
        self.registry.register(PartCollector(reporter))
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server: _Server

    def do_GET(self) -> None:
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        is_known = self.path.partition("?")[0] == "/metrics"
        body = encode(self.server.registry) if is_known else b"metrics are at /metrics\n"
        self.send_response(HTTPStatus.OK if is_known else HTTPStatus.NOT_FOUND)
        self.send_header("Content-Type", content_type if is_known else "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        LOG.debug(format, *args)


def _state_metrics(status: PartStatus) -> Iterator["Metric"]:
    now_seconds = time.time()
    states = [((str(state),), float(state is status.state)) for state in PartState]
    yield _family(status, Kind("part_state", "1 for the state that the part is in."), ("state",), states)
    ages = (
        ("part_uptime_seconds", "Age of the process.", status.started_ns),
        ("part_state_age_seconds", "For how long it is in its state and waits for the same.", status.since_ns),
    )
    for name, meaning, since_ns in ages:
        yield _family(status, Kind(name, meaning), (), [((), max(0.0, now_seconds - since_ns / 1e9))])
    loads = [((load.verifier, load.version), float(load.num_scored)) for load in status.verifiers]
    kind = Kind("verifier_scored", "Rollouts scored by a verifier version.", is_counter=True)
    yield _family(status, kind, ("verifier", "version"), loads)


def _wait_metrics(status: PartStatus, seconds: Mapping[str, float]) -> Iterator["Metric"]:
    kind = Kind("part_wait_seconds", "Time waited by reason; its rate is the share of time.", is_counter=True)
    yield _family(status, kind, ("reason",), [((reason,), value) for reason, value in seconds.items()])


def _measure_metrics(status: PartStatus) -> Iterator["Metric"]:
    """One family for each kind of measure, with all measures of it."""
    families: dict[Kind, list[tuple[tuple[str, ...], float]]] = {}
    for name, value in sorted(status.measures.items()):
        kind, labels = _find_kind(name)
        families.setdefault(kind, []).append((labels, value))
    for kind, samples in families.items():
        yield _family(status, kind, kind.labels, samples)


def _find_kind(measure: str) -> tuple[Kind, tuple[str, ...]]:
    """What a measure is, and the values of its labels."""
    for pattern, kind in KINDS.items():
        match = re.fullmatch(pattern, measure)
        if match:
            return kind, match.groups()
    name = re.sub(r"[^a-z0-9]+", "_", measure.lower()).strip("_")
    return Kind(name, "A number of the part's status."), ()


def _family(
    status: PartStatus, kind: Kind, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> "Metric":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    make = CounterMetricFamily if kind.is_counter else GaugeMetricFamily
    family = make(f"{PREFIX}{kind.name}", kind.meaning, labels=(*LABELS, *labels))
    for values, value in samples:
        family.add_metric((status.run, str(status.part), status.instance, *values), value)
    return family
