"""The Coordinator: leases, election, registry, live settings. In process embedded, etcd in a cluster."""
