"""The tables, the same on SQLite and PostgreSQL. A change here needs a revision in `migrations`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from seedbed.runtime.store.vectors import EMBEDDING

metadata = MetaData()

# Who may write to a partition: the largest fencing token that claimed it.
partitions = Table(
    "partitions",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("token", BigInteger, nullable=False),
)

# `position` gives the order of arrival, which no clock can turn around.
runs = Table(
    "runs",
    metadata,
    Column(
        "position",
        BigInteger().with_variant(Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
    ),
    Column("run", Text, nullable=False, unique=True),
    Column("partition", Integer, nullable=False),
    Column("namespace", Text, nullable=False),
    Column("workflow", Text, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("summary", LargeBinary, nullable=False),
    Column("finished", Boolean, nullable=False),
)
_unfinished = runs.c.finished == false()
Index(
    "runs_unfinished",
    runs.c.partition,
    runs.c.position,
    sqlite_where=_unfinished,
    postgresql_where=_unfinished,
)
Index("runs_by_namespace", runs.c.namespace, runs.c.workflow, runs.c.position)

journal = Table(
    "journal",
    metadata,
    Column("run", Text, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("records", LargeBinary, nullable=False),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("run", Text, primary_key=True),
    Column("seq", Integer, nullable=False),
    Column("records", LargeBinary, nullable=False),
)

# Values that are too large to stand in a journal, by content hash; runs may share one.
large_values = Table(
    "large_values",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

# Which run needs which large value; one without a user is removed with its last run.
value_uses = Table(
    "value_uses",
    metadata,
    Column("run", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
)
Index("value_uses_by_digest", value_uses.c.digest)

# A run's state at one moment, compressed and encrypted. `base` is the number of the checkpoint that
# it is a delta of, 0 for a full one; `depth` how many deltas lead back to a full one. The bytes stand
# in `data`, or under `location` in the archive.
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("run", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("partition", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("cause", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("ended", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("base", Integer, nullable=False),
    Column("depth", Integer, nullable=False),
    Column("content_bytes", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("compression_ratio", Double, nullable=False),
    Column("key", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
)
Index("checkpoints_expiring", checkpoints.c.partition, checkpoints.c.expires_at)

# Documents with steps that users pushed, by content hash. A namespace sees its own only.
plans = Table(
    "plans",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("pushed_at", Double, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

# What model calls have cost, in nano-dollars: who may spend from it is one account. `refused_under`
# is the amount never to be passed under which a call was last refused.
accounts = Table(
    "accounts",
    metadata,
    Column("account", Text, primary_key=True),
    Column("spent", BigInteger, nullable=False),
    Column("refused_under", BigInteger, nullable=False),
)

# Money that a gateway holds for calls under way. After `until` it is nobody's any more.
advances = Table(
    "advances",
    metadata,
    Column("account", Text, primary_key=True),
    Column("holder", Text, primary_key=True),
    Column("amount", BigInteger, nullable=False),
    Column("until", Double, nullable=False),
)
Index("advances_by_holder", advances.c.holder)

# Every model call that cost something, or might have.
ledger = Table(
    "ledger",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", Double, nullable=False),
    Column("day", Text, nullable=False),
    Column("namespace", Text, nullable=False),
    Column("workflow", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("nanos", BigInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("prices", Text, nullable=False),
)
Index("ledger_by_namespace", ledger.c.namespace, ledger.c.at)
Index("ledger_by_time", ledger.c.at)

# What such calls cost in days gone by, once they are forgotten one by one.
spent_days = Table(
    "spent_days",
    metadata,
    Column("day", Text, primary_key=True),
    Column("namespace", Text, primary_key=True),
    Column("workflow", Text, primary_key=True),
    Column("agent", Text, primary_key=True),
    Column("user", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("nanos", BigInteger, nullable=False),
)

# How often a model's answers to one class of tasks were good, by how hard the tasks were.
outcomes = Table(
    "outcomes",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("task", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("hardness", Integer, primary_key=True, autoincrement=False),
    Column("asked", Double, nullable=False),
    Column("good", Double, nullable=False),
)

# Single answers that somebody has judged, with the marks of what was asked: routing is fitted to them.
judged_answers = Table(
    "judged_answers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", Double, nullable=False),
    Column("namespace", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("good", Double, nullable=False),
    Column("marks", LargeBinary, nullable=False),
)
Index("judged_answers_by_time", judged_answers.c.at)

# What goals were taken apart into, by namespace and content hash.
goal_trees = Table(
    "goal_trees",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("made_at", Double, nullable=False),
    Column("goal", Text, nullable=False),
    Column("tasks", Integer, nullable=False),
    Column("depth", Integer, nullable=False),
    Column("document", LargeBinary, nullable=False),
)

# Answers of models that may be given again. Where PostgreSQL has no pgvector, `embedding` is bytes.
cached_answers = Table(
    "cached_answers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("prompt_hash", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("cost_nanos", BigInteger, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("hit_count", Integer, nullable=False),
    Column("tags", Text, nullable=False),
    Column("embedding", EMBEDDING),
    Column("packed", LargeBinary, nullable=False),
    Column("learnt", LargeBinary, nullable=False),
    UniqueConstraint("namespace", "model", "prompt_hash", name="cached_answers_by_prompt"),
)
Index("cached_answers_newest", cached_answers.c.namespace, cached_answers.c.created_at)
Index("cached_answers_by_scope", cached_answers.c.namespace, cached_answers.c.scope)
Index("cached_answers_by_hash", cached_answers.c.prompt_hash)
Index("cached_answers_expiring", cached_answers.c.expires_at)

# What the cache has counted, in sums by namespace and day.
cache_counts = Table(
    "cache_counts",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("day", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("amount", Double, nullable=False),
)

# Files of batches. Those that a batch has written have no chunks: they are made from its lines.
batch_files = Table(
    "batch_files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("batch", Text, nullable=False),
)
Index("batch_files_newest", batch_files.c.namespace, batch_files.c.created_at, batch_files.c.id)
Index("batch_files_by_batch", batch_files.c.batch, batch_files.c.created_at)

# What is in them. Chunks without a file are of an upload that broke off, or is under way.
batch_chunks = Table(
    "batch_chunks",
    metadata,
    Column("file", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
    Column("written_at", Double, nullable=False),
)

# Batches of offline work, with counts and sums of their lines that are done.
batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("workflow", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("input_file", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("in_progress_at", Double),
    Column("finalizing_at", Double),
    Column("cancelling_at", Double),
    Column("ended_at", Double),
    Column("errors", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("notes", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("by_provider", Integer, nullable=False),
    Column("by_gateway", Integer, nullable=False),
    Column("by_cache", Integer, nullable=False),
    Column("by_equal", Integer, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("nanos", BigInteger, nullable=False),
    Column("saved", BigInteger, nullable=False),
)
Index("batches_newest", batches.c.namespace, batches.c.created_at, batches.c.id)
Index("batches_by_input_file", batches.c.input_file)
Index("batches_by_status", batches.c.status, batches.c.created_at)

# The requests of a batch by their line, and their answers.
batch_lines = Table(
    "batch_lines",
    metadata,
    Column("batch", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("custom_id", Text, nullable=False),
    Column("same_as", Integer),
    Column("body", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("part", Text, nullable=False),
    Column("way", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("nanos", BigInteger, nullable=False),
    Column("saved", BigInteger, nullable=False),
)
Index("batch_lines_by_state", batch_lines.c.batch, batch_lines.c.state, batch_lines.c.number)
Index("batch_lines_equal", batch_lines.c.batch, batch_lines.c.same_as)

# Lines that a provider works through as a batch of its own; written before it is told of them.
batch_parts = Table(
    "batch_parts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("batch", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("provider_file", Text, nullable=False),
    Column("provider_batch", Text, nullable=False),
    Column("reserved", BigInteger, nullable=False),
)
Index("batch_parts_by_batch", batch_parts.c.batch, batch_parts.c.state)


def columns_of(row: Any) -> dict[str, Any]:
    """The fields of a row object, a dataclass with slots, by the names of its table's columns."""
    return {name: getattr(row, name) for name in type(row).__slots__}
