"""What can go wrong while a cluster is brought up; the command prints the message alone."""


class ClusterError(RuntimeError):
    """A cluster cannot be brought up, changed or ended; the message says what to do."""
