"""What the event log counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SENT = Counter("seedbed_events_sent_total", "Events that the log took, by priority.", ["priority"])
SHED = Counter(
    "seedbed_events_shed_total",
    "Events of low priority that were dropped because a buffer was full.",
)
REFUSED = Counter(
    "seedbed_events_refused_total",
    "Events that a full buffer refused, by priority; their producer was told.",
    ["priority"],
)
BUFFERED = Gauge("seedbed_events_buffered", "Events that wait in this process to be sent.")
BATCH_EVENTS = Histogram(
    "seedbed_events_batch_size",
    "Events in one batch.",
    buckets=(1, 5, 10, 25, 50, 100, 250, 500),
)
BATCH_BYTES = Histogram(
    "seedbed_events_batch_bytes",
    "Compressed bytes of one batch.",
    buckets=(256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576),
)
HANDLED = Counter(
    "seedbed_events_handled_total", "Events that a follower handled, by its name.", ["follower"]
)
RETRIED = Counter(
    "seedbed_events_retried_total",
    "Handlings that failed and were tried again, by follower.",
    ["follower"],
)
BURIED = Counter(
    "seedbed_events_dead_letters_total",
    "Events that became dead letters, by follower.",
    ["follower"],
)
MISSED = Counter(
    "seedbed_events_missed_batches_total",
    "Batches that were gone before a follower got them, by priority.",
    ["priority"],
)
