"""Counters of one server, for Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

MEDIA_TYPE = CONTENT_TYPE_LATEST
_LAGS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)


class Metrics:
    """What a server counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.clients = Gauge("speechrnn_clients", "Clients being served now.", registry=self.registry)
        self.capacity = Gauge("speechrnn_capacity", "Clients that can be served at once.", registry=self.registry)
        self.ends = Counter("speechrnn_ends", "Conversations by how they ended.", ["how"], registry=self.registry)
        self.decisions = Counter("speechrnn_decisions", "Contexts that were decided.", registry=self.registry)
        self.batches = Counter("speechrnn_batches", "Runs of the network.", registry=self.registry)
        self.words = Counter("speechrnn_detections", "Keywords that were detected.", ["label"], registry=self.registry)
        self.refusals = Counter(
            "speechrnn_refusals", "Requests refused, by status.", ["status"], registry=self.registry
        )
        self.uploads = Counter("speechrnn_uploads", "Recordings by HTTP status.", ["status"], registry=self.registry)
        self.lag = Histogram("speechrnn_lag_seconds", "Audio to answer.", buckets=_LAGS_S, registry=self.registry)

    def text(self) -> bytes:
        """All counters in Prometheus' text form."""
        return generate_latest(self.registry)
