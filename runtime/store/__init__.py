"""The Store: where the truth lives. SQLite when embedded, PostgreSQL in a cluster.

`port` says what a store does; `sql` does it on both through SQLAlchemy; `migrations` is the schema.
"""
