"""What the service counts, in Prometheus' text format; every application has a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The counters of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "vultus_requests_total", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "vultus_request_seconds", "Time to answer.", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.search = Histogram(
            "vultus_search_seconds", "Search part of an identify, a face.", buckets=SECONDS, registry=self.registry
        )
        self.decisions = Counter(
            "vultus_decisions_total", "Faces identified.", ["gallery", "decision"], registry=self.registry
        )
        self.prior = Histogram(
            "vultus_prior_log_odds",
            "Log odds of whoever was found, before the face was compared.",
            buckets=(-16, -14, -12, -10, -8, -6, -4, -2, 0),
            registry=self.registry,
        )
        self.examined = Counter(
            "vultus_last_tier_total", "Faces identified, by the last tier examined.", ["tier"], registry=self.registry
        )
        self.faces = Counter("vultus_faces_enrolled_total", "Faces kept.", ["gallery"], registry=self.registry)
        self.behind = Gauge("vultus_behind_seconds", "What was committed longer ago is shown.", registry=self.registry)
        self.waiting = Gauge(
            "vultus_waiting", "Photos or faces waiting for a model.", ["stage"], registry=self.registry
        )
