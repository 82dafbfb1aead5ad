"""Prometheus metrics of the hot path: fine buckets, no ids as labels."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)

DURATION = Histogram("recstill_request_duration_seconds", "Time per request and stage", ["task", "stage"], buckets=_BUCKETS)
REQUESTS = Counter("recstill_requests", "Requests by status", ["task", "status"])
CANDIDATES = Histogram(
    "recstill_request_candidates", "Candidates per request", ["task"], buckets=(1, 10, 50, 100, 200, 500, 1000, 10_000)
)
UNKNOWN = Counter("recstill_unknown_entities", "Entities without features", ["task", "entity"])
MISSING = Counter("recstill_missing_features", "Rows that a view lacked", ["task", "view"])
DEGRADED = Counter("recstill_degraded_requests", "Answers made without some features", ["task"])
MODEL = Gauge("recstill_model_info", "The model version that is served", ["task", "version"], multiprocess_mode="max")
