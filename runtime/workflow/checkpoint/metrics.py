"""What is measured of checkpoints, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

TAKEN = Counter("seedbed_checkpoints_total", "Checkpoints written, by kind.", ["kind"])
FAILED = Counter("seedbed_checkpoint_failures_total", "Checkpoints that could not be written.")
REMOVED = Counter("seedbed_checkpoints_removed_total", "Checkpoints removed after their time.")
FORGOTTEN = Counter("seedbed_runs_forgotten_total", "Runs removed with all they held.")
STORED = Counter("seedbed_checkpoint_stored_bytes_total", "Bytes of checkpoints written.")
CONTENT = Counter(
    "seedbed_checkpoint_content_bytes_total", "Bytes of the states before compression."
)
PAUSE = Histogram(
    "seedbed_checkpoint_pause_seconds",
    "Time that a partition's turn stands still for one checkpoint.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
SECONDS = Histogram(
    "seedbed_checkpoint_seconds",
    "Time to write one checkpoint, beside the turns.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0),
)
