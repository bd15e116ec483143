"""The workflow engine: graph, journal records, state, decisions, ownership of partitions."""
